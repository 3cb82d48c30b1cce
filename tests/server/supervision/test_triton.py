"""The process, with one of a few lines in Triton's place."""

from __future__ import annotations

import ctypes
import io
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from nas_serve.front.front import Front
from nas_serve.supervision.errors import Failed
from nas_serve.supervision.ports import free_ports
from nas_serve.supervision.settings import KEY, Settings
from nas_serve.supervision.triton import Triton

from support.waiting import until

PROGRAM = """
import os, socket, subprocess, sys, threading, time
child = subprocess.Popen(["sleep", "60"])
sockets = [socket.create_server(("127.0.0.1", int(port))) for port in os.environ["PORTS"].split()]
threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
print(os.environ["NAS_SERVER_RESTARTS"], sys.argv[1], flush=True)
time.sleep(60)
"""


@pytest.fixture
def log(tmp_path: Path) -> Iterator[io.BufferedWriter]:
    with (tmp_path / "log").open("wb") as file:
        yield file


@pytest.fixture
def triton(log: io.BufferedWriter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Triton]:
    ports = free_ports()
    monkeypatch.setenv("PORTS", " ".join(map(str, ports.values())))
    front = Front("127.0.0.1", {}, ports, "0123456789abcdef" * 4, "", str(tmp_path))
    settings = Settings([sys.executable, "-c", PROGRAM, f"--key={KEY}"], front, str(tmp_path))
    running = Triton(settings, log, 3)
    yield running
    running.kill()


def process_of(log: io.BufferedWriter) -> psutil.Process:
    """The program that has told who it is."""
    path = Path(log.name)
    assert until(lambda: path.read_text().endswith("\n"))
    return next(p for p in psutil.Process().children() if PROGRAM in p.cmdline())


def test_it_gets_the_key_which_nobody_else_can_read(triton: Triton, log: io.BufferedWriter) -> None:
    process = process_of(log)
    assert Path(log.name).read_text().split() == ["3", f"--key={'0123456789abcdef' * 4}"]
    triton.hide_key()
    assert triton.key_hidden and f"--key={'*' * 64}" in process.cmdline()


def test_it_listens_when_all_its_ports_are_open(triton: Triton, log: io.BufferedWriter) -> None:
    process_of(log)
    assert triton.listens and triton.runs
    triton.kill()
    assert not triton.listens and not triton.runs


def test_a_process_of_a_model_that_is_gone_is_noticed(triton: Triton, log: io.BufferedWriter) -> None:
    process = process_of(log)
    assert not triton.is_whole  # nobody has looked
    assert not triton.lost_some() and triton.is_whole
    process.children()[0].kill()
    assert until(lambda: not triton.is_whole)
    assert triton.lost_some() and not triton.lost_some()


def test_how_it_ended_is_told(triton: Triton, log: io.BufferedWriter) -> None:
    process = process_of(log)
    triton.must_run()
    process.send_signal(signal.SIGKILL)
    assert until(lambda: not triton.runs)
    with pytest.raises(Failed, match=r"tritonserver was ended by SIGKILL \(out of memory\?\)"):
        triton.must_run()


def test_the_whole_group_is_killed(triton: Triton, log: io.BufferedWriter) -> None:
    (child,) = process_of(log).children()
    triton.end(5)
    assert not triton.runs and child.is_running()
    triton.kill()
    assert until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)


def test_what_it_leaves_behind_is_buried(triton: Triton, log: io.BufferedWriter) -> None:
    """As for the supervisor, or the first process of a container."""
    (child,) = process_of(log).children()
    ctypes.CDLL(None).prctl(36, 1)  # PR_SET_CHILD_SUBREAPER
    try:
        triton.kill()
        assert not child.is_running()
    finally:
        ctypes.CDLL(None).prctl(36, 0)


def test_a_program_that_is_not_there(log: io.BufferedWriter, tmp_path: Path) -> None:
    front = Front("127.0.0.1", {}, {}, "key", "", str(tmp_path))
    with pytest.raises((FileNotFoundError, subprocess.SubprocessError)):
        Triton(Settings(["no-such-program"], front, str(tmp_path)), log, 0)
