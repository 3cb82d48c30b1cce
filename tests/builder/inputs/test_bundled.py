from __future__ import annotations

import sys
from pathlib import Path

import pytest
from nas_build.errors import CheckpointError
from nas_build.inputs import bundled

from support.samples import SAMPLES


def test_a_checkout_has_them() -> None:
    assert bundled.folder() == SAMPLES and (bundled.folder() / bundled.DEMO_CHECKPOINT).is_file()


def test_else_the_distribution_of_their_own_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundled, "_CHECKOUT", tmp_path / "none")
    monkeypatch.setattr(bundled, "_PACKAGE", "samples_for_a_test")
    with pytest.raises(CheckpointError, match="none is not there, and nas-triton-samples is not installed"):
        bundled.folder()
    (tmp_path / "samples_for_a_test").mkdir()
    (tmp_path / "samples_for_a_test" / "__init__.py").touch()
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    assert bundled.folder() == tmp_path / "samples_for_a_test"
