"""Keeps a Triton answering, and leaves nothing behind.

    NAS_SUPERVISE='{"command": ["tritonserver", ...], ...}' python supervisor.py
    NAS_SUPERVISED_KEY=... python supervisor.py tritonserver --model-repository=/models ...

Runs the command in a process group of its own and starts it again if it ends, if one of its processes is gone, or if a
model no longer gives its known answer: a port that is open proves nothing. Pauses grow; after several restarts in a row
it gives up, says why, and ends, so that whoever restarts containers can. It speaks in lines on standard output:
`ready`, `restarting CAUSE`, `wrong MODEL`, `note TEXT`, `gave-up CAUSE`.

It ends the server and cleans up on SIGTERM, or when standard input closes, which it does when the parent dies. The
standard library, numpy and `known_answer` are all it needs: containers run it too.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import json
import os
import select
import shutil
import signal
import struct
import subprocess
import sys
import time
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

import numpy as np

if importlib.util.find_spec("nas_ensembles"):
    from nas_ensembles import known_answer
else:  # in a container it lies beside this file
    import known_answer  # type: ignore[import-not-found,no-redef]

VARIABLE = "NAS_SUPERVISE"
KEY = "@ADMIN_KEY@"  # in the arguments: the key itself would be for all users of the machine to read
_SHARED_MEMORY = Path("/dev/shm")
_PR_SET_PDEATHSIG = 1
_LOOK_S = 0.5  # between looks at the processes
_ASK_S = 5.0  # between questions to the models
_ANSWER_S = 10.0  # for an answer, if nothing else is answered meanwhile
_STEADY_S = 60.0  # a server that ran so long counts as well again
_PAUSES_S = (0.0, 1.0, 2.0, 4.0, 8.0)  # before each restart in a row; after them it gives up
_open = build_opener(ProxyHandler({})).open  # what is asked is on this machine, whatever the environment's proxies
_CANDIDATES = (("candidate_boxes", "<f4"), ("candidate_scores", "<f4"), ("candidate_labels", "<i4"))


@dataclass(frozen=True)
class Settings:
    """What to keep running, as JSON in the environment: secrets in it are for this user only, as arguments are not.

    Attributes:
        command: tritonserver and its arguments.
        http: host:port of its HTTP API.
        model_repository: where known answers lie.
        log: file for the server's output; None is standard error.
        remove: files and folders that are removed when it was told to end; after a failure the log is wanted.
        shm_prefix: of regions to remove, in /dev/shm.
        lifeline: end when standard input closes.
        may_reload: models come and go (a polled repository), so that a process that ends may be no accident.
        start_s: for the server to become ready.
        grace_s: for it to end.
        admin_key: takes the place of `KEY` in the command, and is overwritten there once it was read.
    """

    command: list[str]
    http: str
    model_repository: str
    log: str | None = None
    remove: list[str] = field(default_factory=list)
    shm_prefix: str | None = None
    lifeline: bool = False
    may_reload: bool = False
    start_s: float = 300.0
    grace_s: float = 10.0
    admin_key: str = ""


class Ended(Exception):
    """Standard input was closed, or a signal came."""


class Failed(Exception):
    """The server does not run, or does not answer; the message says what was seen."""


@dataclass
class Supervisor:
    """See the module.

    Attributes:
        restarts: since the beginning.
    """

    settings: Settings
    restarts: int = 0
    _server: subprocess.Popen[bytes] | None = None
    _family: set[int] = field(default_factory=set)
    _right: set[tuple[str, str]] = field(default_factory=set)
    _wrong: set[tuple[str, str]] = field(default_factory=set)

    def run(self) -> int:
        """Until the end; the exit code: 0 if it was asked for, else 1."""
        in_a_row, was_ready = 0, False
        try:
            while True:
                ready_at = None
                try:
                    self._start()
                    ready_at, was_ready = time.monotonic(), True
                    _say("ready")
                    self._watch()
                except Failed as failure:
                    steady = ready_at is not None and time.monotonic() - ready_at > _STEADY_S
                    in_a_row = 1 if steady else in_a_row + 1
                    self._kill()
                    if not was_ready or in_a_row > len(_PAUSES_S):
                        _say(f"gave-up {failure}")
                        return 1
                    self.restarts += 1
                    _say(f"restarting {failure}")
                    self._pause(_PAUSES_S[in_a_row - 1])
        except Ended:
            self._end()
            for path in self.settings.remove:
                shutil.rmtree(path) if os.path.isdir(path) else Path(path).unlink(missing_ok=True)
            return 0
        finally:
            self._end()

    def _start(self) -> None:
        settings = self.settings
        environment = os.environ | {"NAS_SERVER_RESTARTS": str(self.restarts)}
        environment.pop(VARIABLE, None)
        with contextlib.ExitStack() as stack:
            log = stack.enter_context(open(settings.log, "ab")) if settings.log else sys.stderr
            self._server = subprocess.Popen(
                [part.replace(KEY, settings.admin_key) for part in settings.command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )
        deadline = time.monotonic() + settings.start_s
        while time.monotonic() < deadline:
            self._pause(0.1)
            self._must_run()
            with contextlib.suppress(OSError, HTTPException):
                if self._get("/v2/health/ready", 2.0) is not None:
                    self._hide_key()
                    self._family = self._children()
                    return
        raise Failed(f"it was not ready after {settings.start_s:g} s")

    def _watch(self) -> None:
        """Until something is wrong."""
        asked = 0.0
        while True:
            self._must_run()
            children = self._children()
            gone = self._family - children
            if gone and not self.settings.may_reload:
                raise Failed("a process of a Python model is gone")
            self._family = children
            if gone or time.monotonic() - asked > _ASK_S:
                for engine in self._engines():
                    self._ask(*engine)
                asked = time.monotonic()
            self._pause(_LOOK_S)

    def _must_run(self) -> None:
        assert self._server is not None
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

    def _ask(self, name: str, version: str, known: known_answer.KnownAnswer) -> None:
        """The engine must give its answer, if it ever did, and the ensemble one at all.

        Raises:
            Failed: if not; a model that is only busy is none.
        """
        before = self._answered(name)
        try:
            canvas = known.canvas
            outputs = self._infer(
                f"{name}_engine/versions/{version}", "images", "UINT8", [1, *canvas.shape], canvas.tobytes()
            )
            agreement = known.agreement(*outputs)
            picture = _bmp(known.picture)
            self._infer(name, "image", "BYTES", [1, 1], struct.pack("<I", len(picture)) + picture)
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
            raise Failed(f"{name} gives no answer: {error}") from None
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
        request = Request(f"http://{self.settings.http}/v2/models/{model}/infer", header + data)
        request.add_header("Inference-Header-Content-Length", str(len(header)))
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

    def _answered(self, name: str) -> int:
        """Requests that the model has answered, of pictures and of frames; 0 if it cannot be known."""
        try:
            text = self._get(f"/v2/models/{name}_postprocess/stats", 2.0) or b"{}"
            return int(json.loads(text)["model_stats"][0]["inference_stats"]["success"]["count"])
        except (OSError, HTTPException, ValueError, KeyError, IndexError):
            return 0

    def _get(self, path: str, timeout_s: float) -> bytes | None:
        """None if the answer is no success."""
        request = Request(f"http://{self.settings.http}{path}", headers={"admin-key": self.settings.admin_key})
        try:
            with _open(request, timeout=timeout_s) as response:
                return bytes(response.read())
        except HTTPError:
            return None

    def _hide_key(self) -> None:
        """Arguments can be read by every user of the machine: Triton has read them, and needs them no more."""
        assert self._server is not None
        key = self.settings.admin_key.encode()
        if not key:
            return
        try:
            fields = Path(f"/proc/{self._server.pid}/stat").read_text().rpartition(")")[2].split()
            start, end = int(fields[45]), int(fields[46])  # arg_start, arg_end
            with open(f"/proc/{self._server.pid}/mem", "r+b", buffering=0) as memory:
                memory.seek(start)
                arguments = memory.read(end - start)
                memory.seek(start)
                memory.write(arguments.replace(key, b"*" * len(key)))
        except (OSError, ValueError, IndexError) as error:
            _say(f"note the admin key stays among the arguments of tritonserver, which other users can read: {error}")

    def _pause(self, seconds: float) -> None:
        """Wait, unless it is over.

        Raises:
            Ended: if it is.
        """
        if not self.settings.lifeline:
            time.sleep(seconds)
        elif select.select([sys.stdin], [], [], seconds)[0]:
            raise Ended

    def _kill(self) -> None:
        """The whole group, at once, and its shared memory."""
        if self._server is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._server.pid, signal.SIGKILL)
            self._server.wait()
        if self.settings.shm_prefix:
            remove_shared_memory(self.settings.shm_prefix)

    def _end(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        if self._server is not None and self._server.poll() is None:
            self._server.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                # A server whose processes are gone waits for them in vain.
                self._server.wait(self.settings.grace_s if self._family <= self._children() else 1.0)
        self._kill()


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


def _state(pid: int) -> str:
    """One letter of /proc: Z is dead and not buried."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return ""


def _die_with_parent() -> None:
    """Linux: SIGKILL for the server if this process is killed itself."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _say(line: str) -> None:
    with contextlib.suppress(BrokenPipeError):
        print(line.replace("\n", " "), flush=True)


def _stop(*_: object) -> None:
    raise Ended


def _from_arguments(command: list[str]) -> Settings:
    """As a container starts it: the command, its key in the environment."""
    given: dict[str, str] = {}
    for part, after in zip(command, [*command[1:], ""], strict=True):
        name, separator, value = part.removeprefix("--").partition("=")
        if part.startswith("--"):
            given[name] = value if separator else after
    if given.get("allow-http", "true").lower() in ("false", "0"):
        sys.exit("the supervisor asks Triton through HTTP: --allow-http=false cannot be supervised")
    address = given.get("http-address", "0.0.0.0")
    prefix = f"nas_triton_{os.urandom(4).hex()}_"
    return Settings(
        command=[*command, f"--backend-config=python,shm-region-prefix-name={prefix}"],
        http=f"{'localhost' if address == '0.0.0.0' else address}:{given.get('http-port', 8000)}",
        model_repository=given.get("model-repository", "/models"),
        shm_prefix=prefix,
        grace_s=40.0,
        admin_key=os.environ.pop("NAS_SUPERVISED_KEY", ""),
    )


def main() -> int:
    """Entry point."""
    settings = Settings(**json.loads(os.environ[VARIABLE])) if VARIABLE in os.environ else _from_arguments(sys.argv[1:])
    ours = signal.SIG_IGN if settings.lifeline else _stop  # with a lifeline only that decides
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, ours)
    return Supervisor(settings).run()


if __name__ == "__main__":
    sys.exit(main())
