"""The embedded server: find the parts, start them, wait until ready, stop them."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from nas_ensembles import admin_key, integrity

from . import repository, supervision, wheel
from .addresses import claim_ports, resolved
from .errors import ServerError
from .front import envoy
from .front.envoy import EnvoyError
from .front.front import LOOPBACK, Front
from .log import cause
from .supervision import view
from .supervision.ports import free_ports
from .supervision.settings import KEY, VARIABLE, Settings
from .supervision.triton import remove_shared_memory

HOST = LOOPBACK
_SHM_PREFIX = "nas_serve_"
_GRACE_S = 10.0


class Server:
    """A real Triton on this machine, as a context manager.

    Args:
        model_repository: any Triton model repository of Python, ensemble and `openvino` models.
        models: serve these only (an ensemble brings its composing models and that for frames); all if empty.
        host: address to listen on. This Triton predates security fixes: anything but loopback is for a container
            whose ports are published with care.
        http_port: 0 takes a free one.
        grpc_port: likewise.
        metrics_port: likewise.
        log: file for the server's log; a temporary one if None.
        timeout_s: to become ready.
        poll_s: look for new model versions this often; 0 for never.
        verbose: Triton's verbose log level.
        verify: public key (PEM); what is not signed with its private key is not served, see `integrity`.
        open_shared_memory: to clients without the admin key too, such as perf_analyzer; any local user can then
            register regions, Triton's own among them.
        cors_origins: whose pages may ask from a browser, such as https://example.com; "*" for all.
        said: called with a line when the server was restarted, and why.
    """

    def __init__(
        self,
        model_repository: str | Path,
        *,
        models: Sequence[str] = (),
        host: str = HOST,
        http_port: int = 0,
        grpc_port: int = 0,
        metrics_port: int = 0,
        log: str | Path | None = None,
        timeout_s: float = 120.0,
        poll_s: int = 0,
        verbose: int = 0,
        verify: Path | None = None,
        open_shared_memory: bool = False,
        cors_origins: Sequence[str] = (),
        said: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.model_repository = Path(model_repository).absolute()
        self.models = tuple(models)
        self.timeout_s = timeout_s
        self._host = host
        self._requested = {"http": http_port, "grpc": grpc_port, "metrics": metrics_port}
        self.ports: dict[str, int] = {}
        self._log_path = None if log is None else Path(log)
        self._poll_s = poll_s
        self._verbose = verbose
        self._said = said
        self._verify = verify
        self._open_shared_memory = open_shared_memory
        self._cors_origins = tuple(cors_origins)
        self._process: subprocess.Popen[str] | None = None
        self._ready = threading.Event()
        self._last_words = ""
        self._resources = contextlib.ExitStack()

    @property
    def http_url(self) -> str:
        """host:port of the HTTP API."""
        return f"{self._reached_at}:{self.ports['http']}"

    @property
    def grpc_url(self) -> str:
        """host:port of the gRPC API."""
        return f"{self._reached_at}:{self.ports['grpc']}"

    @property
    def metrics_url(self) -> str:
        """URL of the Prometheus metrics."""
        return f"http://{self._reached_at}:{self.ports['metrics']}/metrics"

    @property
    def _reached_at(self) -> str:
        """By clients of this machine."""
        everywhere = {"0.0.0.0": HOST, "::": "::1"}
        host = everywhere.get(self._host, self._host)
        return f"[{host}]" if ":" in host else host

    @property
    def log_path(self) -> Path:
        """The server's log."""
        assert self._log_path is not None, "the server was not started"
        return self._log_path

    def start(self, waiting: Callable[[float], None] = lambda _: None) -> Server:
        """Start, and return when the server and its models are ready.

        Args:
            waiting: called several times a second with the seconds waited.

        Raises:
            ServerError: says what is missing, or the cause from the server's log.
        """
        if not self.model_repository.is_dir():
            raise ServerError(
                f"{self.model_repository}: no such model repository. Build one with: nas-build --weights demo"
            )
        if not self._poll_s and not view.names(self.model_repository):
            raise ServerError(f"{self.model_repository}: no models in it. Build one with: nas-build --weights demo")
        if self._verify and self._poll_s:
            raise ServerError("what is loaded later cannot be verified: leave out --verify, or --poll")
        try:
            self._host = resolved(self._host)
            models = repository.with_parts(self.model_repository, self.models)
            integrity.check(self.model_repository, models, self._verify)
            self._launch(models)
            self._wait(waiting)
        except integrity.IntegrityError as error:
            self.stop()
            raise ServerError(str(error)) from None
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Stop the server and remove everything it made but the log that was asked for; harmless when stopped."""
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()  # the supervisor's word to end
            self._process.wait()
            self._listener.join()
            self._process = None
        self._resources.close()

    def wait(self) -> None:
        """Return when the server ends by itself: it was restarted several times in vain.

        Raises:
            ServerError: it did.
        """
        assert self._process is not None, "the server was not started"
        self._process.wait()
        self._listener.join()
        told = self._last_words or cause(self.log_path)
        if self._scratch in self.log_path.parents:  # which goes with this server
            descriptor, kept = tempfile.mkstemp(prefix="nas-serve-", suffix=".log")
            os.close(descriptor)
            self._log_path = Path(shutil.copyfile(self.log_path, kept))
        raise ServerError(f"the server stopped: {told}\nIts log: {self.log_path}")

    def __enter__(self) -> Server:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _launch(self, models: list[str]) -> None:
        triton, libpython = wheel.find(), wheel.libpython()
        try:
            envoy.find()
        except EnvoyError as error:
            raise ServerError(str(error)) from None
        self.ports = claim_ports(self._host, self._requested)
        self._scratch = scratch = Path(self._resources.enter_context(tempfile.TemporaryDirectory(prefix="nas-serve-")))
        if self._log_path is None:
            self._log_path = scratch / "tritonserver.log"
        self.log_path.write_bytes(b"")
        _remove_stale_shared_memory()
        # If all are polled Triton is given the repository itself, for models come and go; else a view.
        served = scratch / "models" if models or not self._poll_s else self.model_repository
        backends = wheel.assemble_backends(triton, scratch / "backends")
        try:
            front = self._front(scratch)
        except ValueError as error:
            raise ServerError(str(error)) from None
        prefix = f"{_SHM_PREFIX}{os.getpid()}_{self.ports['http']}_"
        settings = Settings(
            command=[
                str(triton / "tritonserver" / "bin" / "tritonserver"),
                f"--model-repository={served}",
                f"--backend-directory={backends}",
                f"--backend-config=python,shm-region-prefix-name={prefix}",
                *front.triton_arguments(KEY),
                *self._triton_options(),
            ],
            front=front,
            model_repository=str(served),
            log=str(self.log_path.absolute()),
            remove=[str(scratch), *map(str, self._leave_key(front.admin_key))],
            shm_prefix=prefix,
            lifeline=True,
            may_reload=bool(self._poll_s),
            start_s=self.timeout_s,
            grace_s=_GRACE_S,
            built=str(self.model_repository) if served != self.model_repository else None,
            models=models,
            public_key=str(self._verify) if self._verify else None,
        )
        libraries = (triton.parent / "nvidia_pytriton.libs", libpython, os.environ.get("LD_LIBRARY_PATH"))
        environment = os.environ | {
            "LD_LIBRARY_PATH": _join(*libraries),
            "PATH": _join(Path(sys.executable).parent, os.environ.get("PATH")),
            VARIABLE: settings.to_json(),
        }
        self._process = subprocess.Popen(
            [sys.executable, "-u", str(Path(supervision.__file__).parent)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
            start_new_session=True,  # Ctrl-C reaches us, not the server; we stop it
        )
        self._listener = threading.Thread(target=self._listen, args=(self._process,), daemon=True)
        self._listener.start()

    def _front(self, folder: Path) -> Front:
        return Front(
            host=self._host,
            ports=self.ports,
            triton_ports=free_ports(),
            triton_key=secrets.token_hex(32),
            admin_key=os.environ.get(admin_key.VARIABLE) or secrets.token_hex(32),
            folder=str(folder),
            open_shared_memory=self._open_shared_memory,
            cors_origins=self._cors_origins,
        )

    def _triton_options(self) -> list[str]:
        # Nothing can be loaded from outside: a load request may bring files, and so code.
        polling = ["--model-control-mode=poll", f"--repository-poll-secs={self._poll_s}"]
        return [
            *(polling if self._poll_s else ["--model-control-mode=none"]),
            "--allow-gpu-metrics=false",
            f"--log-verbose={self._verbose}",
        ]

    def _leave_key(self, key: str) -> list[Path]:
        """Where this user's clients look for it, until the end; the files."""
        try:
            files = [admin_key.write(self.ports[service], key) for service in ("http", "grpc")]
        except OSError as error:
            raise ServerError(f"the admin key cannot be left for clients: {error}") from None
        for file in files:
            self._resources.callback(file.unlink, missing_ok=True)
        return files

    def _listen(self, process: subprocess.Popen[str]) -> None:
        """To what the supervisor says, until it ends."""
        assert process.stdout is not None
        with process.stdout as lines:
            for line in lines:
                word, _, text = line.strip().partition(" ")
                if word == "ready" and self._ready.is_set():
                    self._said("Triton is ready again")
                self._ready.set() if word == "ready" else self._said(f"{word.replace('-', ' ')}: {text}")
                if word == "gave-up":
                    self._last_words = text

    def _wait(self, waiting: Callable[[float], None]) -> None:
        assert self._process is not None
        started = time.monotonic()
        while not self._ready.wait(0.1):
            if self._process.poll() is not None:
                self._listener.join()
                raise ServerError(self._explain("the server did not start"))
            waited = time.monotonic() - started
            if waited > self.timeout_s:
                raise ServerError(self._explain(f"the server was not ready after {self.timeout_s:g} s"))
            waiting(waited)

    def _explain(self, what: str) -> str:
        told = self._last_words  # of Triton itself the log knows more
        why = told if told and not told.startswith("tritonserver ") else cause(self.log_path)
        return f"{what} on {self.model_repository}: {why}"


def _remove_stale_shared_memory() -> None:
    """Of servers whose supervisor was killed too: the prefix holds the pid of who started them."""
    for region in Path("/dev/shm").glob(f"{_SHM_PREFIX}*"):
        pid = region.name.removeprefix(_SHM_PREFIX).partition("_")[0]
        if pid.isdigit() and not Path(f"/proc/{pid}").exists():
            with contextlib.suppress(PermissionError):  # another user's
                remove_shared_memory(f"{_SHM_PREFIX}{pid}_")


def _join(*paths: Any) -> str:
    return os.pathsep.join(str(path) for path in paths if path)
