"""A real Envoy, with nobody behind it."""

from __future__ import annotations

import dataclasses
import io
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from nas_serve.addresses import claim_ports
from nas_serve.front import envoy
from nas_serve.front.envoy import Envoy, EnvoyError
from nas_serve.front.front import Front
from nas_serve.supervision.ports import free_ports


@pytest.fixture
def front() -> Iterator[Front]:
    ports = claim_ports("127.0.0.1", {"http": 0, "grpc": 0, "metrics": 0})
    with tempfile.TemporaryDirectory() as folder:
        yield Front("127.0.0.1", ports, free_ports(), "triton key", "admin key", folder)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[io.BufferedWriter]:
    with (tmp_path / "log").open("wb") as file:
        yield file


def test_it_answers_while_triton_is_away(front: Front, log: io.BufferedWriter) -> None:
    running = Envoy(front, log)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{front.ports['http']}") as http:
            assert http.get("/v2/health/live").status_code == 200
            assert http.get("/v2/health/ready").status_code == 503
            running.open(True)
            assert http.get("/v2/logging").status_code == 403
            assert http.post("/v2/models/m/infer", content=b"{}").status_code in (400, 503)
            running.open(False)
            answer = http.get("/v2")
            assert answer.status_code == 503 and "not ready" in answer.json()["error"]
        assert running.counts() == (0, 0)
        assert not (Path(front.folder) / "envoy.json").exists()  # it has keys in it
        running.must_run()
    finally:
        running.stop()
    with pytest.raises(EnvoyError, match="ended with exit code"):
        running.must_run()
    with pytest.raises(EnvoyError, match="does not obey"):
        running.counts()


def refused(http: httpx.Client, requests: int) -> int:
    """How many of these would be answered too late; the others find nobody."""
    inputs = [{"name": "image", "shape": [1, 1], "datatype": "BYTES", "data": ["x"]}]
    asked = {"inputs": inputs, "parameters": {"timeout": 5_000_000}}
    answers = [http.post("/v2/models/m/infer", json=asked) for _ in range(requests)]
    assert all(answer.status_code == 503 for answer in answers)
    return sum("the server is overloaded" in answer.text for answer in answers)


def test_what_would_be_too_late_is_refused(front: Front, log: io.BufferedWriter) -> None:
    """Two a second, 3 s of patience in 5: six at once, not more for a look at the server from before."""
    running = Envoy(front, log)
    capacity = Path(front.capacity_file)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{front.ports['http']}") as http:
            running.open(True)
            assert refused(http, 20) == 0  # nothing is known
            began = time.time()
            capacity.write_text(f"2.0 0 {began:.3f}")
            time.sleep(0.2)
            first = refused(http, 20)
            assert 20 - first == pytest.approx(6 + 2 * (time.time() - began), abs=2)
            capacity.write_text(f"2.0 0 {began + 0.001:.3f}")
            time.sleep(0.2)
            assert first + refused(http, 20) == pytest.approx(40 - 6 - 2 * (time.time() - began), abs=3)
            capacity.write_text(f"2.0 40 {time.time() - 10:.3f}")  # old, and yet better than nothing
            time.sleep(0.2)
            assert refused(http, 5) == 5
            capacity.unlink()  # Triton is started again
            time.sleep(0.2)
            assert refused(http, 5) == 0
    finally:
        running.stop()


PREFLIGHT = {"access-control-request-method": "POST", "access-control-request-headers": "content-type"}


@pytest.mark.parametrize(
    ("origins", "asking", "allowed"),
    [
        (["https://shop.example.com"], "https://shop.example.com", True),
        (["https://shop.example.com"], "https://shop.example.com.evil.net", False),
        (["https://a.example.com", "http://localhost:3000"], "http://localhost:3000", True),
        (["*"], "https://anybody.net", True),
        ([], "https://shop.example.com", False),
    ],
)
def test_whose_pages_may_ask(
    origins: list[str], asking: str, allowed: bool, front: Front, log: io.BufferedWriter
) -> None:
    running = Envoy(dataclasses.replace(front, cors_origins=origins), log)
    try:
        url = f"http://127.0.0.1:{front.ports['http']}/v2/models/m/infer"
        answer = httpx.options(url, headers={"origin": asking, **PREFLIGHT})
        assert (answer.headers.get("access-control-allow-origin") == asking) == allowed
        assert ("POST" in answer.headers.get("access-control-allow-methods", "")) == allowed
    finally:
        running.stop()


@pytest.mark.parametrize("origin", ["shop.example.com", "https://shop.example.com/path", "javascript:alert(1)", ""])
def test_what_is_no_origin_is_refused(origin: str, front: Front) -> None:
    with pytest.raises(ValueError, match="is no origin"):
        dataclasses.replace(front, cors_origins=[origin])


def test_one_that_does_not_start_says_so(front: Front, log: io.BufferedWriter) -> None:
    nowhere = dataclasses.replace(front, host="203.0.113.1")  # no address of this machine
    with pytest.raises(EnvoyError, match="ended with exit code"):
        Envoy(nowhere, log)


def test_two_do_not_share_a_port(front: Front, log: io.BufferedWriter, tmp_path: Path) -> None:
    running = Envoy(front, log)
    other = dataclasses.replace(front, folder=str(tmp_path / "other"))
    Path(other.folder).mkdir()
    try:
        with pytest.raises(EnvoyError, match="ended with exit code"):
            Envoy(other, log)
    finally:
        running.stop()


def test_it_is_named_if_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert envoy.find().exists()
    monkeypatch.setattr(envoy.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(EnvoyError, match=r"pip install 'nas-triton\[serve\]'"):
        envoy.find()
