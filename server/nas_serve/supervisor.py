"""Keeps a Triton answering behind Envoy, and leaves nothing behind.

    NAS_SUPERVISE='{"command": ["tritonserver", ...], ...}' python supervisor.py
    NAS_ADMIN_KEY=... python supervisor.py tritonserver --model-repository=/models ...

Runs Triton in a process group of its own and starts it again if it ends, if one of its processes is gone, or if a
model no longer gives its known answer: a port that is open proves nothing. Pauses grow; after several restarts in a row
it gives up, says why, and ends, so that whoever restarts containers can. It speaks in lines on standard output:
`ready`, `restarting CAUSE`, `wrong MODEL`, `note TEXT`, `gave-up CAUSE`.

Envoy (`front.py`) answers clients, says «unavailable» while Triton is away, and learns from here how many requests a
second the server can do, so that it refuses what would be too late.

It ends on SIGTERM, or when standard input closes, which it does when the parent dies: new requests are refused, those
under way are answered, then the server ends and all is cleaned up. The standard library, numpy and the modules beside
it are all it needs: containers run it too.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import select
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote
from urllib.request import ProxyHandler, Request, build_opener

import numpy as np
from nas_ensembles import integrity, known_answer  # in a container it lies beside this file

if __package__:
    from .envoy_process import Envoy, EnvoyError, prepare
    from .front import TRITON_HEADER, Front, Tls
    from .ports import free_ports
else:
    from envoy_process import Envoy, EnvoyError, prepare  # type: ignore[import-not-found,no-redef]
    from front import TRITON_HEADER, Front, Tls  # type: ignore[import-not-found,no-redef]
    from ports import free_ports  # type: ignore[import-not-found,no-redef]

VARIABLE = "NAS_SUPERVISE"
KEY = "@TRITON_KEY@"  # in the arguments: the key itself would be for all users of the machine to read
_SHARED_MEMORY = Path("/dev/shm")
_CLIENTS = "nas_client_"  # names of regions of nas-client begin so, and are those of their files
_LOOK_S = 0.5  # between looks at the processes
_ASK_S = 5.0  # between questions to the models
_ASK_BUSY_S = 60.0  # to those that answer clients meanwhile: a question delays them
_ANSWER_S = 10.0  # for an answer, if nothing else is answered meanwhile
_STEADY_S = 10.0  # a server that ran so long is no hopeless case
_ENOUGH = 8  # requests under way that keep a server busy, and answers that show its speed
_MEASURE_S = 2.0
_PORTS = {"http": 8000, "grpc": 8001, "metrics": 8002}
_PAUSES_S = (0.0, 1.0, 2.0, 4.0, 8.0)  # before each restart in a row; after them it gives up
_open = build_opener(ProxyHandler({})).open  # what is asked is on this machine, whatever the environment's proxies
_CANDIDATES = (("candidate_boxes", "<f4"), ("candidate_scores", "<f4"), ("candidate_labels", "<i4"))


@dataclass(frozen=True)
class Settings:
    """What to keep running, as JSON in the environment: secrets in it are for this user only, as arguments are not.

    Attributes:
        command: tritonserver and its arguments.
        front: where clients come in.
        model_repository: where known answers lie.
        log: file for the servers' output; None is standard error.
        remove: files and folders that are removed when it was told to end; after a failure the log is wanted.
        shm_prefix: of regions to remove, in /dev/shm.
        lifeline: end when standard input closes.
        may_reload: models come and go (a polled repository), so that a process that ends may be no accident.
        start_s: for the server to become ready.
        drain_s: for requests under way to be answered at the end.
        grace_s: for the server to end after that.
        state: folder with a file `live`, touched while this runs, and a file `ready` while the server answers.
        built: the model repository as it was built, if the one that is served is a view of it.
        models: of it, those that are served; all if empty.
        public_key: see `integrity`, which looks before every start.
    """

    command: list[str]
    front: Front
    model_repository: str
    log: str | None = None
    remove: list[str] = field(default_factory=list)
    shm_prefix: str | None = None
    lifeline: bool = False
    may_reload: bool = False
    start_s: float = 300.0
    drain_s: float = 30.0
    grace_s: float = 10.0
    state: str | None = None
    built: str | None = None
    models: list[str] = field(default_factory=list)
    public_key: str | None = None

    @classmethod
    def from_json(cls, text: str) -> Settings:
        """From the environment."""
        values = json.loads(text)
        return cls(**{**values, "front": Front.from_dict(values["front"])})


class Ended(BaseException):
    """Standard input was closed, or a signal came."""


class Failed(Exception):
    """The server does not run, or does not answer; the message says what was seen."""


class Hopeless(Failed):
    """Starting it again would change nothing."""


@dataclass
class Capacity:
    """How many requests a second the server answers when it has enough of them: Envoy refuses what is too late.

    Attributes:
        per_s: None until something is known.
    """

    per_s: float | None = None
    _active: int = 0
    _answered: int = 0
    _since: float = 0.0
    _always_busy: bool = False

    def see(self, active: int, answered: int, now: float) -> None:
        """Requests under way and answered since the beginning, at a time in seconds."""
        busy = min(active, self._active) >= _ENOUGH
        self._active, self._always_busy = active, self._always_busy and busy
        count, seconds = answered - self._answered, now - self._since
        if seconds < _MEASURE_S and count < _ENOUGH:
            return
        if self.per_s is not None and 0 < seconds < 2 * _MEASURE_S:
            rate = max(count / seconds, 0.1)
            if self._always_busy:
                self.per_s = (self.per_s + rate) / 2
            else:
                self.per_s = max(self.per_s, rate)  # with fewer requests it shows no more than it was asked for
        self._answered, self._since, self._always_busy = answered, now, busy


@dataclass
class Supervisor:
    """See the module.

    Attributes:
        restarts: since the beginning.
    """

    settings: Settings
    restarts: int = 0
    _log: Any = None
    _front: Envoy | None = None
    _server: subprocess.Popen[bytes] | None = None
    _family: set[int] = field(default_factory=set)
    _right: set[tuple[str, str]] = field(default_factory=set)
    _wrong: set[tuple[str, str]] = field(default_factory=set)
    _capacity: Capacity = field(default_factory=Capacity)

    def run(self) -> int:
        """Until the end; the exit code: 0 if it was asked for, else 1."""
        in_a_row, was_ready = 0, False
        self._log = open(self.settings.log, "ab") if self.settings.log else sys.stderr.buffer
        try:
            while True:
                ready_at = None
                try:
                    self._start()
                    ready_at, was_ready = time.monotonic(), True
                    _say("ready")
                    self._watch()
                except Exception as error:  # whatever it is, clients want answers
                    failure = (
                        str(error) if isinstance(error, Failed | EnvoyError) else f"{type(error).__name__}: {error}"
                    )
                    steady = ready_at is not None and time.monotonic() - ready_at > _STEADY_S
                    in_a_row = 1 if steady else in_a_row + 1
                    self._kill()
                    if not was_ready or in_a_row > len(_PAUSES_S) or isinstance(error, Hopeless):
                        _say(f"gave-up {failure}")
                        return 1
                    self.restarts += 1
                    _say(f"restarting {failure}")
                    self._pause(_PAUSES_S[in_a_row - 1])
        except Ended:
            self._end()
            for path in self.settings.remove:
                shutil.rmtree(path) if os.path.isdir(path) else Path(path).unlink(missing_ok=True)
            self._show("live", False)
            return 0
        finally:
            self._end()

    def _start(self) -> None:
        settings = self.settings
        key = Path(settings.public_key) if settings.public_key else None
        try:
            integrity.check(Path(settings.built or settings.model_repository), settings.models, key)
        except integrity.IntegrityError as error:
            raise Hopeless(str(error)) from None
        if self._front is None:
            self._front = Envoy(settings.front, self._log)
        environment = os.environ | {"NAS_SERVER_RESTARTS": str(self.restarts)}
        environment.pop(VARIABLE, None)
        self._server = subprocess.Popen(
            [part.replace(KEY, settings.front.triton_key) for part in settings.command],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            env=environment,
            start_new_session=True,
            preexec_fn=prepare,
        )
        hidden, deadline = False, time.monotonic() + settings.start_s
        while time.monotonic() < deadline:
            self._pause(0.1 if hidden else 0.01)
            self._must_run()
            if not hidden and len(os.listdir(f"/proc/{self._server.pid}/task")) > 1:  # it has read its arguments
                self._hide_key()
                hidden = True
            if not all(_ours(port) for port in settings.front.triton_ports.values()):
                continue  # nothing is sent to a port that somebody else may have taken
            with contextlib.suppress(OSError, HTTPException):
                if self._get("/v2/health/ready", 2.0) is not None:
                    self._hide_key()
                    self._family = self._children()
                    self._front.open(True)
                    return
        raise Failed(f"it was not ready after {settings.start_s:g} s")

    def _watch(self) -> None:
        """Until something is wrong."""
        asked, asked_busy = 0.0, 0.0
        answered: dict[str, int] = {}
        while True:
            self._must_run()
            children = self._children()
            gone = self._family - children
            if gone and not self.settings.may_reload:
                raise Failed("a process of a Python model is gone")
            self._family = children
            now = time.monotonic()
            if gone or now - asked > _ASK_S:
                self._must_answer()
                everyone = gone or now - asked_busy > _ASK_BUSY_S
                for name, version, known in self._engines():
                    if everyone or self._answered(name) == answered.get(name):
                        self._ask(name, version, known)
                    answered[name] = self._answered(name)
                self._unregister_stale()
                asked = time.monotonic()
                asked_busy = asked if everyone else asked_busy
            self._tell_capacity()
            self._show("ready")
            self._pause(_LOOK_S)

    def _tell_capacity(self) -> None:
        """To Envoy."""
        assert self._front is not None
        now = time.time()
        try:
            active, answered = self._front.counts()
        except EnvoyError:
            active, answered = self._front.counts()  # it may have been busy for a moment
        self._capacity.see(active, answered, now)
        if self._capacity.per_s is not None:
            path = Path(self.settings.front.capacity_file)
            new = path.with_suffix(".new")
            new.write_text(f"{self._capacity.per_s:.3f} {active} {now:.3f}\n", encoding="ascii")
            new.replace(path)

    def _must_answer(self) -> None:
        """Triton itself; its models are asked beside."""
        for last in (False, True):
            try:
                self._get("/v2/health/live", _ANSWER_S / 2)
                return
            except (OSError, HTTPException) as error:
                self._must_run()
                if last:
                    raise Failed(f"Triton gives no answer: {error}") from None

    def _must_run(self) -> None:
        assert self._server is not None and self._front is not None
        self._front.must_run()
        code = self._server.poll()
        if code is None:
            return
        if code < 0:
            name = signal.Signals(-code).name
            hint = " (out of memory?)" if -code == signal.SIGKILL else ""
            raise Failed(f"tritonserver was ended by {name}{hint}")
        raise Failed(f"tritonserver ended with exit code {code}")

    def _children(self) -> set[int]:
        """Processes of the server that are alive."""
        assert self._server is not None
        found: set[int] = set()
        for task in Path(f"/proc/{self._server.pid}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                found |= {int(pid) for pid in task.read_text().split()}
        return {pid for pid in found if _state(pid) not in ("Z", "X", "")}

    def _engines(self) -> list[tuple[str, str, known_answer.KnownAnswer]]:
        """Names of the models that are served, versions of their engines, and known answers."""
        engines = []
        for folder in sorted(Path(self.settings.model_repository).glob("*_engine")):
            served = None
            with contextlib.suppress(OSError, HTTPException, ValueError):
                served = json.loads(self._get(f"/v2/models/{folder.name}", _ANSWER_S) or b"{}").get("versions")
            for version in served or []:
                with contextlib.suppress(OSError, ValueError):
                    text = (folder / version / known_answer.FILE).read_text(encoding="utf-8")
                    answer = known_answer.KnownAnswer.from_dict(json.loads(text))
                    engines.append((folder.name.removesuffix("_engine"), version, answer))
        return engines

    def _ask(self, name: str, version: str, known: known_answer.KnownAnswer, last: bool = False) -> None:
        """The engine must give its answer, if it ever did, and the ensemble one at all.

        Raises:
            Failed: if not; a model that is only busy is none.
        """
        before, before_engine = self._answered(name), self._answered(name, "engine")
        try:
            canvas = known.canvas
            outputs = self._infer(
                f"{name}_engine/versions/{version}", "images", "UINT8", [1, *canvas.shape], canvas.tobytes()
            )
            agreement = known.agreement(*outputs)
            picture = _bmp(known.picture)
            began = time.monotonic()
            self._infer(name, "image", "BYTES", [1, 1], struct.pack("<I", len(picture)) + picture)
            if self._capacity.per_s is None:  # one at a time is the least it can do
                self._capacity.per_s = 1 / (time.monotonic() - began)
        except HTTPError as error:
            message = error.read().decode(errors="replace")
            if "maximum queue size" in message or error.code in (404, 503):
                return
            raise Failed(f"{name} answers: {message[:300]}") from None
        except (OSError, HTTPException) as error:
            self._pause(_LOOK_S)  # a server that was killed has ended by then, which is the better cause
            self._must_run()
            if self._answered(name) > before:
                return
            if not last and self._answered(name, "engine") > before_engine:  # it computes; does anybody get answers?
                return self._ask(name, version, known, last=True)
            raise Failed(f"{name} gives no answer: {error}") from None
        self._show("ready")  # with many models a round may take a while
        if agreement >= known_answer.LIMIT:
            self._right.add((name, version))
        elif (name, version) in self._right:
            raise Failed(f"{name} answers wrongly: agreement with the known answer {agreement:.2f}")
        elif (name, version) not in self._wrong:  # starting it again would change nothing
            self._wrong.add((name, version))
            _say(f"wrong {name}: agreement with the known answer {agreement:.2f}; see nas-client check")

    def _infer(self, model: str, name: str, datatype: str, shape: list[int], data: bytes) -> list[Any]:
        """Candidates of an engine; nothing of an ensemble."""
        outputs = [{"name": n, "parameters": {"binary_data": True}} for n, _ in _CANDIDATES]
        tensor = {"name": name, "shape": shape, "datatype": datatype, "parameters": {"binary_data_size": len(data)}}
        question: dict[str, Any] = {"inputs": [tensor]}
        if name == "images":
            question["outputs"] = outputs
        header = json.dumps(question).encode()
        self._show("live")
        headers = self._headers | {"Inference-Header-Content-Length": str(len(header))}
        request = Request(f"{self._url}/v2/models/{model}/infer", header + data, headers)
        with _open(request, timeout=_ANSWER_S) as response:
            body, length = response.read(), response.headers["Inference-Header-Content-Length"]
        if "outputs" not in question:
            return []
        described, at, answers = json.loads(body[: int(length)])["outputs"], int(length), {}
        for output in described:
            size = output["parameters"]["binary_data_size"]
            answers[output["name"]] = (body[at : at + size], output["shape"])
            at += size
        return [np.frombuffer(answers[n][0], kind).reshape(answers[n][1])[0] for n, kind in _CANDIDATES]

    def _unregister_stale(self) -> None:
        """Shared memory of clients that were killed: the file is gone, Triton still holds its pages."""
        with contextlib.suppress(OSError, HTTPException, ValueError):
            for region in json.loads(self._get("/v2/systemsharedmemory/status", 2.0) or b"[]"):
                if region["name"].startswith(_CLIENTS) and not (_SHARED_MEMORY / region["name"]).exists():
                    self._get(f"/v2/systemsharedmemory/region/{quote(region['name'])}/unregister", 2.0, b"")

    def _answered(self, name: str, part: str = "postprocess") -> int:
        """Requests that a part of the model has answered, the last one unless told; 0 if it cannot be known."""
        try:
            text = self._get(f"/v2/models/{name}_{part}/stats", 2.0) or b"{}"
            return int(json.loads(text)["model_stats"][0]["inference_stats"]["success"]["count"])
        except (OSError, HTTPException, ValueError, KeyError, IndexError):
            return 0

    def _show(self, name: str, there: bool = True) -> None:
        """To probes."""
        if self.settings.state is not None:
            path = Path(self.settings.state) / name
            path.touch() if there else path.unlink(missing_ok=True)

    @property
    def _url(self) -> str:
        return f"http://127.0.0.1:{self.settings.front.triton_ports['http']}"

    @property
    def _headers(self) -> dict[str, str]:
        return {TRITON_HEADER: self.settings.front.triton_key}

    def _get(self, path: str, timeout_s: float, data: bytes | None = None) -> bytes | None:
        """None if the answer is no success; with data it is a POST."""
        self._show("live")
        request = Request(f"{self._url}{path}", data, self._headers)
        try:
            with _open(request, timeout=timeout_s) as response:
                return bytes(response.read())
        except HTTPError:
            return None

    def _hide_key(self) -> None:
        """Arguments can be read by every user of the machine: Triton has read them, and needs them no more."""
        assert self._server is not None
        key = self.settings.front.triton_key.encode()
        try:
            fields = Path(f"/proc/{self._server.pid}/stat").read_text().rpartition(")")[2].split()
            start, end = int(fields[45]), int(fields[46])  # arg_start, arg_end
            with open(f"/proc/{self._server.pid}/mem", "r+b", buffering=0) as memory:
                memory.seek(start)
                arguments = memory.read(end - start)
                memory.seek(start)
                memory.write(arguments.replace(key, b"*" * len(key)))
        except (OSError, ValueError, IndexError) as error:
            _say(f"note the key stays among the arguments of tritonserver, which other users can read: {error}")

    def _pause(self, seconds: float) -> None:
        """Wait, unless it is over.

        Raises:
            Ended: if it is.
        """
        self._show("live")
        if not self.settings.lifeline:
            time.sleep(seconds)
        elif select.select([sys.stdin], [], [], seconds)[0]:
            raise Ended

    def _kill(self) -> None:
        """Triton's whole group, at once, and its shared memory."""
        self._show("ready", False)
        if self._front is not None:
            try:
                self._front.open(False)
            except EnvoyError:
                self._front.stop()
                self._front = None
        if self._server is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._server.pid, signal.SIGKILL)
            self._server.wait()
        if self.settings.shm_prefix:
            remove_shared_memory(self.settings.shm_prefix)
        Path(self.settings.front.capacity_file).unlink(missing_ok=True)
        self._capacity = Capacity()

    def _end(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        # A server whose processes are gone answers nobody, and waits for them in vain.
        whole = self._server is not None and self._server.poll() is None and self._family <= self._children()
        if whole:
            self._drain()
        if self._front is not None:
            self._front.stop()  # Triton waits for its connections
            self._front = None
        if self._server is not None and self._server.poll() is None:
            self._server.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._server.wait(self.settings.grace_s if whole else 1.0)
        self._kill()

    def _drain(self) -> None:
        """Refuse what comes, answer what is under way."""
        self._show("ready", False)
        if self._front is None:
            return
        deadline = time.monotonic() + self.settings.drain_s
        with contextlib.suppress(EnvoyError):
            self._front.open(False)
            while self._front.counts()[0] and time.monotonic() < deadline:
                time.sleep(0.05)


def remove_shared_memory(prefix: str) -> None:
    """Unlink the regions whose names begin with the prefix."""
    for region in _SHARED_MEMORY.glob(f"{prefix}*"):
        region.unlink(missing_ok=True)


def _bmp(picture: np.ndarray[Any, np.dtype[np.uint8]]) -> bytes:
    """An uncompressed bitmap of (h, w, 3) RGB: needs no library."""
    height, width = picture.shape[:2]
    row = width * 3 + -(width * 3) % 4
    pixels = np.zeros((height, row), np.uint8)
    pixels[:, : width * 3] = picture[::-1, :, ::-1].reshape(height, -1)
    file_header = struct.pack("<2sIII", b"BM", 54 + pixels.size, 0, 54)
    return file_header + struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0) + pixels.tobytes()


def _ours(port: int) -> bool:
    """Whether a process of this user listens on a port of loopback."""
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError):
            for line in Path(table).read_text().splitlines()[1:]:
                _, local, _, state, _, _, _, uid, *_ = line.split()
                if state == "0A" and int(local.rpartition(":")[2], 16) == port:
                    return int(uid) == os.getuid()
    return False


def _state(pid: int) -> str:
    """One letter of /proc: Z is dead and not buried."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return ""


def _say(line: str) -> None:
    with contextlib.suppress(BrokenPipeError):
        print(line.replace("\n", " "), flush=True)


def _stop(*_: object) -> None:
    raise Ended


def _from_arguments(command: list[str]) -> Settings:
    """As a container starts it: Triton's command with public addresses; keys and certificates in the environment."""
    options = argparse.ArgumentParser(allow_abbrev=False)
    options.add_argument("--model-repository", default="/models")
    options.add_argument("--http-address", default="0.0.0.0")  # of all three
    for service, port in _PORTS.items():
        options.add_argument(f"--{service}-port", type=int, default=port)
    given, rest = options.parse_known_args(command)
    names = ("ADMIN_KEY", "TLS_CERT", "TLS_KEY", "TLS_CLIENT_CA")
    secret = {name: os.environ.pop(f"NAS_{name}", "") for name in names}
    front = Front(
        host=given.http_address,
        ports={service: getattr(given, f"{service}_port") for service in _PORTS},
        triton_ports=free_ports(),
        triton_key=os.urandom(32).hex(),
        admin_key=secret["ADMIN_KEY"] or os.urandom(32).hex(),
        folder=tempfile.mkdtemp(prefix="nas-triton-"),
        tls=Tls(secret["TLS_CERT"], secret["TLS_KEY"], secret["TLS_CLIENT_CA"] or None) if secret["TLS_CERT"] else None,
        threads=max(1, min(4, len(os.sched_getaffinity(0)) // 8)),
    )
    state = os.environ.get("NAS_STATE")
    if state:
        Path(state).mkdir(mode=0o755, parents=True, exist_ok=True)
        (Path(state) / "ready").unlink(missing_ok=True)  # of a run that was killed
    prefix = f"nas_triton_{os.urandom(4).hex()}_"
    arguments = [f"--model-repository={given.model_repository}", *front.triton_arguments(KEY)]
    return Settings(
        command=[*rest, *arguments, f"--backend-config=python,shm-region-prefix-name={prefix}"],
        front=front,
        model_repository=given.model_repository,
        remove=[front.folder],
        shm_prefix=prefix,
        state=state,
        public_key=os.environ.pop("NAS_VERIFY_KEY", None) or None,
    )


def main() -> int:
    """Entry point."""
    given = os.environ.get(VARIABLE)
    settings = Settings.from_json(given) if given else _from_arguments(sys.argv[1:])
    ours = signal.SIG_IGN if settings.lifeline else _stop  # with a lifeline only that decides
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, ours)
    return Supervisor(settings).run()


if __name__ == "__main__":
    sys.exit(main())
