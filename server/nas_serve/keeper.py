"""Stands between the server and whoever started it, so that nothing is left behind even if that process is killed.

    python -m nas_serve.keeper SHM_PREFIX GRACE_S COMMAND...

Runs COMMAND in a process group of its own and waits for the first of two: the command ends, or standard input
closes, which it does when the parent dies. Then ends the whole group and removes the shared memory of SHM_PREFIX.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

_SHARED_MEMORY = Path("/dev/shm")
_PR_SET_PDEATHSIG = 1


def _die_with_parent() -> None:
    """Linux: SIGKILL for the server if this process is killed itself."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def keep(prefix: str, grace_s: float, command: list[str]) -> int:
    """Run the command until it ends or standard input closes; returns its exit code."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # only standard input decides
    server = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=_die_with_parent, restore_signals=True
    )
    try:
        watch = select.poll()
        watch.register(sys.stdin.fileno(), select.POLLIN | select.POLLHUP)
        watch.register(os.pidfd_open(server.pid), select.POLLIN)
        watch.poll()
        if server.poll() is None:
            server.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.wait(grace_s)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)  # the stubs too
        server.wait()
        remove_shared_memory(prefix)
    return server.returncode


def remove_shared_memory(prefix: str) -> None:
    """Unlink the regions whose names begin with the prefix."""
    for region in _SHARED_MEMORY.glob(f"{prefix}*"):
        region.unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(keep(sys.argv[1], float(sys.argv[2]), sys.argv[3:]))
