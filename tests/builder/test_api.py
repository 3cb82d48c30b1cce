"""`import nas_build` as a user has it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import nas_build
import pytest


def test_everything_that_is_promised_is_there() -> None:
    assert all(getattr(nas_build, name).__doc__ for name in nas_build.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'nope'"):
        _ = nas_build.nope


def test_importing_it_is_cheap() -> None:
    code = "import nas_build, sys; print([m for m in ('torch', 'onnx', 'openvino', 'cv2') if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {sys.path!r}; {code}"],
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    assert done.stdout.strip() == "[]"


def test_a_build_and_then_none(quarter_checkpoint: Path, tmp_path: Path) -> None:
    result = nas_build.build(weights=quarter_checkpoint, model_repository=tmp_path)
    assert result.built and result.name == "yolo_nas_s_fp16" and "check" in result.seconds
    again = nas_build.build(nas_build.Options(weights=quarter_checkpoint), model_repository=tmp_path)
    assert not again.built and again.manifest == result.manifest


def test_an_option_that_is_misspelt() -> None:
    with pytest.raises(TypeError, match="precisoin"):
        nas_build.build(precisoin="int8")
