"""What Triton's clients and their sockets raise, as errors of this package."""

from __future__ import annotations

import re

from geventhttpclient.response import HTTPParseError
from nas_ensembles import admin_key
from tritonclient.utils import InferenceServerException

from ..errors import (
    AdminKeyMissing,
    ClientError,
    ImageRefused,
    ModelUnavailable,
    RequestInvalid,
    ServerBusy,
    ServerLost,
    ServerNotReady,
    ServerTimeout,
    ServerUnavailable,
    SharedMemoryInUse,
    SharedMemoryRefused,
    Unauthorized,
)
from .address import PROTOCOL_NAMES, Address, Protocol
from .credentials import TOKEN

TRANSLATED = (InferenceServerException, OSError, HTTPParseError)  # the HTTP client lets those of the socket through
_UNAUTHORIZED = ("StatusCode.UNAUTHENTICATED", "401")
_INVALID = ("StatusCode.INVALID_ARGUMENT", "400")
# So begins what preprocessing says of a picture, and postprocessing of a picture's thresholds.
_OF_A_PICTURE = re.compile(r"image\[\d+\] of \d+: ")
_PREAMBLES = re.compile(r"^(in ensemble '[^']*', |\[request id: <id_unknown>\] )+")
# The pool is of Python models, in the server's /dev/shm: it has filled up.
_BUSY = re.compile("maximum queue size|overload|reset reason: overflow|increase the shared memory pool")
_LOST = re.compile("reset reason: (connection termination|remote reset)")
_NOT_READY = re.compile("[Ss]tub process|server is not ready|Server is stopping|upstream connect error")
_LATE = re.compile("timed out|timeout", re.IGNORECASE)
_OTHER: dict[Protocol, Protocol] = {"grpc": "http", "http": "grpc"}


def translate(error: Exception, address: Address, timeout_s: float) -> ClientError:
    """The error of this package that one of `TRANSLATED` means.

    Args:
        error: as it was raised.
        address: of the server that was called.
        timeout_s: of the call, for the message.
    """
    if isinstance(error, InferenceServerException):
        return _of_triton(str(error.status() or ""), str(error.message()), address, timeout_s)
    if isinstance(error, TimeoutError):
        return _late(address, timeout_s)
    if isinstance(error, OSError):
        return _unavailable(address, error.strerror or str(error))
    return _unavailable(address, "what answers does not speak HTTP")


def _of_triton(status: str, message: str, address: Address, timeout_s: float) -> ClientError:
    """Of what the server answered, or its client library said: the first that fits."""
    cause = _PREAMBLES.sub("", message)
    if status in _UNAUTHORIZED:
        return Unauthorized(
            f"{address} does not know you: {cause.strip() or 'it gives no reason'}. Set {TOKEN} to your token."
        )
    if status in _INVALID and _OF_A_PICTURE.match(cause):
        return ImageRefused(cause)
    if "unknown model" in message or ("not found" in message and "model" in message.lower()):
        return ModelUnavailable(message)
    if _BUSY.search(message):
        return ServerBusy(f"{address} is overloaded: {cause}. Try later, or send fewer at once.")
    if "shared memory region" in message and "currently in use" in message:
        return SharedMemoryInUse(f"{address}: {cause}")
    if "shared memory region" in message:
        return SharedMemoryRefused(f"{address}: {cause}")
    if "restricted, expecting header" in message:
        return AdminKeyMissing(
            f"{address} keeps this API to clients with its admin key: {admin_key.VARIABLE}, or that which "
            "nas-serve leaves for its own user on this machine. Detecting needs none; name the model with --model."
        )
    lost = _LOST.search(message)
    if lost or _NOT_READY.search(message):
        return (ServerLost if lost else ServerNotReady)(
            f"{address} is there, but its Triton is not ready ({message.splitlines()[0]}): it starts, or is "
            "started again after a failure. Try again in some seconds; if that does not help, see its log."
        )
    if "DEADLINE_EXCEEDED" in status or _LATE.search(message):
        return _late(address, timeout_s)
    if "UNAVAILABLE" in status and "Request for unknown" not in message:
        return _unavailable(address, message.splitlines()[0])
    if status in _INVALID:
        return RequestInvalid(f"{address} refuses the request: {cause}")
    return ClientError(f"{address}: {message}")


def _late(address: Address, timeout_s: float) -> ServerTimeout:
    return ServerTimeout(f"{address}: no answer within {timeout_s:g} s (timeout_s).")


def _unavailable(address: Address, reason: str) -> ServerUnavailable:
    other = _OTHER[address.protocol]
    return ServerUnavailable(
        f"no Triton server answers on {address}: {reason}. Start one with `nas-serve` or "
        f"`docker compose up`, or give its address with --url; if this is its {PROTOCOL_NAMES[other]} port, "
        f"add --protocol {other}."
    )
