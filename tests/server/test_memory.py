"""No process of a served model grows. `make memory` asks for longer."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from support.samples import ROOT


@pytest.mark.nightly
def test_nothing_grows(repository: Path) -> None:
    """Pictures, frames and what is neither, of many sizes, 8 at a time."""
    script = ROOT / "benchmarks/memory.py"
    command = [sys.executable, str(script), "--requests", "3000", "--model-repository", str(repository)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(
        stage in done.stdout for stage in ("envoy", "supervisor", "tritonserver", "preprocess", "engine", "postprocess")
    )
