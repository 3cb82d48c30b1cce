from __future__ import annotations

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
