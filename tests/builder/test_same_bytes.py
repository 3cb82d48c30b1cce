"""Equal inputs, equal files: whole builds, as other CPUs would make them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from support.cpu import INSTRUCTION_SETS

BIN = Path(sys.executable).parent
HERE = {"MKL_NUM_THREADS": "3"}
ELSEWHERE = {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": INSTRUCTION_SETS[0], "OMP_NUM_THREADS": "1"}


def built(weights: Path, folder: Path, environment: dict[str, str]) -> dict[str, bytes]:
    """All files but the one that describes the machine."""
    asked = ["--precision", "all", "--target", "openvino", "--weights", weights, "--model-repository", folder]
    command = [BIN / "nas-build", *asked]
    subprocess.run(list(map(str, command)), env=os.environ | environment, check=True, timeout=400, capture_output=True)
    files = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    machines = [path for path in files if path.endswith("/machine.json")]
    assert len(machines) == len(list(folder.glob("*/1/manifest.json")))
    return {path: data for path, data in files.items() if path not in machines}


def test_builds_are_the_same_byte_for_byte(quarter_checkpoint: Path, tmp_path: Path) -> None:
    expected = built(quarter_checkpoint, tmp_path / "here", HERE)
    got = built(quarter_checkpoint, tmp_path / "elsewhere", ELSEWHERE)
    assert got.keys() == expected.keys()
    assert [path for path in got if got[path] != expected[path]] == []
