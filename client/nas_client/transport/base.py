"""One small face for Triton's two clients, and one place that turns their errors into ours."""

from __future__ import annotations

import contextlib
import ipaddress
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, NamedTuple

import tenacity
import tritonclient.grpc
import tritonclient.http
from geventhttpclient.response import HTTPParseError
from nas_ensembles import admin_key
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from ..errors import (
    AdminKeyMissing,
    ClientError,
    ImageRefused,
    ModelUnavailable,
    ServerBusy,
    ServerLost,
    ServerNotReady,
    ServerTimeout,
    ServerUnavailable,
    SharedMemoryRefused,
)

Protocol = Literal["grpc", "http"]
LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
DEFAULT_URLS: dict[Protocol, str] = {"grpc": "localhost:8001", "http": "localhost:8000"}
_FIRST_PAUSE_S = 0.2  # at most, before a call is made again; doubled each time
_LONGEST_PAUSE_S = 4.0
_LOST_TWICE = 2  # a call that was under way when the server ended, each time, is not made a third time
_NAMES = {"grpc": "gRPC", "http": "HTTP"}
_SCHEMES: dict[str, tuple[Protocol, bool]] = {
    "grpc": ("grpc", False),
    "grpcs": ("grpc", True),
    "http": ("http", False),
    "https": ("http", True),
}
# A name, an IPv4 address or an IPv6 address in brackets; a port; for HTTP the path before Triton's own.
_HOST_PORT = re.compile(
    r"(?P<host>[\w.-]+|\[(?P<ipv6>[^\[\]/]+)\])(:(?P<port>[0-9]{1,5}))?(?P<path>/[A-Za-z0-9._~%/-]*)?"
)
_LAST_PORT = 65535


class Address(NamedTuple):
    """Where the server is. `tls` for https:// and grpcs://."""

    protocol: Protocol
    host_port: str
    tls: bool = False

    @classmethod
    def parse(cls, url: str | None, protocol: Protocol | None) -> Address:
        """`localhost:8001`, `grpc://...`, `grpcs://...`, `http://...` or `https://...`; gRPC without a scheme.

        Raises:
            ValueError: if the scheme is another or not the protocol's, or what follows is no host and port.
        """
        if url is None:
            return cls(protocol or "grpc", DEFAULT_URLS[protocol or "grpc"])
        scheme, separator, rest = url.partition("://")
        if not separator:
            return cls(protocol or "grpc", _host_port(url, url, protocol or "grpc"))
        if scheme not in _SCHEMES:
            raise ValueError(f"{url}: unknown scheme {scheme!r}; expected {', '.join(_SCHEMES)}")
        meant, tls = _SCHEMES[scheme]
        if protocol not in (None, meant):
            raise ValueError(f"{url}: the scheme means {_NAMES[meant]}, but the protocol given is {protocol}")
        return cls(meant, _host_port(url, rest, meant), tls)

    def __str__(self) -> str:
        return f"{self.host_port} ({_NAMES[self.protocol]})"


class SharedTensor(NamedTuple):
    """An input that lies in a registered region of shared memory, at its beginning."""

    region: str
    shape: tuple[int, ...]
    datatype: str
    byte_size: int


class _Left(NamedTuple):
    """What is left of a call's deadline, as arguments; HTTP clients have theirs from the beginning."""

    protocol: Protocol
    seconds: float

    @property
    def grpc(self) -> dict[str, Any]:
        return {"client_timeout": self.seconds} if self.protocol == "grpc" else {}

    @property
    def json(self) -> dict[str, Any]:
        """Answers as plain objects too."""
        return {"as_json": True, **self.grpc} if self.protocol == "grpc" else {}


class Transport:
    """Calls to one server. Safe to use from several threads.

    What the server could not take, or a cut connection, is sent again after a random pause that grows, as long as the
    deadline allows: detecting twice does no harm. A server that never answered is not waited for.

    Args:
        address: of the server.
        timeout_s: for each call, with all that is sent again.
        retries: of each call.

    Attributes:
        retried: what was sent again, so far.
    """

    def __init__(self, address: Address, timeout_s: float, retries: int = 0) -> None:
        self.address = address
        self.retried = 0
        self._timeout_s = timeout_s
        self._retries = retries
        self._met = False  # it has answered
        self._lock = threading.Lock()
        self._local = threading.local()
        self._clients: list[Any] = []
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
            ImageRefused: if the server calls the request invalid.
            ModelUnavailable: if it has no such model.
            ServerUnavailable: if it does not answer.
        """
        library = tritonclient.grpc if self.address.protocol == "grpc" else tritonclient.http
        tensors = []
        for name, value in inputs.items():
            datatype = value.datatype if isinstance(value, SharedTensor) else np_to_triton_dtype(value.dtype)
            tensor = library.InferInput(name, list(value.shape), datatype)
            if isinstance(value, SharedTensor):
                tensor.set_shared_memory(value.region, value.byte_size)
            else:
                tensor.set_data_from_numpy(value)
            tensors.append(tensor)
        wanted = [library.InferRequestedOutput(name) for name in outputs]

        def ask(client: Any, left: _Left) -> Any:
            return client.infer(model, tensors, outputs=wanted, timeout=int(left.seconds * 1e6), **left.grpc)

        result = self._call(ask)
        return {name: result.as_numpy(name) for name in outputs}

    def model_config(self, model: str, version: str = "") -> dict[str, Any]:
        """Config of a model in its JSON form."""
        if self.address.protocol == "grpc":
            return dict(
                self._call(lambda c, left: c.get_model_config(model, version, as_json=True, **left.grpc))["config"]
            )
        return dict(self._call(lambda c, _: c.get_model_config(model, version)))

    def versions(self, model: str) -> list[str]:
        """Of a model, those that are served."""
        return list(self._call(lambda c, left: c.get_model_metadata(model, **left.json))["versions"])

    def index(self) -> list[dict[str, str]]:
        """Name, version, state and reason of every model in the server's repository."""
        answer = self._call(lambda c, left: c.get_model_repository_index(**left.json, **self._admin()))
        return list(answer.get("models", []) if self.address.protocol == "grpc" else answer)

    def statistics(self, model: str) -> dict[str, Any]:
        """Counts and nanoseconds of a model since the server started, as Triton gives them."""
        answer = self._call(lambda c, left: c.get_inference_statistics(model, **left.json, **self._admin()))
        return dict(answer["model_stats"][0])

    def server_version(self) -> str:
        """Of Triton, e.g. 2.51.0."""
        return str(self._call(lambda c, left: c.get_server_metadata(**left.json))["version"])

    def register(self, region: str, key: str, byte_size: int) -> None:
        """Let the server read a region of system shared memory; it may not see it or not be allowed to."""
        self._call(
            lambda c, left: c.register_system_shared_memory(region, key, byte_size, **left.grpc, **self._admin())
        )

    def unregister(self, region: str) -> None:
        """Undo `register`; tried once."""
        self._once(lambda c, left: c.unregister_system_shared_memory(region, **left.grpc, **self._admin()))

    def registered(self) -> list[str]:
        """Names of the regions that are registered, by whomever."""
        answer = self._call(lambda c, left: c.get_system_shared_memory_status(**left.json, **self._admin()))
        if self.address.protocol == "grpc":
            return list(answer.get("regions", {}))
        return [region["name"] for region in answer]

    def close(self) -> None:
        """Close the connections."""
        clients, self._clients = self._clients, []
        for client in clients:
            client.close()

    def _call(self, call: Callable[[Any, _Left], Any]) -> Any:
        """Make a call, again if that may help: with the client, and what is left of the deadline."""
        deadline = time.monotonic() + self._timeout_s
        again = tenacity.Retrying(
            retry=tenacity.retry_if_exception(self._may_help()),
            stop=tenacity.stop_after_attempt(self._retries + 1) | tenacity.stop_before_delay(self._timeout_s),
            wait=tenacity.wait_random_exponential(multiplier=_FIRST_PAUSE_S, max=_LONGEST_PAUSE_S),
            before_sleep=self._count,
            reraise=True,
        )
        return again(self._once, call, deadline)

    def _once(self, call: Callable[[Any, _Left], Any], deadline: float | None = None) -> Any:
        seconds = self._timeout_s if deadline is None else max(deadline - time.monotonic(), 0.001)
        with self._errors():
            answer = call(self._client(), _Left(self.address.protocol, seconds))
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

    def _count(self, _: object) -> None:
        with self._lock:
            self.retried += 1

    def _admin(self) -> dict[str, Any]:
        """Key of a call to an administrative API."""
        if self._key is None:
            self._key = admin_headers(self.address)
        return {"headers": self._key} if self._key else {}

    def _client(self) -> Any:
        """The gRPC client is shared; HTTP clients belong to one thread each."""
        if self.address.protocol == "grpc":
            if not self._clients:
                self._clients.append(
                    tritonclient.grpc.InferenceServerClient(self.address.host_port, ssl=self.address.tls)
                )
            return self._clients[0]
        if getattr(self._local, "client", None) is None:
            self._local.client = tritonclient.http.InferenceServerClient(
                self.address.host_port,
                ssl=self.address.tls,
                connection_timeout=self._timeout_s,
                network_timeout=self._timeout_s,
            )
            self._clients.append(self._local.client)
        return self._local.client

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except InferenceServerException as error:
            raise self._translate(error) from error
        except TimeoutError as error:
            raise ServerTimeout(f"{self.address}: no answer within {self._timeout_s:g} s (timeout_s).") from error
        except OSError as error:  # the HTTP client lets those of the socket through
            raise self._unavailable(error.strerror or str(error)) from error
        except HTTPParseError as error:
            raise self._unavailable("what answers does not speak HTTP") from error

    def _translate(self, error: InferenceServerException) -> ClientError:
        status, message = str(error.status() or ""), str(error.message())
        if "unknown model" in message or "not found" in message and "model" in message.lower():
            return ModelUnavailable(message)
        if "shared memory region" in message:
            return SharedMemoryRefused(f"{self.address}: {_cause(message)}")
        if "restricted, expecting header" in message:
            return AdminKeyMissing(
                f"{self.address} keeps this API to clients with its admin key: {admin_key.VARIABLE}, or that which "
                "nas-serve leaves for its own user on this machine. Detecting needs none; name the model with --model."
            )
        if re.search("maximum queue size|overload|reset reason: overflow", message):
            return ServerBusy(f"{self.address} is overloaded: {_cause(message)}. Try later, or send fewer at once.")
        lost = re.search("reset reason: (connection termination|remote reset)", message)
        if lost or re.search("[Ss]tub process|server is not ready|Server is stopping|upstream connect error", message):
            return (ServerLost if lost else ServerNotReady)(
                f"{self.address} is there, but its Triton is not ready ({message.splitlines()[0]}): it starts, or is "
                "started again after a failure. Try again in some seconds; if that does not help, see its log."
            )
        if "DEADLINE_EXCEEDED" in status or re.search("timed out|timeout", message.lower()):
            return ServerTimeout(f"{self.address}: no answer within {self._timeout_s:g} s (timeout_s).")
        if "UNAVAILABLE" in status and "Request for unknown" not in message:
            return self._unavailable(message.splitlines()[0])
        if status in ("StatusCode.INVALID_ARGUMENT", "400"):
            return ImageRefused(_cause(message))
        return ClientError(f"{self.address}: {message}")

    def _unavailable(self, reason: str) -> ServerUnavailable:
        other: Protocol = "http" if self.address.protocol == "grpc" else "grpc"
        return ServerUnavailable(
            f"no Triton server answers on {self.address}: {reason}. Start one with `nas-serve` or "
            f"`docker compose up`, or give its address with --url; if this is its {_NAMES[other]} port, "
            f"add --protocol {other}."
        )


def _host_port(url: str, text: str, protocol: Protocol) -> str:
    """The text without a last slash; checked, as not every client library says what it cannot read."""
    text = text.rstrip("/")
    match = _HOST_PORT.fullmatch(text)
    problem = ""
    if match is None:
        problem = "no host and port in it"
    elif match["port"] and not 1 <= int(match["port"]) <= _LAST_PORT:
        problem = f"port {match['port']} is not from 1 to {_LAST_PORT}"
    elif match["path"] and protocol == "grpc":
        problem = "gRPC takes no path"
    else:
        try:
            if match["ipv6"]:
                ipaddress.IPv6Address(match["ipv6"])
            else:
                match["host"].encode("idna")
        except ValueError as error:
            problem = f"no such host can be: {error}"
    if problem:
        raise ValueError(f"{url!r}: {problem}; expected host:port, as in {DEFAULT_URLS[protocol]} or [::1]:8001")
    return text


def admin_headers(address: Address) -> dict[str, str]:
    """The header that opens a server's administrative APIs, if its key can be found: see `admin_key`."""
    host, _, port = address.host_port.rpartition(":")
    key = admin_key.find(int(port) if host in LOOPBACK and port.isdigit() else None)
    name = admin_key.GRPC_HEADER if address.protocol == "grpc" else admin_key.HTTP_HEADER
    return {name: key} if key else {}


def _cause(message: str) -> str:
    """The composing model's own words, without the preambles of the ensemble and of requests without an id."""
    return re.sub(r"^(in ensemble '[^']*', |\[request id: <id_unknown>\] )+", "", message)
