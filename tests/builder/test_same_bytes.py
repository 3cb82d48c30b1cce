"""Equal inputs, equal files: whole builds, as other CPUs would make them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.cpu import INSTRUCTION_SETS

BIN = Path(sys.executable).parent
OTHER = {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": INSTRUCTION_SETS[0], "OMP_NUM_THREADS": "1"}
ANOTHER = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": INSTRUCTION_SETS[-1], "MKL_NUM_THREADS": "3"}


def built(weights: Path, folder: Path, environment: dict[str, str]) -> dict[str, bytes]:
    """All files but the one that describes the machine."""
    asked = ["--precision", "all", "--target", "openvino", "--weights", weights, "--model-repository", folder]
    command = [BIN / "nas-build", *asked]
    subprocess.run(list(map(str, command)), env=os.environ | environment, check=True, timeout=400, capture_output=True)
    files = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    machines = [path for path in files if path.endswith("/machine.json")]
    assert len(machines) == len(list(folder.glob("*/1/manifest.json")))
    return {path: data for path, data in files.items() if path not in machines}


@pytest.mark.parametrize("environment", [OTHER, ANOTHER], ids=lambda e: " ".join(f"{k}={v}" for k, v in e.items()))
def test_builds_are_the_same_byte_for_byte(
    environment: dict[str, str], quarter_checkpoint: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    here = tmp_path_factory.getbasetemp() / "same_bytes"
    expected = built(quarter_checkpoint, here, {})  # the second time it is up to date
    got = built(quarter_checkpoint, tmp_path / "there", environment)
    assert got.keys() == expected.keys()
    assert [path for path in got if got[path] != expected[path]] == []
