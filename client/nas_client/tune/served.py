"""Serve a repository for as long as it is measured."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from nas_ensembles import contract

from .. import own_server
from ..detection.detector import Detector
from ..errors import ClientError, TuneError
from .settings import Settings

_START_S = 600.0  # a plan of a large model takes minutes to load
_STOP_S = 90.0
_LOOK_S = 0.5
Ended = Callable[[], int | None]  # the exit code of the server, None while it runs


@contextmanager
def by_nas_serve(repository: Path, model: str) -> Iterator[tuple[str, Ended]]:
    """Its gRPC address, and whether it has ended; it ends with the block, and with this process."""
    server, url = own_server.start(repository, model)
    try:
        yield url, server.poll
    finally:
        assert server.stdin is not None
        server.stdin.close()
        server.wait(_STOP_S)


@contextmanager
def by_command(command: str, repository: Path, url: str | None) -> Iterator[tuple[str | None, Ended]]:
    """By a command of the user's that runs until it is interrupted; it finds the repository in MODEL_REPOSITORY."""
    environment = os.environ | {"MODEL_REPOSITORY": str(repository)}
    server = subprocess.Popen(
        command,
        shell=True,
        env=environment,
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    try:
        yield url, server.poll
    finally:
        _interrupt(server)


def _interrupt(server: subprocess.Popen[bytes]) -> None:
    for number, seconds in ((signal.SIGINT, _STOP_S), (signal.SIGKILL, 10.0)):
        try:
            os.killpg(server.pid, number)
            server.wait(seconds)
            return
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue


def ready(connect: Callable[[], Detector], settings: Settings, ended: Ended, seconds: float = _START_S) -> Detector:
    """A detector of the model, as soon as it is served with these settings and no others.

    Args:
        connect: to the server.
        settings: that it must have.
        ended: of the server that is waited for.
        seconds: to wait.

    Raises:
        TuneError: says what there was instead.
    """
    deadline = time.monotonic() + seconds
    while True:
        detector = connect()
        try:
            has = _served_with(detector)
            if has == settings:
                return detector
            problem = f"{detector.transport.address} serves it with {has}"
        except ClientError as error:
            problem = str(error)
        detector.close()
        if (code := ended()) is not None:
            raise TuneError(
                f"the server ended with {code} before it answered; expected one that runs until it is interrupted. "
                f"Last of all: {problem}"
            )
        if time.monotonic() > deadline:
            raise TuneError(f"no server with {settings} after {seconds:.0f} s: {problem}")
        time.sleep(_LOOK_S)


def _served_with(detector: Detector) -> Settings:
    engine = detector.transport.model_config(contract.stage_name(detector.model.name, "engine"))
    delay = engine.get("dynamic_batching", {}).get("max_queue_delay_microseconds", 0)
    return Settings(int(engine["max_batch_size"]), int(delay), int(engine["instance_group"][0]["count"]))
