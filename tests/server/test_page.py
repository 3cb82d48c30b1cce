"""`nas-serve --page`, as a user starts it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from support.samples import SAMPLES

BIN = Path(sys.executable).parent
NAME = "yolo_nas_s_int8"

pytest.importorskip("starlette", reason="the extra page is not installed")


@contextmanager
def serving(repository: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server with its page, and the page's address."""
    command = [str(BIN / "nas-serve"), "--model-repository", str(repository), "--model", NAME, "--page"]
    command += [word for service in ("http", "grpc", "metrics", "page") for word in (f"--{service}-port", "0")]
    process = subprocess.Popen([*command, *arguments], stderr=subprocess.PIPE, text=True, env=dict(os.environ))
    try:
        assert process.stderr is not None
        while not (line := process.stderr.readline()).startswith("http://127.0.0.1:"):
            assert line, "it has ended"
        yield process, line.split()[0]
    finally:
        process.kill()
        process.communicate()


def answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=300).status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_it_detects_and_ends_with_the_server(repository: Path, number: int) -> None:
    with serving(repository) as (process, url):
        assert "drop" in httpx.get(url).text.lower()
        found = httpx.post(f"{url}/api/detect", content=(SAMPLES / "bus.jpg").read_bytes(), timeout=300).json()
        assert "bus" in [one["name"] for one in found["detections"]]
        process.send_signal(number)
        process.wait(300)
        end = time.monotonic() + 20
        while answers(url):
            assert time.monotonic() < end
            time.sleep(0.1)


def test_a_page_that_ends_is_reported_and_the_server_goes_on(repository: Path) -> None:
    with serving(repository) as (process, _):
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        (page,) = [pid for pid in children if b"nas-client" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        os.kill(int(page), signal.SIGKILL)
        assert process.stderr is not None
        while "the page has ended" not in (line := process.stderr.readline()):
            assert line, "it has ended"
        assert process.poll() is None


def test_a_port_that_is_taken_is_named(repository: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        command = [str(BIN / "nas-serve"), "--model-repository", str(repository), "--model", NAME, "--page"]
        command += ["--page-port", port, "--http-port", "0", "--grpc-port", "0", "--metrics-port", "0"]
        done = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ), timeout=300, check=False)
    assert done.returncode == 1 and f"127.0.0.1:{port}" in done.stderr and "Traceback" not in done.stderr
