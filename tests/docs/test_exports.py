"""The Python of docs/exports.md, as it is written there."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.samples import ROOT, SAMPLES

pytestmark = pytest.mark.slow


def test_onnx_runtime_detects_by_the_lines_of_the_page(tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/exports.md").read_text(), re.DOTALL)
    nas_build = [str(Path(sys.executable).parent / "nas-build"), "export", "demo", "--format", "sg-flat"]
    subprocess.run([*nas_build, "--output", "best_sg-flat.onnx"], cwd=tmp_path, check=True, timeout=300)
    shutil.copy(SAMPLES / "bus.jpg", tmp_path)
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith("label 5, score 0.9")]
    assert len(lines) == 1, done.stdout  # a bus
    box = [float(side) for side in re.findall(r"[\d.]+", lines[0].partition("box")[2])]
    assert box == pytest.approx([54, 242, 805, 758], abs=25)
