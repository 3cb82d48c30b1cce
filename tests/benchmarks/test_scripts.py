"""What measures starts: modules move, and nobody measures every day."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.samples import ROOT

pytestmark = pytest.mark.slow
SCRIPTS = sorted(path for path in (ROOT / "benchmarks").glob("*.py") if path.stem != "fastapi_app")  # a server's


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_it_finds_what_it_imports(script: Path) -> None:
    command = [sys.executable, str(script), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=os.environ)
    if "No module named" in done.stderr and "nas_" not in done.stderr.rpartition("No module named")[2]:
        pytest.skip(done.stderr.splitlines()[-1])
    assert done.returncode == 0, done.stderr
