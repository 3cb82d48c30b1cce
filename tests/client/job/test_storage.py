"""Whoever looks into an output sees whole files alone, whenever its writers end."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path

import pytest

pa = pytest.importorskip("pyarrow", reason="the extra ray is not installed")
dataset = pytest.importorskip("pyarrow.dataset")
parquet = pytest.importorskip("pyarrow.parquet")
storage = pytest.importorskip("nas_client.job.storage")

WRITER = """
import sys
from nas_client.job.storage import Place
place = Place.of(sys.argv[1])
file = place.arrow.open_output_stream(place.path)
file.write(b"PAR1")
file.flush()
sys.exit("in its middle")
"""


def test_a_file_appears_when_it_is_whole(tmp_path: Path) -> None:
    place = storage.Place.of(f"{tmp_path}/rows")
    table = pa.table({"id": ["first"]})
    dataset.write_dataset(table, place.path, format="parquet", filesystem=place.arrow)
    with place.arrow.open_output_stream(f"{place.path}/later.parquet") as file:
        parquet.write_table(table, file)
        file.flush()
        assert dataset.dataset(tmp_path / "rows").to_table() == table
    assert dataset.dataset(tmp_path / "rows").count_rows() == 2


def test_what_ends_in_its_middle_leaves_nothing_that_is_read(tmp_path: Path) -> None:
    folder = tmp_path / "rows"
    folder.mkdir()
    table = pa.table({"id": ["first"]})
    parquet.write_table(table, folder / "first.parquet")
    done = subprocess.run(
        [sys.executable, "-c", WRITER, str(folder / "second.parquet")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1 and done.stderr == "in its middle\n"
    assert len(list(folder.iterdir())) == 2 and dataset.dataset(folder).to_table() == table
    storage.Place.of(str(folder)).remove_parts()
    assert [path.name for path in folder.iterdir()] == ["first.parquet"]
    storage.Place.of(str(tmp_path / "nowhere")).remove_parts()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_shows_no_part_of_a_file(tmp_path: Path) -> None:
    """The part of it is a device that is always full."""
    place = storage.Place.of(f"{tmp_path}/rows.parquet")
    (tmp_path / ".rows.parquet.part").symlink_to("/dev/full")
    file = place.arrow.open_output_stream(place.path)
    with pytest.raises(OSError, match="No space left"):
        file.write(b"x" * 1_000_000)
    with contextlib.suppress(OSError):
        file.close()
    assert not (tmp_path / "rows.parquet").exists()


def test_what_was_there_stays_if_its_successor_fails(tmp_path: Path) -> None:
    place = storage.Place.of(str(tmp_path / "one.json"))
    with place.written() as file:
        file.write(b"one")
    with pytest.raises(RuntimeError), place.written() as file:
        file.write(b"two")
        raise RuntimeError
    assert place.read() == b"one" and list(tmp_path.iterdir()) == [tmp_path / "one.json"]
