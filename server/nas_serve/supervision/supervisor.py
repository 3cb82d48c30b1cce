"""The loop: starts Triton and Envoy, watches, and starts again what does not answer: an open port proves nothing.

Triton is started again if it ends, if one of its processes is gone, or if a model no longer gives its known answer.
Pauses grow; after several restarts in a row it gives up, says why, and ends, so that whoever restarts containers can.

Envoy answers clients, says «unavailable» while Triton is away, and learns from here how many requests a second the
server can do, so that it refuses what would be too late.

It ends on SIGTERM, or when standard input closes, which it does when the parent dies: new requests are refused, those
under way are answered, then the server ends and all is cleaned up.
"""

from __future__ import annotations

import contextlib
import math
import os
import select
import shutil
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

from nas_ensembles import integrity

from ..front.envoy import Envoy, EnvoyError
from . import view
from .capacity import Capacity
from .client import ANSWER_S, NO_ANSWER, Client
from .errors import Changed, Ended, Failed, Hopeless
from .questions import Questions
from .settings import Settings
from .status import Probes, Troubles, say
from .triton import Triton
from .watched import Watched

_SHARED_MEMORY = Path("/dev/shm")
_CLIENTS = "nas_client_"  # names of regions of nas-client begin so, and are those of their files
_LOOK_S = 0.5  # between looks at the processes
_ASK_S = 5.0  # between questions to the models
_ASK_SHARE, _ASK_SELDOM_S = 0.1, 20.0  # many or large models: a tenth of the time, but so often at least
_ASK_BUSY_S = 60.0  # to those that answer clients meanwhile: a question delays them
_LOOK_AGAIN_S = 10.0  # at models that could not be served
_STEADY_S = 10.0  # a server that ran so long is no hopeless case
_PAUSES_S = (0.0, 1.0, 2.0, 4.0, 8.0)  # before each restart in a row; after them it gives up


class Supervisor:
    """Keeps one server answering.

    Args:
        settings: what to keep running.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._restarts = 0
        self._probes = Probes(settings.state)
        ports = settings.front.triton_ports
        self._client = Client(ports["http"], settings.front.triton_key, ports["metrics"])
        self._questions = Questions(Path(settings.model_repository), self._client)
        self._asker = ThreadPoolExecutor(1)  # models take their time to answer; meanwhile the rest goes on
        self._watched = Watched(Path(settings.model_repository)) if settings.watch else None
        self._looked_at, self._wrong = -math.inf, ""  # what was built later, and why it cannot be served
        self._troubles = Troubles()
        self._capacity = Capacity()
        self._computed = 0  # by engines, as far as was known
        self._log: IO[bytes] = sys.stderr.buffer
        self._envoy: Envoy | None = None
        self._triton: Triton | None = None

    def run(self) -> int:
        """Until the end; the exit code: 0 if it was asked for, else 1."""
        in_a_row, was_ready = 0, False
        if self._settings.log:
            self._log = open(self._settings.log, "ab")
        try:
            while True:
                ready_at = None
                try:
                    self._wait_for_models()
                    self._start()
                    ready_at, was_ready = time.monotonic(), True
                    say("ready")
                    self._watch()
                except Changed:
                    in_a_row = 0
                    say("reloading")
                    self._drain()
                    self._kill()
                except Exception as error:  # whatever it is, clients want answers
                    known = isinstance(error, Failed | EnvoyError)
                    failure = str(error) if known else f"{type(error).__name__}: {error}"
                    steady = ready_at is not None and time.monotonic() - ready_at > _STEADY_S
                    in_a_row = 1 if steady else in_a_row + 1
                    self._kill()
                    if not was_ready or in_a_row > len(_PAUSES_S) or isinstance(error, Hopeless):
                        say("gave-up", failure)
                        return 1
                    self._restarts += 1
                    say("restarting", failure)
                    self._pause(_PAUSES_S[in_a_row - 1])
        except Ended:
            pass
        finally:
            self._end()
        for path in self._settings.remove:
            shutil.rmtree(path) if os.path.isdir(path) else Path(path).unlink(missing_ok=True)
        return 0

    def _wait_for_models(self) -> None:
        """Until there is one and all are whole, if it is told of changes at all."""
        if self._watched is None:
            return
        if self._watched.is_empty:
            say("waiting", f"there are no models in {self._watched.repository}; what nas-build puts there is served")
        if self._watched.is_empty or not self._is_whole():
            self._watched.forget()
            self._start_envoy()
            while not self._has_changed():
                self._pause(_LOOK_S)
        self._watched.accept()

    def _has_changed(self) -> bool:
        """Whether other models are there than are served, and whole: one that is still copied, or not signed, waits."""
        if self._watched is None:
            return False
        with self._troubles.noted("the model repository cannot be looked at"):
            now = time.monotonic()
            if not self._watched.changed() or now - self._looked_at < _LOOK_AGAIN_S:
                return False
            self._looked_at = now
            return self._is_whole()
        return False

    def _is_whole(self) -> bool:
        """What was built; what cannot be served is told of once."""
        try:
            self._check()
        except integrity.IntegrityError as error:
            if str(error) != self._wrong:
                say("note", f"not served yet: {error}")
            self._wrong = str(error)
            return False
        self._looked_at, self._wrong = -math.inf, ""
        return True

    def _check(self) -> None:
        settings = self._settings
        key = Path(settings.public_key) if settings.public_key else None
        integrity.check(Path(settings.built or settings.model_repository), settings.models, key)

    def _start(self) -> None:
        settings = self._settings
        try:
            self._check()
        except integrity.IntegrityError as error:
            raise Hopeless(str(error)) from None
        if settings.built:
            view.link(
                Path(settings.built), settings.models, Path(settings.model_repository), polled=settings.may_reload
            )
        envoy = self._start_envoy()
        self._triton = Triton(settings, self._log, self._restarts)
        deadline = time.monotonic() + settings.start_s
        while time.monotonic() < deadline:
            self._pause(0.1 if self._triton.key_hidden else 0.01)
            self._must_run()
            self._triton.hide_key()
            if not self._triton.listens:
                continue
            with contextlib.suppress(*NO_ANSWER):
                if self._client.get("/v2/health/ready") is not None:
                    self._triton.close_shared_memory()
                    envoy.open(True)
                    return
        raise Failed(f"it was not ready after {settings.start_s:g} s")

    def _start_envoy(self) -> Envoy:
        """Unless it runs; it refuses everything until it is opened."""
        if self._envoy is None:
            self._envoy = Envoy(self._settings.front, self._log)
        return self._envoy

    def _watch(self) -> None:
        """Until something is wrong."""
        assert self._triton is not None
        asked = asked_busy = -math.inf
        pause, lost, asking = _ASK_S, False, None
        while True:
            self._must_run()
            if self._has_changed():
                raise Changed
            lost = self._triton.lost_some() or lost
            if lost and not self._settings.may_reload:
                raise Failed("a process of a Python model is gone")
            now = time.monotonic()
            if asking is None and (lost or now - asked > pause):
                busy_too = lost or now - asked_busy > _ASK_BUSY_S
                asked, asked_busy, lost = now, now if busy_too else asked_busy, False
                asking = self._asker.submit(self._ask, busy_too)
            elif asking is not None and asking.done():
                if asking.exception():
                    self._pause(_LOOK_S)
                    self._must_run()  # Triton may have ended, which says more
                for seconds in asking.result():
                    self._capacity.see_one(seconds)
                pause = min(max(_ASK_S, (now - asked) / _ASK_SHARE), _ASK_SELDOM_S)
                asking, asked = None, now
            self._triton.close_shared_memory()
            self._tell_capacity()
            self._show("ready")
            self._pause(_LOOK_S)

    def _ask(self, busy_too: bool) -> list[float]:
        """Ask Triton and its models; seconds that ensembles took."""
        self._must_answer()
        seconds = list(self._questions.ask_all(busy_too=busy_too))
        self._unregister_stale()
        return seconds

    def _must_run(self) -> None:
        assert self._triton is not None and self._envoy is not None
        self._envoy.must_run()
        self._triton.must_run()

    def _must_answer(self) -> None:
        """Triton itself; its models are asked beside."""
        for last in (False, True):
            try:
                self._client.get("/v2/health/live", ANSWER_S / 2)
                return
            except NO_ANSWER as error:
                if last:
                    raise Failed(f"Triton gives no answer: {error}") from None

    def _tell_capacity(self) -> None:
        """To Envoy."""
        assert self._envoy is not None
        now = time.time()
        try:
            active, answered = self._envoy.counts()
        except EnvoyError:
            active, answered = self._envoy.counts()  # it may have been busy for a moment
        # Envoy does not see those that gave up, for which Triton works on; engines not what is asked of postprocessing.
        waiting, self._computed = self._client.load() or (0, self._computed)
        self._capacity.see(max(active, waiting), (answered, self._computed), now)
        with self._troubles.noted("Envoy is not told how much the server can do, and lets in what may be too late"):
            self._capacity.write(Path(self._settings.front.capacity_file))

    def _show(self, name: str) -> None:
        with self._troubles.noted("probes cannot be told"):
            self._probes.show(name)

    def _unregister_stale(self) -> None:
        """Shared memory of clients that were killed: the file is gone, Triton still holds its pages."""
        for region in self._client.regions():
            if region.startswith(_CLIENTS) and not (_SHARED_MEMORY / region).exists():
                self._client.unregister(region)

    def _pause(self, seconds: float) -> None:
        """Wait, unless it is over.

        Raises:
            Ended: if it is.
        """
        self._show("live")
        if not self._settings.lifeline:
            time.sleep(seconds)
        elif select.select([sys.stdin], [], [], seconds)[0]:
            raise Ended

    def _kill(self) -> None:
        """Triton, at once; Envoy says so to clients."""
        self._probes.hide("ready")
        if self._envoy is not None:
            try:
                self._envoy.open(False)
            except EnvoyError:
                self._envoy.stop()
                self._envoy = None
        if self._triton is not None:
            self._triton.kill()
            self._triton = None
        Path(self._settings.front.capacity_file).unlink(missing_ok=True)
        self._capacity, self._computed = Capacity(), 0

    def _end(self) -> None:
        """For good."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        whole = self._triton is not None and self._triton.is_whole
        if whole:
            self._drain()
        if self._envoy is not None:
            self._envoy.stop()  # Triton waits for its connections
            self._envoy = None
        if self._triton is not None:
            self._triton.end(self._settings.grace_s if whole else 1.0)
        self._kill()
        self._probes.hide("live")

    def _drain(self) -> None:
        """Refuse what comes, answer what is under way."""
        self._probes.hide("ready")
        if self._envoy is None:
            return
        deadline = time.monotonic() + self._settings.drain_s
        with contextlib.suppress(EnvoyError):
            self._envoy.open(False)
            while self._envoy.counts()[0] and time.monotonic() < deadline:
                time.sleep(0.05)
