"""Data sets that are fetched by name: archives pinned by their hash, unpacked into the cache once."""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from . import downloads
from .datasets import Dataset, load_coco
from .downloads import Download, Progress
from .errors import DatasetError

_COCO = ("http://images.cocodataset.org", "https://s3.amazonaws.com/images.cocodataset.org")


@dataclass(frozen=True)
class Known:
    """A COCO data set in archives.

    Attributes:
        archives: ZIP files; removed when unpacked.
        annotations: the instances JSON, and the one member that is taken of its archive.
        pictures: their folder.
    """

    archives: tuple[Download, ...]
    annotations: str
    pictures: str


def _coco(path: str, sha256: str) -> Download:
    return Download(Path(path).name, sha256, tuple(f"{host}/{path}" for host in _COCO))


KNOWN: dict[str, Known] = {
    "coco-val2017": Known(
        archives=(
            _coco("zips/val2017.zip", "4f7e2ccb2866ec5041993c9cf2a952bbed69647b115d0f74da7ce8f4bef82f05"),
            _coco(
                "annotations/annotations_trainval2017.zip",
                "113a836d90195ee1f884e704da6304dfaaecff1f023f49b6ca93c4aaae470268",
            ),
        ),
        annotations="annotations/instances_val2017.json",
        pictures="val2017",
    )
}


def fetch(name: str, progress: Progress = lambda *_: None) -> Dataset:
    """A data set by name, downloaded and unpacked unless it is in the cache.

    Raises:
        DownloadError: says what each URL answered, and how to bring the file by hand.
        DatasetError: if an archive cannot be unpacked.
    """
    known = KNOWN[name]
    folder = downloads.cache_folder() / "datasets" / name
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=folder.parent))
        try:
            for archive in known.archives:
                path = downloads.fetch(archive, downloads.cache_folder() / "downloads", progress=progress)
                _unpack(path, staging, known, progress)
            staging.rename(folder)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        for archive in known.archives:
            (downloads.cache_folder() / "downloads" / archive.name).unlink(missing_ok=True)
    dataset = load_coco(folder / known.annotations, folder / known.pictures)
    return Dataset(name, dataset.pictures, dataset.truth)


def _unpack(path: Path, folder: Path, known: Known, progress: Progress) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            wanted = [
                member
                for member in archive.namelist()
                if member == known.annotations or member.startswith(f"{known.pictures}/")
            ]
            for i, member in enumerate(wanted, 1):
                archive.extract(member, folder)
                progress(f"unpack {path.name}", i, len(wanted))
    except (OSError, zipfile.BadZipFile) as error:
        raise DatasetError(f"{path}: cannot be unpacked into {folder.parent}: {error}") from error
