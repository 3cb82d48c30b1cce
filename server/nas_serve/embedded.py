"""The embedded server: find the parts, start them, wait until ready, stop them."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

from google.protobuf import text_format
from nas_ensembles import admin_key, contract, integrity, known_answer
from tritonclient.grpc import model_config_pb2

from . import supervisor
from .envoy_process import EnvoyError, find
from .front import Front
from .ports import free_ports

HOST = "127.0.0.1"
DEFAULT_PORTS = {"http": 8000, "grpc": 8001, "metrics": 8002}
_SHM_PREFIX = "nas_serve_"
_GRACE_S = 10.0


class ServerError(RuntimeError):
    """The server cannot start or has stopped; the message gives the cause from its log and the next step."""


class Server:
    """A real Triton on this machine, as a context manager.

    Args:
        model_repository: any Triton model repository of Python, ensemble and `openvino` models.
        models: serve these only (an ensemble brings its composing models and that for frames); all if empty.
        host: address to listen on. This Triton predates security fixes: anything but loopback is for a container
            whose ports are published with care.
        http_port, grpc_port, metrics_port: 0 takes a free one.
        log: file for the server's log; a temporary one if None.
        timeout_s: to become ready.
        poll_s: look for new model versions this often; 0 for never.
        verbose: Triton's verbose log level.
        verify: public key (PEM); what is not signed with its private key is not served, see `integrity`.
        open_shared_memory: to clients without the admin key too, such as perf_analyzer; any local user can then
            register regions, Triton's own among them.
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
        self._process: subprocess.Popen[str] | None = None
        self._ready = threading.Event()
        self._last_words = ""
        self._resources = contextlib.ExitStack()

    @property
    def http_url(self) -> str:
        """host:port of the HTTP API."""
        return f"{HOST}:{self.ports['http']}"

    @property
    def grpc_url(self) -> str:
        """host:port of the gRPC API."""
        return f"{HOST}:{self.ports['grpc']}"

    @property
    def metrics_url(self) -> str:
        """URL of the Prometheus metrics."""
        return f"http://{HOST}:{self.ports['metrics']}/metrics"

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
        if not self._poll_s and not any(self.model_repository.glob("*/config.pbtxt")):
            raise ServerError(f"{self.model_repository}: no models in it. Build one with: nas-build --weights demo")
        if self._verify and self._poll_s:
            raise ServerError("what is loaded later cannot be verified: leave out --verify, or --poll")
        try:
            integrity.check(self.model_repository, self._with_parts(), self._verify)
            self._launch()
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
        raise ServerError(f"the server stopped: {self._last_words or _cause(self.log_path)}\nIts log: {self.log_path}")

    def __enter__(self) -> Server:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _launch(self) -> None:
        wheel = _wheel()
        try:
            find()
        except EnvoyError as error:
            raise ServerError(str(error)) from None
        library = _libpython()
        self.ports = _claim_ports(self._host, self._requested)
        scratch = Path(self._resources.enter_context(tempfile.TemporaryDirectory(prefix="nas-serve-")))
        if self._log_path is None:
            self._log_path = scratch / "tritonserver.log"
        _remove_stale_shared_memory()
        prefix = f"{_SHM_PREFIX}{os.getpid()}_{self.ports['http']}_"
        backends = _assemble_backends(wheel, scratch / "backends")
        everything = self._poll_s and not self.models  # models come and go too
        repository = self.model_repository if everything else self._view(scratch / "models")
        key = os.environ.get(admin_key.VARIABLE) or secrets.token_hex(32)
        front = Front(
            host=self._host,
            ports=self.ports,
            triton_ports=free_ports(),
            triton_key=secrets.token_hex(32),
            admin_key=key,
            folder=str(scratch),
            # perf_analyzer reads statistics for every measurement, and gives no key with that.
            opened=("statistics", *(("shared-memory",) if self._open_shared_memory else ())),
        )
        command = [
            str(wheel / "tritonserver" / "bin" / "tritonserver"),
            f"--model-repository={repository}",
            f"--backend-directory={backends}",
            f"--backend-config=python,shm-region-prefix-name={prefix}",
            *front.triton_arguments(supervisor.KEY),
            "--allow-gpu-metrics=false",
            "--exit-on-error=true",
            "--strict-readiness=true",
            "--disable-auto-complete-config",
            # Nothing can be loaded from outside: a load request may bring files, and so code.
            *(
                ("--model-control-mode=poll", f"--repository-poll-secs={self._poll_s}")
                if self._poll_s
                else ("--model-control-mode=none",)
            ),
            # Percentiles, for dashboards; docker/serve.sh has the same.
            "--metrics-config=summary_latencies=true",
            "--metrics-config=summary_quantiles=0.5:0.01,0.95:0.005,0.99:0.001",
            f"--log-verbose={self._verbose}",
        ]
        try:
            keys = [admin_key.write(self.ports[service], key) for service in ("http", "grpc")]
        except OSError as error:
            raise ServerError(f"the admin key cannot be left for clients: {error}") from None
        for path in keys:
            self._resources.callback(path.unlink, missing_ok=True)
        self.log_path.write_bytes(b"")
        settings = supervisor.Settings(
            command=command,
            front=front,
            model_repository=str(repository),
            log=str(self.log_path.absolute()),
            remove=[str(scratch), *map(str, keys)],
            shm_prefix=prefix,
            lifeline=True,
            may_reload=bool(self._poll_s),
            start_s=self.timeout_s,
            grace_s=_GRACE_S,
            built=str(self.model_repository),
            models=self._with_parts(),
            public_key=str(self._verify) if self._verify else None,
        )
        environment = os.environ | {
            "LD_LIBRARY_PATH": _join(wheel.parent / "nvidia_pytriton.libs", library, os.environ.get("LD_LIBRARY_PATH")),
            "PATH": _join(Path(sys.executable).parent, os.environ.get("PATH")),
            supervisor.VARIABLE: json.dumps(asdict(settings)),
        }
        self._process = subprocess.Popen(
            [sys.executable, "-u", supervisor.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
            start_new_session=True,  # Ctrl-C reaches us, not the server; we stop it
        )
        self._listener = threading.Thread(target=self._listen, args=(self._process,), daemon=True)
        self._listener.start()

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

    def _view(self, folder: Path) -> Path:
        """A model repository of nothing but the chosen models, and what they are made of: links to the files.

        Python writes its bytecode there and not beside the models, and takes none from there.
        """
        names = self._with_parts() or [path.parent.name for path in self.model_repository.glob("*/config.pbtxt")]
        folder.mkdir()
        for name in names:
            source, without = self.model_repository / name, shutil.ignore_patterns("__pycache__")
            if self._poll_s:  # their versions come and go
                (folder / name).symlink_to(source)
            else:
                shutil.copytree(source.resolve(), folder / name, ignore=without, copy_function=os.symlink)
        return folder

    def _with_parts(self) -> list[str]:
        """The chosen models, and what they are made of; none if none were chosen, which means all."""
        wanted = list(dict.fromkeys(self.models))
        for name in wanted:
            source = self.model_repository / name
            if not (source / "config.pbtxt").exists():
                there = sorted(path.parent.name for path in self.model_repository.glob("*/config.pbtxt"))
                raise ServerError(f"{self.model_repository}: no model {name} in it; it has: {', '.join(there)}.")
            steps = []
            if name in self.models and (self.model_repository / contract.frames_name(name)).is_dir():
                steps.append(contract.frames_name(name))
            with contextlib.suppress(text_format.ParseError, UnicodeDecodeError):  # Triton names what is wrong
                text = (source / "config.pbtxt").read_text(encoding="utf-8")
                config = text_format.Parse(text, model_config_pb2.ModelConfig())
                steps += [step.model_name for step in config.ensemble_scheduling.step]
            wanted += [step for step in steps if step not in wanted]
        return wanted

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
        cause = told if told and not told.startswith("tritonserver ") else _cause(self.log_path)
        return f"{what} on {self.model_repository}: {cause}"


def _wheel() -> Path:
    """Folder of the pytriton package; it is not imported, which would cost seconds."""
    spec = importlib.util.find_spec("pytriton")
    if spec is None or spec.origin is None:
        raise ServerError("the embedded server needs nvidia-pytriton: pip install 'nas-triton[serve]'")
    folder = Path(spec.origin).parent
    if not (folder / "tritonserver" / "bin" / "tritonserver").exists():
        raise ServerError(f"{folder}: no tritonserver in it; it is for x86-64 Linux only. Reinstall nvidia-pytriton.")
    return folder


def _libpython() -> Path:
    """Folder of the shared libpython that Triton's Python stub links to."""
    name = f"libpython{sys.version_info.major}.{sys.version_info.minor}.so.1.0"
    candidates = [Path(str(sysconfig.get_config_var("LIBDIR"))), Path(sys.base_prefix) / "lib"]
    multiarch = sysconfig.get_config_var("MULTIARCH")
    if multiarch:
        candidates += [Path("/usr/lib") / str(multiarch), Path("/lib") / str(multiarch)]
    for folder in candidates:
        if os.path.exists(folder / name):  # false, unlike Path.exists, where it may not look
            return folder
    raise ServerError(
        f"{name} not found in {', '.join(dict.fromkeys(map(str, candidates)))}; Triton's Python models need it. "
        f"On Debian and Ubuntu: apt install libpython{sys.version_info.major}.{sys.version_info.minor}; "
        "with pyenv: reinstall this Python with PYTHON_CONFIGURE_OPTS=--enable-shared."
    )


def _assemble_backends(wheel: Path, target: Path) -> Path:
    """A backend folder: the wheel's Python backend with the stub of this Python, and our openvino backend."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = wheel / "tritonserver" / "python_backend_stubs" / version / "triton_python_backend_stub"
    if not stub.exists():
        raise ServerError(f"nvidia-pytriton has no Python backend for Python {version}; use Python 3.10 to 3.13.")
    shutil.copytree(wheel / "tritonserver" / "backends", target, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy2(stub, target / "python" / stub.name)
    shutil.copytree(Path(__file__).parent / "backends", target, dirs_exist_ok=True)
    shutil.copy2(known_answer.__file__, target / "openvino")
    return target


def _claim_ports(host: str, requested: dict[str, int]) -> dict[str, int]:
    """The requested ports, free ones for 0; all are bound at once so that they differ, then let go."""
    with contextlib.ExitStack() as sockets:
        ports = {}
        for service, port in requested.items():
            claim = sockets.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
            claim.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                claim.bind((host, port))
            except OSError as error:
                raise ServerError(
                    f"{service} port {port} on {host} is taken ({error.strerror}). "
                    f"Stop what uses it, or choose another with --{service}-port (0 takes a free one)."
                ) from None
            ports[service] = claim.getsockname()[1]
        return ports


def _remove_stale_shared_memory() -> None:
    """Of servers whose supervisor was killed too: the prefix holds the pid of who started them."""
    for region in Path("/dev/shm").glob(f"{_SHM_PREFIX}*"):
        pid = region.name.removeprefix(_SHM_PREFIX).partition("_")[0]
        if pid.isdigit() and not Path(f"/proc/{pid}").exists():
            supervisor.remove_shared_memory(f"{_SHM_PREFIX}{pid}_")


def _cause(log: Path) -> str:
    """What the log says went wrong: failures to load, else errors, else its end."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    failures = [m.group(1) for line in lines if (m := re.search(r"failed to load '.*?' version \d+: (.*)", line))]
    errors = [
        re.sub(r"^[EF]\d{4} \S+ \d+ \S+\] ", "", line).strip('"')
        for line in lines
        if re.match(r"[EF]\d{4} ", line) and "CudaDriverHelper" not in line
    ]
    models = [m.group(1) for line in lines if (m := re.search(r"failed to load '(.*?)' version", line))]
    if failures:
        named = [f"{model}: {failure}" for model, failure in zip(models, failures, strict=True)]
        return "a model failed to load.\n  " + "\n  ".join(dict.fromkeys(named))
    return "\n  ".join(dict.fromkeys(errors[:5])) or "\n  ".join(deque(lines, 5)) or "it printed nothing."


def _join(*paths: Any) -> str:
    return os.pathsep.join(str(path) for path in paths if path)
