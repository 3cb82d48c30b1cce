"""The short form of `make chaos`: good and hostile clients while processes are killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

_SMALL = 'mount -t tmpfs -o size=256m tmpfs /dev/shm && exec "$@"'


@pytest.mark.slow
def test_nothing_is_lost_wrong_or_kept(repository: Path) -> None:
    """Asked is what was answered right and what was refused with a reason; memory is as before."""
    command = [sys.executable, str(Path(__file__).with_name("chaos.py")), "--model-repository", str(repository)]
    command += ["--seconds", "40", "--requests", "200", "--pause", "5", "--accidents", "2", "--attacks", "500"]
    # With a /dev/shm that can be filled, where this user may have one.
    small = ["unshare", "--mount", "sh", "-c", _SMALL, "sh"]
    if os.geteuid() == 0 and subprocess.run([*small, "true"], capture_output=True).returncode == 0:
        command = [*small, *command]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert done.stdout, done.stderr
    report = json.loads(done.stdout)
    outcomes = report["outcomes"]
    told = sum(count for name, count in outcomes.items() if name.startswith(("right", "refused")))
    assert report["wrong"] == [] and told == report["asked"] >= 200, report
    assert outcomes["right"] > 50 and sum(name.startswith("accident") for name in outcomes) >= 2, report
    before, after = report["memory_mb"]
    assert after < 1.05 * before, report
    assert done.returncode == 0, done.stderr
