"""Equal inputs, equal files: a build of this process, and one as another CPU with other threads would make it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.builds import Built
from support.cpu import INSTRUCTION_SETS

BIN = Path(sys.executable).parent
ELSEWHERE = {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": INSTRUCTION_SETS[0], "OMP_NUM_THREADS": "1"}


def files(folder: Path) -> dict[str, bytes]:
    """All but the one that describes the machine."""
    found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    machines = [path for path in found if path.endswith("/machine.json")]
    assert len(machines) == 1
    return {path: data for path, data in found.items() if path not in machines}


@pytest.mark.nightly
def test_builds_are_the_same_byte_for_byte(built: Built, tmp_path: Path) -> None:
    command = [BIN / "nas-build", "--weights", built.options.weights, "--precision", "int8", "--target", "openvino"]
    command += ["--model-repository", tmp_path]
    subprocess.run(list(map(str, command)), env=os.environ | ELSEWHERE, check=True, timeout=500, capture_output=True)
    expected, got = files(built.folder), files(tmp_path)
    assert got.keys() == expected.keys()
    assert [path for path in got if got[path] != expected[path]] == []
