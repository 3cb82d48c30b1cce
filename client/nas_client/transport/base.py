"""Calls to one server, whichever wire they take: deadlines, what is sent again, the admin key."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple, TypeVar

import tenacity
from nas_ensembles import admin_key
from numpy.typing import NDArray
from tritonclient.utils import np_to_triton_dtype

from ..errors import ServerBusy, ServerLost, ServerNotReady, ServerTimeout, ServerUnavailable, SharedMemoryInUse
from .address import Address
from .credentials import Credentials
from .translate import TRANSLATED, translate

_FIRST_PAUSE_S = 0.2  # at most, before a call is made again; doubled each time
_LONGEST_PAUSE_S = 4.0
_IN_USE_PAUSE_S = 0.005  # before a region is given back again
_LOST_TWICE = 2  # a call that was under way when the server ended, each time, is not made a third time
_LEAST_S = 0.001  # of a deadline that has passed: no client library takes zero or less
_Answer = TypeVar("_Answer")


class SharedTensor(NamedTuple):
    """An input that lies in a registered region of shared memory, at its beginning."""

    region: str
    shape: tuple[int, ...]
    datatype: str
    byte_size: int


class Transport(ABC):
    """Calls to one server. Safe to use from several threads.

    What the server could not take, or a cut connection, is sent again after a random pause that grows, as long as the
    deadline allows: detecting twice does no harm. One that says it starts is waited for until then, unless there are to
    be no retries; one that never answered is not.

    Every call raises a `ClientError`: `ServerUnavailable` if nobody answers, `ModelUnavailable` if there is no such
    model, `AdminKeyMissing` if the API is closed.

    Args:
        address: of the server.
        timeout_s: for each call, with all that is sent again.
        retries: of each call.
        credentials: default is those of the environment.

    Attributes:
        retried: what was sent again, so far.
    """

    _library: ClassVar[Any]  # tritonclient's module for this wire
    _admin_header: ClassVar[str]

    def __init__(
        self, address: Address, timeout_s: float, retries: int = 0, credentials: Credentials | None = None
    ) -> None:
        self.address = address
        self.credentials = Credentials.of_environment() if credentials is None else credentials
        self.retried = 0
        self._timeout_s = timeout_s
        self._retries = retries
        self._met = False  # it has answered
        self._lock = threading.Lock()
        self._key: dict[str, str] | None = None  # not looked for yet

    def infer(
        self, model: str, inputs: Mapping[str, NDArray[Any] | SharedTensor], outputs: tuple[str, ...]
    ) -> dict[str, NDArray[Any]]:
        """Run a model.

        Args:
            model: its name.
            inputs: by name, batch dimension first; object arrays of bytes for BYTES; or where they lie already.
            outputs: names.

        Raises:
            ImageRefused: if the server cannot use a picture or its thresholds.
            RequestInvalid: if the model takes no such inputs, or gives no such outputs.
        """
        tensors = [self._tensor(name, value) for name, value in inputs.items()]
        wanted = [self._library.InferRequestedOutput(name) for name in outputs]
        result = self._call(lambda seconds: self._infer(model, tensors, wanted, seconds))
        return {name: result.as_numpy(name) for name in outputs}

    @abstractmethod
    def model_config(self, model: str, version: str = "") -> dict[str, Any]:
        """Config of a model in its JSON form."""

    @abstractmethod
    def versions(self, model: str) -> list[str]:
        """Of a model, those that are served."""

    @abstractmethod
    def index(self) -> list[dict[str, str]]:
        """Name, version, state and reason of every model in the server's repository."""

    @abstractmethod
    def statistics(self, model: str) -> dict[str, Any]:
        """Counts and nanoseconds of a model since the server started, as Triton gives them."""

    @abstractmethod
    def server_version(self) -> str:
        """Of Triton, e.g. 2.51.0."""

    @abstractmethod
    def register(self, region: str, key: str, byte_size: int) -> None:
        """Let the server read a region of system shared memory; it may not see it or not be allowed to."""

    def unregister(self, region: str, wait_s: float = 2.0) -> None:
        """Undo `register`; a server that is gone is not waited for.

        Args:
            region: its name.
            wait_s: for requests that read it; Triton lets go of a region some time after it has answered.

        Raises:
            SharedMemoryInUse: if one still does.
        """
        again = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(SharedMemoryInUse),
            stop=tenacity.stop_after_delay(wait_s),
            wait=tenacity.wait_exponential(multiplier=_IN_USE_PAUSE_S, max=_FIRST_PAUSE_S),
            reraise=True,
        )
        again(lambda: self._once(lambda seconds: self._unregister(region, seconds), self._timeout_s))

    @abstractmethod
    def registered(self) -> list[str]:
        """Names of the regions that are registered, by whomever."""

    @abstractmethod
    def close(self) -> None:
        """Close the connections."""

    @abstractmethod
    def _infer(self, model: str, tensors: list[Any], wanted: list[Any], seconds: float) -> Any:
        """The library's result of one inference, within so many seconds."""

    @abstractmethod
    def _unregister(self, region: str, seconds: float) -> None:
        """Ask for it once, within so many seconds."""

    def _tensor(self, name: str, value: NDArray[Any] | SharedTensor) -> Any:
        if isinstance(value, SharedTensor):
            tensor = self._library.InferInput(name, list(value.shape), value.datatype)
            tensor.set_shared_memory(value.region, value.byte_size)
        else:
            tensor = self._library.InferInput(name, list(value.shape), np_to_triton_dtype(value.dtype))
            tensor.set_data_from_numpy(value)
        return tensor

    def _admin_headers(self) -> dict[str, str]:
        """What opens the server's administrative APIs, if its key can be found: see `admin_key`."""
        if self._key is None:
            key = admin_key.find(self.address.local_port)
            self._key = {self._admin_header: key} if key else {}
        return self._key

    def _call(self, call: Callable[[float], _Answer]) -> _Answer:
        """Make a call, again if that may help; it is given the seconds that are left of the deadline."""
        deadline = time.monotonic() + self._timeout_s
        again = tenacity.Retrying(
            retry=tenacity.retry_if_exception(self._may_help()),
            stop=self._enough(),
            wait=tenacity.wait_random_exponential(multiplier=_FIRST_PAUSE_S, max=_LONGEST_PAUSE_S),
            before_sleep=self._count,
            reraise=True,
        )
        return again(lambda: self._once(call, max(deadline - time.monotonic(), _LEAST_S)))

    def _once(self, call: Callable[[float], _Answer], seconds: float) -> _Answer:
        try:
            answer = call(seconds)
        except TRANSLATED as error:
            raise translate(error, self.address, self._timeout_s) from error
        self._met = True
        return answer

    def _may_help(self) -> Callable[[BaseException], bool]:
        """Whether to send a call again: the server is there, or was, and this is not what ends it."""
        lost = 0

        def decide(error: BaseException) -> bool:
            nonlocal lost
            lost += isinstance(error, ServerLost)
            if isinstance(error, ServerBusy | ServerNotReady):
                return lost <= _LOST_TWICE
            return isinstance(error, ServerUnavailable) and not isinstance(error, ServerTimeout) and self._met

        return decide

    def _enough(self) -> Callable[[tenacity.RetryCallState], bool]:
        """Whether time is over, or it was tried as often as it may be; while a server starts, no try counts."""
        tried, late = 0, tenacity.stop_before_delay(self._timeout_s)

        def decide(state: tenacity.RetryCallState) -> bool:
            nonlocal tried
            starts = state.outcome is not None and isinstance(state.outcome.exception(), ServerNotReady)
            tried += not (starts and self._retries)
            return tried > self._retries or late(state)

        return decide

    def _count(self, _: object) -> None:
        with self._lock:
            self.retried += 1
