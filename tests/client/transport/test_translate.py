"""Triton's own words, and those of sockets, as errors of this package."""

from __future__ import annotations

import pytest
from geventhttpclient.response import HTTPParseError
from nas_client import (
    AdminKeyMissing,
    ClientError,
    ImageRefused,
    ModelUnavailable,
    RequestInvalid,
    ServerBusy,
    ServerNotReady,
    ServerTimeout,
    ServerUnavailable,
)
from nas_client.errors import ServerLost, SharedMemoryInUse, SharedMemoryRefused
from nas_client.transport import Address
from nas_client.transport.translate import TRANSLATED, translate
from tritonclient.utils import InferenceServerException

GRPC, HTTP = Address("grpc", "gpu1:8001"), Address("http", "gpu1:8000")
INVALID, NOT_THERE = "StatusCode.INVALID_ARGUMENT", "StatusCode.UNAVAILABLE"
IN_ENSEMBLE = "in ensemble 'yolo_nas_s_int8', "


@pytest.mark.parametrize(
    ("status", "message", "expected"),
    [
        (INVALID, f"{IN_ENSEMBLE}image[0] of 1: zero bytes", ImageRefused),
        ("400", f"{IN_ENSEMBLE}image[2] of 8: iou_threshold must be from 0 to 1, got 2.0", ImageRefused),
        ("400", "[request id: <id_unknown>] in ensemble 'x', image[0] of 1: zero bytes", ImageRefused),
        (INVALID, f"{IN_ENSEMBLE}expected either image or frame", RequestInvalid),
        (INVALID, "unexpected inference input 'x' for model 'yolo_nas_s_int8'", RequestInvalid),
        (INVALID, "inference input 'image' data-type is 'UINT8', but model 'm' expects 'BYTES'", RequestInvalid),
        ("400", "[request id: <id_unknown>] inference request batch-size must be <= 8 for 'm'", RequestInvalid),
        (NOT_THERE, "Request for unknown model: 'nope' is not found", ModelUnavailable),
        ("400", "Request for unknown model: 'nope' is not found", ModelUnavailable),
        ("StatusCode.NOT_FOUND", "Requested model: 'nope' not found", ModelUnavailable),
        (INVALID, "Unable to find shared memory region: 'nas_client_1'", SharedMemoryRefused),
        ("400", "Cannot unregister shared memory region 'a', it is currently in use.", SharedMemoryInUse),
        (NOT_THERE, "This protocol is restricted, expecting header 'admin-key'", AdminKeyMissing),
        (NOT_THERE, "Exceeds maximum queue size", ServerBusy),
        ("503", "upstream overload", ServerBusy),
        ("500", "Failed to increase the shared memory pool size ... the shared memory region size", ServerBusy),
        (NOT_THERE, "upstream connect error or disconnect/reset before headers. reset reason: overflow", ServerBusy),
        (NOT_THERE, "upstream connect error, reset reason: connection termination", ServerLost),
        (NOT_THERE, "upstream connect error, reset reason: connection failure", ServerNotReady),
        ("StatusCode.INTERNAL", "Stub process 'x' is not healthy.", ServerNotReady),
        ("StatusCode.DEADLINE_EXCEEDED", "Deadline Exceeded", ServerTimeout),
        ("504", "upstream request timeout", ServerTimeout),
        (NOT_THERE, "failed to connect to all addresses", ServerUnavailable),
        ("StatusCode.INTERNAL", "engine: Broadcast failed", ClientError),
        (None, "what a client library itself cannot do", ClientError),
    ],
)
def test_what_triton_answers(status: str | None, message: str, expected: type[ClientError]) -> None:
    error = translate(InferenceServerException(msg=message, status=status), GRPC, 5)
    assert type(error) is expected


def test_a_refusal_is_in_the_words_of_the_model() -> None:
    refused = translate(InferenceServerException(f"{IN_ENSEMBLE}image[0] of 1: zero bytes", INVALID), GRPC, 5)
    assert str(refused) == "image[0] of 1: zero bytes" and isinstance(refused, ValueError)
    invalid = translate(InferenceServerException(f"{IN_ENSEMBLE}expected either image or frame", INVALID), GRPC, 5)
    assert str(invalid) == "gpu1:8001 (gRPC) refuses the request: expected either image or frame"


@pytest.mark.parametrize(
    ("error", "expected", "message"),
    [
        (TimeoutError("timed out"), ServerTimeout, "gpu1:8000 (HTTP): no answer within 0.5 s"),
        (ConnectionRefusedError(111, "Connection refused"), ServerUnavailable, "on gpu1:8000 (HTTP): Connection re"),
        (OSError("no route"), ServerUnavailable, "no Triton server answers on gpu1:8000 (HTTP): no route. Start one"),
        (HTTPParseError("x"), ServerUnavailable, "does not speak HTTP"),
    ],
)
def test_what_the_socket_says(error: Exception, expected: type[ClientError], message: str) -> None:
    assert isinstance(error, TRANSLATED)
    translated = translate(error, HTTP, 0.5)
    assert type(translated) is expected and message in str(translated)


@pytest.mark.parametrize(("address", "other"), [(GRPC, "HTTP"), (HTTP, "gRPC")])
def test_the_other_protocols_port_is_guessed(address: Address, other: str) -> None:
    assert f"if this is its {other} port" in str(translate(OSError("x"), address, 5))
