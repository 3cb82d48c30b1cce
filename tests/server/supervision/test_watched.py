"""A repository that changes is noticed when it has settled."""

from __future__ import annotations

from pathlib import Path

import pytest
from nas_serve.supervision import watched
from nas_serve.supervision.watched import Watched

from support.echo import add_model


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(watched.time, "monotonic", lambda: now[0])
    return now


def test_a_first_model(tmp_path: Path, clock: list[float]) -> None:
    looked = Watched(tmp_path)
    looked.accept()
    assert looked.is_empty and not looked.changed()
    add_model(tmp_path, "one")
    assert not looked.is_empty and not looked.changed()  # more may come
    clock[0] += watched.SETTLED_S - 0.1
    add_model(tmp_path, "two")
    assert not looked.changed()
    clock[0] += watched.SETTLED_S - 0.1
    assert not looked.changed()
    clock[0] += 0.2
    assert looked.changed() and looked.changed()
    looked.accept()
    assert not looked.changed()


def test_a_new_version_and_a_model_taken_away(tmp_path: Path, clock: list[float]) -> None:
    add_model(tmp_path, "one")
    looked = Watched(tmp_path)
    looked.accept()
    for change in (
        (tmp_path / "one" / "2").mkdir,
        (tmp_path / "one" / "config.pbtxt").touch,
        (tmp_path / "one" / "2").rmdir,
        (tmp_path / "one" / "config.pbtxt").unlink,
    ):
        change()
        assert not looked.changed()
        clock[0] += watched.SETTLED_S
        assert looked.changed()
        looked.accept()
    assert looked.is_empty


def test_what_is_no_model_does_not_matter(tmp_path: Path, clock: list[float]) -> None:
    looked = Watched(tmp_path)
    looked.accept()
    (tmp_path / "README.md").write_text("x")
    (tmp_path / "staging").mkdir()
    assert not looked.changed()
    clock[0] += 60
    assert not looked.changed() and looked.is_empty


def test_what_was_there_at_first_is_new_once_it_is_forgotten(tmp_path: Path, clock: list[float]) -> None:
    looked = Watched(tmp_path)
    add_model(tmp_path, "one")
    looked.accept()
    looked.forget()
    looked.changed()
    clock[0] += watched.SETTLED_S
    assert looked.changed()
