from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from nas_ensembles import admin_key


def test_a_folder_of_somebody_else_holds_no_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    admin_key.write(1, "secret")
    assert admin_key.find(1) == "secret" and admin_key.find(2) is None
    admin_key.folder().chmod(0o755)
    assert admin_key.find(1) is None
    with pytest.raises(PermissionError, match="closed to others"):
        admin_key.write(1, "other")
    shutil.rmtree(admin_key.folder())
    (tmp_path / "real").mkdir(mode=0o700)
    admin_key.folder().symlink_to(tmp_path / "real")
    with pytest.raises(PermissionError):
        admin_key.write(1, "other")
