from __future__ import annotations

from pathlib import Path

import pytest
from nas_build.errors import ExportError
from nas_build.exports import write


def test_all_or_none(tmp_path: Path) -> None:
    """The second cannot be put in its place: a folder that is not empty is there."""
    (tmp_path / "model.onnx" / "in it").mkdir(parents=True)
    (tmp_path / "labels.txt").write_text("before")
    with pytest.raises(ExportError, match="Nothing was written"):
        write.install({tmp_path / "new.txt": b"n", tmp_path / "labels.txt": b"after", tmp_path / "model.onnx": b"m"})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["labels.txt", "model.onnx"]
    assert (tmp_path / "labels.txt").read_text() == "before"


def test_files_are_replaced(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"before")
    write.install({tmp_path / "a": b"after", tmp_path / "b": b"new"})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a": b"after", "b": b"new"}


def test_what_is_there_is_not_written_over(tmp_path: Path) -> None:
    file = tmp_path / "a"
    write.require_free({file: None}, False)
    file.write_bytes(b"mine")
    for data in (None, b"other"):
        with pytest.raises(ExportError, match="a: is there already"):
            write.require_free({file: data}, False)
    write.require_free({file: b"mine"}, False)
    write.require_free({file: b"other"}, True)
    with pytest.raises(ExportError, match="is a folder"):
        write.require_free({tmp_path / ".." / tmp_path.name: None}, True)
    with pytest.raises(ExportError, match="nope: no such folder"):
        write.require_free({tmp_path / "nope" / "a": None}, True)
