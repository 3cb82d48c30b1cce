from __future__ import annotations

from pathlib import Path

import pytest
from nas_build.errors import PlanError
from nas_build.targets.tensorrt.gpus import Gpu, find_gpu

from support.machines import write_script


@pytest.mark.parametrize("answer", ["echo 'No devices were found'", "echo failed; exit 9", "echo 'GPU, [N/A]'"])
def test_an_nvidia_smi_that_finds_nothing(answer: str, gpu_machine: Path) -> None:
    write_script(gpu_machine / "nvidia-smi", f"#!/bin/sh\n{answer}\n")
    with pytest.raises(PlanError, match="no NVIDIA GPU can be used: nvidia-smi says: "):
        find_gpu()


def test_the_visible_device_is_asked_about(gpu_machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_script(gpu_machine / "nvidia-smi", '#!/bin/sh\necho "$1, 8.9"\n')
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,1")
    assert find_gpu() == Gpu("--id=3", "8.9")
