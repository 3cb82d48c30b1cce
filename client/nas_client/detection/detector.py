"""The client: pictures in, detections out."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TypeVar, cast, overload

import numpy as np
from nas_ensembles import contract
from numpy.typing import NDArray

from ..errors import ClientError, ModelUnavailable, SharedMemoryRefused
from ..transport import Address, Credentials, Protocol, SharedTensor, connect
from ..transport.shared_memory import SharedFrames, SharedMemoryForgotten
from .detections import Detections
from .image_input import ImageInput, Loaded, batches, is_one, load
from .models import Model, Models
from .outcomes import Detected, Failed, Outcome

_Item = TypeVar("_Item")
_Image = TypeVar("_Image", bound=ImageInput)
RETRIES = 10
_OUTPUTS = tuple(tensor.name for tensor in contract.OUTPUTS)


@dataclass(frozen=True)
class _Asked:
    """Thresholds of a request, as in `contract.Thresholds`; what is None is the model's, and the server checks them."""

    score: float | None
    iou: float | None
    max_detections: int | None

    def tensors(self, batch: int) -> dict[str, NDArray[Any]]:
        """Inputs of those that are given, (batch, 1) each."""
        given = zip(contract.THRESHOLDS, (self.score, self.iou, self.max_detections), strict=True)
        return {tensor.name: tensor.full(batch, value) for tensor, value in given if value is not None}


class Detector:
    """Runs one served model.

    >>> detector = Detector("localhost:8001")
    >>> detector.detect("bus.jpg").names
    ('bus', 'person', 'person', 'person', 'person')

    Args:
        url: host:port of gRPC, or with a scheme: grpc://, grpcs://, http://, https://. Default localhost:8001.
        model: its name; may be left out when the server has one.
        protocol: "grpc" or "http"; default is the scheme's, else gRPC.
        timeout_s: for each request, with its retries.
        retries: of a request that the server could not take, or whose connection was cut; after pauses that grow. A
            server that says it starts is waited for as long as timeout_s allows; with 0 it is not.
        shared_memory: frames travel in system shared memory. None: where the server's address is this machine's and
            it takes them; otherwise they are sent. True: or it is an error.
        credentials: a gateway's token, and certificates; default is those of the environment: NAS_TOKEN,
            NAS_TLS_CLIENT_CERT and NAS_TLS_CLIENT_KEY, NAS_TLS_CA.

    Raises:
        ServerUnavailable, ModelUnavailable: as their names say; nothing is contacted before the first use.
    """

    def __init__(
        self,
        url: str | None = None,
        model: str | None = None,
        *,
        protocol: Protocol | None = None,
        timeout_s: float = 60.0,
        retries: int = RETRIES,
        shared_memory: bool | None = None,
        credentials: Credentials | None = None,
    ) -> None:
        self.transport = connect(Address.parse(url, protocol), timeout_s, retries, credentials)
        self._models = Models(self.transport)
        self._name = model
        self._model: Model | None = None
        self._must_share = shared_memory is True
        shares = self.transport.address.is_this_machine if shared_memory is None else shared_memory
        self._shared = SharedFrames(self.transport) if shares else None
        self._idle_pools: dict[tuple[int, int], list[ThreadPoolExecutor]] = {}  # by process and threads

    @property
    def shares_memory(self) -> bool:
        """Whether frames travel in shared memory, as far as it was tried."""
        return self._shared is not None

    @property
    def model(self) -> Model:
        """The model in use, with its parameters as the server has them."""
        if self._model is None:
            self._model = self._models.only() if self._name is None else self._models.named(self._name)
        return self._model

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names by label."""
        return tuple(self.model.parameters[contract.CLASS_NAMES])

    def models(self) -> list[Model]:
        """Every model in the server's repository, in order of name."""
        return self._models.all()

    def named(self, name: str) -> Model:
        """A model that detects, with its parameters as the server has them.

        Raises:
            ModelUnavailable: if there is none of this name, or it is of another kind; says which there are.
        """
        return self._models.named(name)

    @overload
    def detect(
        self,
        picture: ImageInput,
        *,
        score_threshold: float | None = None,
        iou_threshold: float | None = None,
        max_detections: int | None = None,
    ) -> Detections: ...
    @overload
    def detect(
        self,
        picture: list[ImageInput] | tuple[ImageInput, ...],
        *,
        score_threshold: float | None = None,
        iou_threshold: float | None = None,
        max_detections: int | None = None,
    ) -> list[Detections]: ...
    def detect(
        self,
        picture: ImageInput | list[ImageInput] | tuple[ImageInput, ...],
        *,
        score_threshold: float | None = None,
        iou_threshold: float | None = None,
        max_detections: int | None = None,
    ) -> Detections | list[Detections]:
        """Detect in one picture, or in a list of them sent in batches of the model's size.

        Args:
            picture: path, URL, bytes of an encoded picture, a picture of PIL, or a frame, (H, W, 3) uint8 RGB; or a
                list of these.
            score_threshold: objects must score more; default is the model's, 0.25 unless built otherwise.
            iou_threshold: of two boxes of a class that overlap more, the better stays; likewise, 0.7.
            max_detections: 1 to 300.

        Raises:
            ImageRefused: if a picture cannot be decoded or a threshold is out of range; says which.
            OSError: if a file cannot be read.
        """
        asked = _Asked(score_threshold, iou_threshold, max_detections)
        if is_one(picture):
            return self._detect([load(cast(ImageInput, picture))], asked)[0]
        pictures = cast(Sequence[ImageInput], picture)
        in_batches = batches([load(one) for one in pictures], max(1, self.model.max_batch_size))
        return [detections for batch in in_batches for detections in self._detect(batch, asked)]

    @overload
    def detect_many(
        self,
        items: Iterable[_Image],
        read: None = None,
        *,
        in_flight: int = 4,
        score_threshold: float | None = None,
        iou_threshold: float | None = None,
        max_detections: int | None = None,
    ) -> Generator[Outcome[_Image], None, None]: ...
    @overload
    def detect_many(
        self,
        items: Iterable[_Item],
        read: Callable[[_Item], ImageInput],
        *,
        in_flight: int = 4,
        score_threshold: float | None = None,
        iou_threshold: float | None = None,
        max_detections: int | None = None,
    ) -> Generator[Outcome[_Item], None, None]: ...
    def detect_many(
        self,
        items: Iterable[_Item],
        read: Callable[[_Item], ImageInput] | None = None,
        *,
        in_flight: int = 4,
        score_threshold: float | None = None,
        iou_threshold: float | None = None,
        max_detections: int | None = None,
    ) -> Generator[Outcome[_Item], None, None]:
        """Detect in a stream of pictures, several requests in flight, outcomes in order.

        A picture that fails is `Failed`, and the others go on.

        Args:
            items: pictures, or anything `read` makes a picture of; read in the threads that send.
            read: item -> picture; may raise OSError or ValueError.
            in_flight: requests at a time; the server batches them.
            score_threshold: as in `detect`.
            iou_threshold: as in `detect`.
            max_detections: as in `detect`.

        Raises:
            ServerUnavailable, ModelUnavailable: before the first outcome.
        """
        asked = _Asked(score_threshold, iou_threshold, max_detections)
        _ = self.model  # one clear error instead of one per picture

        def run(item: _Item) -> Outcome[_Item]:
            try:
                image = load(cast(ImageInput, item) if read is None else read(item))
                return Detected(item, image, self._detect([image], asked)[0])
            except (ClientError, OSError, ValueError) as error:
                return Failed(item, error)

        pending: deque[Future[Outcome[_Item]]] = deque()
        pool = self._pool(in_flight)
        try:
            for item in items:
                pending.append(pool.submit(run, item))
                while pending and (len(pending) > in_flight or pending[0].done()):
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
            wait(pending)
            self._idle_pools.setdefault((os.getpid(), in_flight), []).append(pool)

    def _pool(self, threads: int) -> ThreadPoolExecutor:
        """One that nobody uses now: over HTTP each thread has a connection of its own, which is worth keeping."""
        try:
            return self._idle_pools[os.getpid(), threads].pop()  # a child has none of its parent's threads
        except (KeyError, IndexError):
            return ThreadPoolExecutor(threads, thread_name_prefix="nas-client")

    def close(self) -> None:
        """Release shared memory and close the connections."""
        for (process, _), pools in list(self._idle_pools.items()):
            while process == os.getpid() and pools:
                pools.pop().shutdown()
        if self._shared is not None:
            self._shared.close()
        self.transport.close()

    def __enter__(self) -> Detector:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _detect(self, batch: list[Loaded], asked: _Asked) -> list[Detections]:
        """One request: encoded pictures, or frames of one shape."""
        name = self.model.name
        if isinstance(batch[0], bytes):
            encoded = np.array(batch, dtype=object).reshape(-1, 1)
            return self._infer(name, contract.IMAGE.name, encoded, asked)
        frames = np.ascontiguousarray(batch[0])[None] if len(batch) == 1 else np.stack(batch)
        try:
            return self._detect_frames(contract.frames_name(name), frames, asked)
        except ModelUnavailable as error:
            raise ModelUnavailable(
                f"{name} on {self.transport.address} takes no frames: {error}. Load {contract.frames_name(name)} too, "
                "or build the model again with this nas-build; encoded pictures can be sent meanwhile."
            ) from error

    def _detect_frames(self, name: str, frames: NDArray[np.uint8], asked: _Asked) -> list[Detections]:
        while (regions := self._shared) is not None:
            try:
                with regions.hold(frames) as shared:
                    return self._infer(name, contract.FRAME.name, shared, asked)
            except SharedMemoryForgotten:
                continue
            except SharedMemoryRefused:
                if self._must_share:
                    raise
                self._shared = None  # from now on they are sent
        return self._infer(name, contract.FRAME.name, frames, asked)

    def _infer(
        self, model: str, input_name: str, pictures: NDArray[Any] | SharedTensor, asked: _Asked
    ) -> list[Detections]:
        outputs = self.transport.infer(model, {input_name: pictures, **asked.tensors(pictures.shape[0])}, _OUTPUTS)
        names = self.class_names
        results = []
        for i, n in enumerate(outputs[contract.NUM_DETECTIONS.name][:, 0]):
            labels = outputs[contract.LABELS.name][i, :n].copy()
            results.append(
                Detections(
                    boxes_xyxy=outputs[contract.BOXES.name][i, :n].copy(),
                    scores=outputs[contract.SCORES.name][i, :n].copy(),
                    labels=labels,
                    names=tuple(names[label] for label in labels),
                )
            )
        return results
