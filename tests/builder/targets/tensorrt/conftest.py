from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

from support.machines import write_script


@pytest.fixture()
def gpu_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder first on PATH, with an nvidia-smi."""
    folder = tmp_path / "bin"
    folder.mkdir()
    write_script(folder / "nvidia-smi", "#!/bin/sh\necho 'NVIDIA L4, 8.9'\n")
    monkeypatch.setenv("PATH", f"{folder}:{Path(sys.executable).parent}:{os.environ['PATH']}")
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/no.sock")
    return folder


@pytest.fixture()
def trtexec_machine(gpu_machine: Path) -> Path:
    """... and a trtexec that builds with TensorRT for RTX."""
    shutil.copy(Path(__file__).with_name("trtexec"), gpu_machine)
    return gpu_machine
