"""What is sent again, how often, and within which deadline: Triton's client libraries are replaced by a script."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from nas_client import ClientError, ImageRefused, ServerBusy, ServerNotReady, ServerTimeout, ServerUnavailable
from nas_client.errors import SharedMemoryInUse
from nas_client.transport import Address, Credentials, SharedTensor, Transport, base, connect
from nas_ensembles import admin_key
from tritonclient.utils import InferenceServerException

UNAVAILABLE = "StatusCode.UNAVAILABLE"
BUSY = InferenceServerException("Exceeds maximum queue size", UNAVAILABLE)
LOST = InferenceServerException("reset reason: connection termination", UNAVAILABLE)
STARTS = InferenceServerException("server is not ready", UNAVAILABLE)
CUT = InferenceServerException("Connection reset by peer", UNAVAILABLE)
LATE = InferenceServerException("Deadline Exceeded", "StatusCode.DEADLINE_EXCEEDED")
BROKEN = InferenceServerException("it broke", "StatusCode.INTERNAL")
IN_USE = InferenceServerException("Cannot unregister shared memory region 'a', it is currently in use.", "400")
REFUSED = InferenceServerException("in ensemble 'm', image[0] of 1: zero bytes", "StatusCode.INVALID_ARGUMENT")


class Library:
    """Stands for tritonclient's InferenceServerClient of either kind; raises what it is told to, then answers."""

    script: list[Exception]
    made: list[Library]
    calls: list[dict[str, Any]]

    def __init__(self, url: str, **options: Any) -> None:
        self.url, self.options, self.closed = url, options, False
        self.made.append(self)

    def get_server_metadata(self, **options: Any) -> dict[str, str]:
        self.calls.append(options)
        if self.script:
            raise self.script.pop(0)
        return {"version": "2.51.0"}

    def get_model_repository_index(self, **options: Any) -> Any:
        self.calls.append(options)
        models = [{"name": "m"}]
        return {"models": models} if "as_json" in options else models

    def unregister_system_shared_memory(self, name: str, **options: Any) -> None:
        self.calls.append(options)
        if self.script:
            raise self.script.pop(0)

    def close(self) -> None:
        self.closed = True


@pytest.fixture(autouse=True)
def library(monkeypatch: pytest.MonkeyPatch) -> type[Library]:
    Library.script, Library.made, Library.calls = [], [], []
    for module in (tritonclient.grpc, tritonclient.http):
        monkeypatch.setattr(module, "InferenceServerClient", Library)
    monkeypatch.setattr(base, "_FIRST_PAUSE_S", 0.0)
    return Library


@pytest.fixture(params=["grpc", "http"])
def transport(request: pytest.FixtureRequest) -> Transport:
    return connect(Address(request.param, "localhost:1"), 5.0, 10)


@pytest.mark.parametrize("script", [[BUSY] * 10, [STARTS] * 30, [LOST, LOST], [LOST, BUSY, LOST, STARTS]])
def test_what_may_help_is_sent_again(script: list[Exception], transport: Transport) -> None:
    Library.script = list(script)
    assert transport.server_version() == "2.51.0"
    assert transport.retried == len(script) and len(Library.calls) == len(script) + 1


@pytest.mark.parametrize(
    ("script", "calls", "expected"),
    [
        ([BUSY] * 11, 11, "overloaded"),  # the last of ten retries
        ([LOST] * 3, 3, "not ready"),  # a third time it may be this request that ends the server
        ([LATE], 1, "no answer within 5 s"),
        ([BROKEN], 1, "it broke"),
        ([REFUSED], 1, "zero bytes"),
        ([CUT], 1, "no Triton server answers"),  # one that never answered is not waited for
    ],
)
def test_what_is_not_sent_again(script: list[Exception], calls: int, expected: str, transport: Transport) -> None:
    Library.script = list(script)
    with pytest.raises(ClientError, match=expected):
        transport.server_version()
    assert len(Library.calls) == calls and transport.retried == calls - 1


def test_a_server_that_answered_before_is_waited_for(transport: Transport) -> None:
    assert transport.server_version()
    Library.script = [CUT, CUT]
    assert transport.server_version() and transport.retried == 2


def test_the_deadline_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "_FIRST_PAUSE_S", 0.2)
    transport = connect(Address("grpc", "localhost:1"), 0.5, 1000)
    Library.script = [STARTS] * 1000
    began = time.monotonic()
    with pytest.raises(ServerNotReady):
        transport.server_version()
    assert time.monotonic() - began < 1.5
    left = [call["client_timeout"] for call in Library.calls]
    assert left[0] == pytest.approx(0.5, abs=0.1) and left == sorted(left, reverse=True) and min(left) > 0


def test_http_clients_know_their_deadline_and_belong_to_one_thread() -> None:
    transport = connect(Address("http", "localhost:1", tls=True), 7.0)
    threads = [threading.Thread(target=transport.server_version) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    transport.server_version()
    transport.server_version()
    assert len(Library.made) == 4
    expected = {"ssl": True, "connection_timeout": 7.0, "network_timeout": 7.0}
    assert all(one.options.items() >= expected.items() for one in Library.made)
    transport.close()
    transport.close()
    assert all(one.closed for one in Library.made)


def test_the_grpc_client_is_shared() -> None:
    transport = connect(Address("grpc", "localhost:1"), 7.0, credentials=Credentials())
    threads = [threading.Thread(target=transport.server_version) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (client,) = Library.made
    assert not client.options.pop("ssl") and not any(client.options.values())  # nor certificates
    transport.close()
    assert client.closed


@pytest.mark.parametrize(("protocol", "header"), [("grpc", admin_key.GRPC_HEADER), ("http", admin_key.HTTP_HEADER)])
def test_the_admin_key_goes_to_administrative_apis_only(
    protocol: Any, header: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(admin_key.VARIABLE, "secret")
    transport = connect(Address(protocol, "gpu1:1"), 5.0)
    assert transport.index() == [{"name": "m"}] and transport.server_version()
    administrative, other = Library.calls
    assert administrative["headers"] == {header: "secret"} and "headers" not in other


def test_inputs_are_sent_or_named(transport: Transport) -> None:
    sent = transport._tensor("score_threshold", np.full((2, 1), 0.5, np.float32))
    assert (sent.name(), sent.shape(), sent.datatype()) == ("score_threshold", [2, 1], "FP32")
    shared = transport._tensor("frame", SharedTensor("region", (1, 8, 8, 3), "UINT8", 192))
    assert (shared.shape(), shared.datatype()) == ([1, 8, 8, 3], "UINT8")


def test_errors_keep_their_cause(transport: Transport) -> None:
    Library.script = [REFUSED]
    with pytest.raises(ImageRefused) as caught:
        transport.server_version()
    assert caught.value.__cause__ is REFUSED


def test_a_timeout_is_of_its_own_kind(transport: Transport) -> None:
    assert transport.server_version()
    Library.script = [TimeoutError("timed out")]
    with pytest.raises(ServerUnavailable) as caught:
        transport.server_version()
    assert isinstance(caught.value, ServerTimeout) and transport.retried == 0


def test_a_region_is_given_back_when_its_request_lets_go(transport: Transport) -> None:
    Library.script = [IN_USE] * 3
    transport.unregister("a")
    assert len(Library.calls) == 4


@pytest.mark.parametrize(("error", "wait_s", "expected"), [(IN_USE, 0.0, SharedMemoryInUse), (BUSY, 9.0, ServerBusy)])
def test_giving_back_ends(error: Exception, wait_s: float, expected: type[ClientError], transport: Transport) -> None:
    Library.script = [error] * 2
    with pytest.raises(expected):
        transport.unregister("a", wait_s)
    assert len(Library.calls) == 1
