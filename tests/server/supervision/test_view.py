from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from nas_serve.supervision import view

from support.echo import add_model


@pytest.fixture
def models(tmp_path: Path) -> Path:
    for name in ("one", "other"):
        add_model(tmp_path / "models", name)
    return tmp_path / "models"


def test_all_of_them_without_a_choice(models: Path, tmp_path: Path) -> None:
    assert view.names(models) == ["one", "other"]
    view.link(models, [], tmp_path / "view", polled=False)
    assert view.names(tmp_path / "view") == ["one", "other"]


def test_it_takes_the_place_of_the_one_before(models: Path, tmp_path: Path) -> None:
    for polled in (False, True, False):
        (models / "other" / ("2" if polled else "3")).mkdir(exist_ok=True)
        view.link(models, ["other"], tmp_path / "view", polled=polled)
        assert view.names(tmp_path / "view") == ["other"]
    assert sorted(path.name for path in (tmp_path / "view" / "other").iterdir()) == ["1", "2", "3", "config.pbtxt"]
    assert (models / "other" / "1" / "model.py").is_file()  # nothing of it was taken away


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be somebody else")
def test_folders_that_cannot_be_written_to(models: Path) -> None:
    """As on a read-only store: what is made of them can be taken away again."""
    for path in (models, *models.rglob("*")):
        path.chmod(path.stat().st_mode & 0o555)
    own = Path(tempfile.mkdtemp())  # pytest's folders are closed to others
    own.chmod(0o777)
    shutil.copytree(models, own / "models")
    code = "import os, sys; from pathlib import Path; from nas_serve.supervision import view; os.setuid(12345)\n"
    code += "for _ in range(2): view.link(Path(sys.argv[1]), [], Path(sys.argv[2]), polled=False)"
    command = [sys.executable, "-c", code, str(own / "models"), str(own / "view")]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0 and view.names(own / "view") == ["one", "other"], done.stderr
    finally:
        shutil.rmtree(own)


def test_a_view_has_links_to_files_and_no_bytecode(models: Path, tmp_path: Path) -> None:
    (models / "other" / "1" / "__pycache__").mkdir()
    view.link(models, ["other"], tmp_path / "view", polled=False)
    assert [path.name for path in (tmp_path / "view").iterdir()] == ["other"]
    assert {path.name for path in (tmp_path / "view" / "other" / "1").iterdir()} == {"model.py"}
    assert (tmp_path / "view" / "other" / "1" / "model.py").resolve() == models / "other" / "1" / "model.py"


def test_versions_of_a_polled_view_come_and_go(models: Path, tmp_path: Path) -> None:
    view.link(models, ["other"], tmp_path / "view", polled=True)
    (models / "other" / "2").mkdir()
    assert (tmp_path / "view" / "other" / "2").is_dir()
