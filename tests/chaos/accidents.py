"""What happens to a server: its processes are killed or hang, clients die, shared memory is full."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass

import psutil
from nas_serve import Server

_A_CLIENT = """
import sys, numpy as np, time
from nas_client import Detector
detector = Detector(sys.argv[1], model=sys.argv[2], timeout_s=5)
detector.detect(np.zeros((480, 640, 3), np.uint8))
print("ready", flush=True)
time.sleep(60)
"""


@dataclass(frozen=True)
class Accidents:
    """Of one server; each says what it was."""

    server: Server
    model: str

    def one(self, chance: random.Random) -> str:
        """Any."""
        kinds = (self.kill, self.kill, self.hang, self.kill_a_client, self.fill_shared_memory)
        return chance.choice(kinds)(chance)

    def family(self, name: str = "") -> list[psutil.Process]:
        """Processes whose names have this in them."""
        assert self.server._process is not None
        return [p for p in psutil.Process(self.server._process.pid).children(recursive=True) if name in p.name()]

    def kill(self, chance: random.Random) -> str:
        name = chance.choice(("stub", "stub", "tritonserver", "envoy"))
        chance.choice(self.family(name)).kill()
        return f"{name} killed"

    def hang(self, chance: random.Random) -> str:
        process = chance.choice(self.family("stub"))
        process.suspend()
        return "stub stopped"

    def kill_a_client(self, chance: random.Random) -> str:
        """With frames in shared memory."""
        command = [sys.executable, "-c", _A_CLIENT, self.server.grpc_url, self.model]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as client:
            assert client.stdout is not None
            client.stdout.readline()
            client.send_signal(signal.SIGKILL)
        return "client killed"

    def fill_shared_memory(self, chance: random.Random) -> str:
        """But for a megabyte, for a second; no more than 8 GB of it."""
        free = os.statvfs("/dev/shm").f_bavail * os.statvfs("/dev/shm").f_frsize - 2**20
        if not 0 < free < 8 * 2**30:
            return "none: /dev/shm is too large to fill"
        with tempfile.NamedTemporaryFile(dir="/dev/shm") as file:
            with contextlib.suppress(OSError):
                os.posix_fallocate(file.fileno(), 0, free)
            time.sleep(1)
        return "/dev/shm filled"
