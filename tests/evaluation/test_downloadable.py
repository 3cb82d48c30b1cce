"""Data sets that are downloaded by name, from a real HTTP server on loopback."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from nas_eval.downloadable import DOWNLOADABLE, CocoArchives, YoloArchive, fetch_dataset
from nas_eval.downloads import Download
from nas_eval.errors import DatasetError, DownloadError

from support.samples import SAMPLES
from support.web import serving_files

TRUTH = (
    '{"images": [{"id": 7, "file_name": "bus.jpg"}], "categories": [{"id": 6, "name": "bus"}], '
    '"annotations": [{"id": 1, "image_id": 7, "category_id": 6, "bbox": [1, 2, 3, 4]}]}'
)


@pytest.fixture()
def archives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A tiny data set in two archives that a server has."""
    monkeypatch.setenv("NAS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "served"
    folder.mkdir()
    with zipfile.ZipFile(folder / "pictures.zip", "w") as archive:
        archive.write(SAMPLES / "bus.jpg", "val/bus.jpg")
        archive.writestr("other/x.txt", "not wanted")
    with zipfile.ZipFile(folder / "truth.zip", "w") as archive:
        archive.writestr("annotations/val.json", TRUTH)
        archive.writestr("annotations/train.json", "not wanted")
    with serving_files(folder) as url:
        pins = tuple(
            Download(name, hashlib.sha256((folder / name).read_bytes()).hexdigest(), (f"{url}/{name}",))
            for name in ("pictures.zip", "truth.zip")
        )
        monkeypatch.setitem(DOWNLOADABLE, "tiny", CocoArchives(pins, "annotations/val.json", "val"))
        yield folder


def test_fetched_and_unpacked_once(archives: Path, tmp_path: Path) -> None:
    steps: list[str] = []
    dataset = fetch_dataset("tiny", progress=lambda what, *_: steps.append(what))
    assert dataset.name == "tiny" and dataset.pictures[0].path.read_bytes() == (SAMPLES / "bus.jpg").read_bytes()
    assert len(dataset.truth["annotations"]) == 1
    assert {"download pictures.zip", "unpack pictures.zip", "unpack truth.zip"} <= set(steps)
    files = sorted(str(p.relative_to(tmp_path / "cache")) for p in (tmp_path / "cache").rglob("*") if p.is_file())
    assert files == ["datasets/tiny/annotations/val.json", "datasets/tiny/val/bus.jpg"]
    for archive in archives.iterdir():
        archive.unlink()
    assert fetch_dataset("tiny").pictures == dataset.pictures


def test_an_archive_that_is_gone_leaves_nothing(archives: Path, tmp_path: Path) -> None:
    (archives / "truth.zip").unlink()
    with pytest.raises(DownloadError, match="truth.zip could not be downloaded"):
        fetch_dataset("tiny")
    assert not list((tmp_path / "cache" / "datasets").iterdir())
    assert [path.name for path in (tmp_path / "cache" / "downloads").iterdir()] == ["pictures.zip"]  # not again


def test_a_cache_that_cannot_be_written(archives: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("NAS_CACHE", str(tmp_path / "file"))
    with pytest.raises(DownloadError, match="file/datasets: cannot keep tiny there: .* Set NAS_CACHE."):
        fetch_dataset("tiny")


def test_what_is_no_archive(archives: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (archives / "pictures.zip").write_bytes(b"no archive")
    first, second = DOWNLOADABLE["tiny"].archives
    pin = Download(first.name, hashlib.sha256(b"no archive").hexdigest(), first.urls)
    monkeypatch.setitem(DOWNLOADABLE, "tiny", CocoArchives((pin, second), "annotations/val.json", "val"))
    with pytest.raises(DatasetError, match="pictures.zip: cannot be unpacked"):
        fetch_dataset("tiny")
    assert not list((tmp_path / "cache" / "datasets").iterdir())


@pytest.fixture()
def labelled(archives: Path, monkeypatch: pytest.MonkeyPatch) -> YoloArchive:
    """A data set with labels, in an archive of which only the files are pinned."""
    label = "5 0.5 0.5 0.25 0.5\n"
    with zipfile.ZipFile(archives / "labelled.zip", "w") as archive:
        archive.writestr("some/folder/", "")
        archive.write(SAMPLES / "bus.jpg", "some/folder/images/val/bus.jpg")
        archive.writestr("some/folder/labels/val/bus.txt", label.replace("\n", " \r\n"))  # the words count
        archive.writestr("some/folder/README.md", "not wanted")
    (url, *_) = DOWNLOADABLE["tiny"].archives[0].urls
    pins = {
        "images/val/bus.jpg": hashlib.sha256((SAMPLES / "bus.jpg").read_bytes()).hexdigest(),
        "labels/val/bus.txt": hashlib.sha256(label.strip().encode()).hexdigest(),
    }
    archive = YoloArchive((Download("labelled.zip", None, (url.replace("pictures.zip", "labelled.zip"),)),), pins)
    monkeypatch.setitem(DOWNLOADABLE, "labelled", archive)
    return archive


def test_labels_from_an_archive_whose_files_are_pinned(labelled: YoloArchive, archives: Path, tmp_path: Path) -> None:
    dataset = fetch_dataset("labelled")
    assert dataset.name == "labelled" and dataset.class_names[5] == "bus"
    (box,) = dataset.truth["annotations"]
    assert box["category_id"] == 5 and box["bbox"] == pytest.approx([810 * 0.375, 1080 * 0.25, 810 * 0.25, 1080 * 0.5])
    assert not list((tmp_path / "cache" / "downloads").iterdir())
    (archives / "labelled.zip").unlink()
    assert fetch_dataset("labelled").pictures == dataset.pictures


def test_a_split_that_is_not_there_is_not_downloaded(labelled: YoloArchive, tmp_path: Path) -> None:
    for name in ("labelled", "coco-val2017"):
        with pytest.raises(DatasetError, match=f"{name}: has the splits val, got train") as caught:
            fetch_dataset(name, split="train")
        assert caught.value.remedy == "split"
    assert DOWNLOADABLE["coco8"].splits == ("train", "val") and not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels/val/bus.txt": "0" * 64}, "labels/val/bus.txt has SHA-256 .*, expected 0000"),
        ({"images/val/cat.jpg": "0" * 64}, "images/val/cat.jpg is not in it"),
    ],
)
def test_other_files_than_those_pinned_are_refused(
    labelled: YoloArchive, change: dict[str, str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(DOWNLOADABLE, "labelled", YoloArchive(labelled.archives, {**labelled.files, **change}))
    with pytest.raises(DatasetError, match=message):
        fetch_dataset("labelled")
    assert not list((tmp_path / "cache" / "datasets").iterdir())
    assert not list((tmp_path / "cache" / "downloads").iterdir())


def test_archives_are_pinned() -> None:
    for name, one in DOWNLOADABLE.items():
        assert all(len(archive.urls) == 2 for archive in one.archives), name
        if isinstance(one, YoloArchive):
            assert len(one.files) == 16 and all(len(pin) == 64 for pin in one.files.values())
        else:
            assert all(archive.sha256 and len(archive.sha256) == 64 for archive in one.archives), name


def test_the_pins_of_coco8_are_those_of_its_files(coco_data: Path) -> None:
    DOWNLOADABLE["coco8"].check(coco_data / "coco8")
