"""The process of Triton, and those of its Python models: start, look, end."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import IO

from ..front.envoy import prepare
from .errors import Failed
from .settings import KEY, Settings
from .status import say

_SHARED_MEMORY = Path("/dev/shm")
_OPTIONS = (
    "--exit-on-error=true",
    "--strict-readiness=true",
    "--disable-auto-complete-config",
    # Percentiles, for dashboards.
    "--metrics-config=summary_latencies=true",
    "--metrics-config=summary_quantiles=0.5:0.01,0.95:0.005,0.99:0.001",
)


class Triton:
    """A tritonserver that runs, in a process group of its own.

    Args:
        settings: what to start.
        log: where its output goes.
        restarts: how many there were before it.

    Attributes:
        key_hidden: whether it was tried.
    """

    def __init__(self, settings: Settings, log: IO[bytes], restarts: int) -> None:
        self._settings = settings
        self._family: set[int] | None = None
        self.key_hidden = False
        self._process = subprocess.Popen(
            [*(part.replace(KEY, settings.front.triton_key) for part in settings.command), *_OPTIONS],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=os.environ | {"NAS_SERVER_RESTARTS": str(restarts)},
            start_new_session=True,
            preexec_fn=prepare,
        )

    @property
    def runs(self) -> bool:
        """Whether its own process does."""
        return self._process.poll() is None

    @property
    def is_whole(self) -> bool:
        """Whether it may answer: it was looked at, and all that was there runs. Else it waits in vain when it ends."""
        return self.runs and self._family is not None and self._family <= self._children()

    @property
    def listens(self) -> bool:
        """Whether its ports are its own: nothing is sent to a port that somebody else may have taken."""
        return all(_ours(port) for port in self._settings.front.triton_ports.values())

    def must_run(self) -> None:
        """Raises Failed if it has ended."""
        code = self._process.poll()
        if code is None:
            return
        if code < 0:
            name = signal.Signals(-code).name
            hint = " (out of memory?)" if -code == signal.SIGKILL else ""
            raise Failed(f"tritonserver was ended by {name}{hint}")
        raise Failed(f"tritonserver ended with exit code {code}")

    def lost_some(self) -> bool:
        """Whether a process of a Python model is gone since the last look; the first is when it is ready."""
        before, self._family = self._family, self._children()
        return before is not None and not before <= self._family

    def hide_key(self) -> None:
        """From other users of the machine, who can read arguments: Triton needs them no more when it has read them."""
        if self.key_hidden or len(os.listdir(f"/proc/{self._process.pid}/task")) == 1:
            return
        self.key_hidden = True
        key = self._settings.front.triton_key.encode()
        try:
            fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
            start, end = int(fields[45]), int(fields[46])  # arg_start, arg_end
            with open(f"/proc/{self._process.pid}/mem", "r+b", buffering=0) as memory:
                memory.seek(start)
                arguments = memory.read(end - start)
                memory.seek(start)
                memory.write(arguments.replace(key, b"*" * len(key)))
        except (OSError, ValueError, IndexError) as error:
            say("note", f"the key stays among the arguments of tritonserver, which other users can read: {error}")

    def close_shared_memory(self) -> None:
        """To other users: it has clients' pictures, and the Python backend opens it to all, whatever the umask says."""
        for region in _SHARED_MEMORY.glob(f"{self._settings.shm_prefix}*") if self._settings.shm_prefix else ():
            with contextlib.suppress(OSError):
                if region.stat().st_mode & 0o077:
                    region.chmod(0o600)

    def end(self, grace_s: float) -> None:
        """Ask it to, and wait so long."""
        if self.runs:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(grace_s)

    def kill(self) -> None:
        """The whole group, at once, and its shared memory."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._bury()
        if self._settings.shm_prefix:
            remove_shared_memory(self._settings.shm_prefix)

    def _bury(self) -> None:
        """Processes of its models, which are the supervisor's when it is gone."""
        deadline = time.monotonic() + 1
        with contextlib.suppress(ChildProcessError):
            while time.monotonic() < deadline:
                if os.waitpid(-self._process.pid, os.WNOHANG) == (0, 0):
                    time.sleep(0.01)

    def _children(self) -> set[int]:
        """Its processes that are alive."""
        found: set[int] = set()
        tasks = f"/proc/{self._process.pid}/task"
        with contextlib.suppress(OSError):
            for task in os.listdir(tasks):  # a hundred, twice a second: as cheaply as can be
                with contextlib.suppress(OSError), open(f"{tasks}/{task}/children", "rb", buffering=0) as file:
                    found.update(map(int, file.read().split()))
        return {pid for pid in found if _state(pid) not in ("Z", "X", "")}


def remove_shared_memory(prefix: str) -> None:
    """Unlink the regions whose names begin with the prefix."""
    for region in _SHARED_MEMORY.glob(f"{prefix}*"):
        region.unlink(missing_ok=True)


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
