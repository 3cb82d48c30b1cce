"""Which pictures a source names."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from nas_client.errors import JobError

pa = pytest.importorskip("pyarrow", reason="the extra ray is not installed")
parquet = pytest.importorskip("pyarrow.parquet")
manifest = pytest.importorskip("nas_client.job.manifest")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.JPG", "a/c.png", "a/notes.md", "d.webp"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    return tmp_path


def test_a_folder_has_its_pictures_by_their_paths(folder: Path) -> None:
    found = manifest.read(f"{folder}/")
    assert found["id"].to_pylist() == ["a/c.png", "b.JPG", "d.webp"]
    assert found["url"].to_pylist() == [f"file://{folder}/{name}" for name in ("a/c.png", "b.JPG", "d.webp")]
    assert found == manifest.read(f"file://{folder}")


def test_lists(folder: Path) -> None:
    (folder / "list.txt").write_text("b.JPG\n\ns3://bucket/e.jpg\nb.JPG\n/f.jpg\n")
    found = manifest.read(str(folder / "list.txt"))
    assert found["id"].to_pylist() == ["b.JPG", "s3://bucket/e.jpg", "/f.jpg"]
    assert found["url"].to_pylist() == [f"file://{folder}/b.JPG", "s3://bucket/e.jpg", "/f.jpg"]
    (folder / "list.csv").write_text("id,path\n7,b.JPG\n8,d.webp\n7,a/c.png\n")
    found = manifest.read(str(folder / "list.csv"))
    assert found["id"].to_pylist() == ["7", "8"] and found["url"][1].as_py() == f"file://{folder}/d.webp"
    table = pa.table({"url": ["s3://bucket/1.jpg", "s3://bucket/2.jpg"], "weather": ["sun", "rain"]})
    parquet.write_table(table, folder / "list.parquet")
    assert manifest.read(str(folder / "list.parquet"))["id"].to_pylist() == ["s3://bucket/1.jpg", "s3://bucket/2.jpg"]


def test_numbers_are_names(folder: Path) -> None:
    (folder / "list.csv").write_text("id,path\n000000000139,b.JPG\n139,a/c.png\n000000000285,d.webp\n")
    found = manifest.read(str(folder / "list.csv"))
    assert found["id"].to_pylist() == ["000000000139", "139", "000000000285"]


def test_names_that_are_no_text_are_named(folder: Path) -> None:
    (folder / os.fsdecode(b"caf\xe9.jpg")).write_bytes(b"x")
    with pytest.raises(JobError, match="a name that is not UTF-8 text"):
        manifest.read(str(folder))
    (folder / "list.txt").write_bytes(b"b.JPG\ncaf\xe9.jpg\n")
    with pytest.raises(JobError, match="a name that is not UTF-8 text"):
        manifest.read(str(folder / "list.txt"))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere", "no such folder"),
        ("empty", "no picture in it"),
        ("columns.csv", "has columns a, b; expected one named url or path"),
        ("damaged.parquet", "cannot be read"),
        ("xyz://bucket/", "Protocol not known"),
    ],
)
def test_mistakes_are_named(source: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "columns.csv").write_text("a,b\n1,2\n")
    (tmp_path / "damaged.parquet").write_bytes(b"PAR1")
    with pytest.raises(JobError, match=message):
        manifest.read(source if "://" in source else str(tmp_path / source))
