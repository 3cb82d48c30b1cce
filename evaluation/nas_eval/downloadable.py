"""Data sets that are downloaded by name: pinned by their hashes, unpacked into the cache once."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from . import downloads
from .coco_json import load_coco
from .coco_names import COCO_NAMES
from .dataset import Dataset
from .downloads import Download, Progress
from .errors import DatasetError, DownloadError
from .yolo_yaml import load_yolo

_COCO = ("http://images.cocodataset.org", "https://s3.amazonaws.com/images.cocodataset.org")
_ULTRALYTICS = ("https://github.com/ultralytics/assets/releases/download/v0.0.0", "https://ultralytics.com/assets")


@dataclass(frozen=True)
class CocoArchives:
    """COCO pictures and instances JSON, in archives.

    Attributes:
        archives: ZIP files; removed when unpacked.
        annotations: the instances JSON, and the one member that is taken of its archive.
        pictures: their folder.
    """

    archives: tuple[Download, ...]
    annotations: str
    pictures: str

    @property
    def splits(self) -> tuple[str, ...]:
        """It has one."""
        return ("val",)

    def path_of(self, member: str) -> str | None:
        """Where a member of an archive goes; None leaves it out."""
        wanted = member == self.annotations or (member.startswith(f"{self.pictures}/") and not member.endswith("/"))
        return member if wanted else None

    def check(self, folder: Path) -> None:
        """The archives' own hashes say all."""

    def load(self, folder: Path, split: str) -> Dataset:
        """From where it is unpacked."""
        return load_coco(folder / self.annotations, folder / self.pictures)


@dataclass(frozen=True)
class YoloArchive:
    """Pictures and YOLO labels of COCO's classes, in one archive whose files are pinned instead of itself.

    Attributes:
        archives: the ZIP file; removed when unpacked.
        files: SHA-256 by path, of a text file's words.
    """

    archives: tuple[Download, ...]
    files: Mapping[str, str]

    @property
    def splits(self) -> tuple[str, ...]:
        """Those that it has pictures of."""
        return tuple(dict.fromkeys(Path(path).parent.name for path in self.files))

    def path_of(self, member: str) -> str | None:
        """Where a member of the archive goes, whatever folder it is in there; None leaves it out."""
        return next((path for path in self.files if member.endswith(f"/{path}")), None)

    def check(self, folder: Path) -> None:
        """Every pinned file is there and what it should be.

        Raises:
            DatasetError: names the first that is not.
        """
        for name, expected in self.files.items():
            path = folder / name
            if not path.is_file():
                raise DatasetError(f"{self.archives[0].name}: {name} is not in it.")
            content = path.read_bytes()
            if path.suffix == ".txt":
                content = b" ".join(content.split())
            if (got := hashlib.sha256(content).hexdigest()) != expected:
                raise DatasetError(f"{self.archives[0].name}: {name} has SHA-256 {got}, expected {expected}.")

    def load(self, folder: Path, split: str) -> Dataset:
        """A split, from where it is unpacked."""
        path = folder / "data.yaml"
        if not path.is_file():
            names = "".join(f"  {label}: {name}\n" for label, name in enumerate(COCO_NAMES))
            whole = path.with_name(f"{path.name}.{os.getpid()}")
            whole.write_text(f"path: .\ntrain: images/train\nval: images/val\nnames:\n{names}")
            whole.replace(path)
        return load_yolo(path, split)


def _coco(path: str, sha256: str) -> Download:
    return Download(Path(path).name, sha256, tuple(f"{host}/{path}" for host in _COCO))


_COCO8 = {
    "images/train/000000000009.jpg": "be0ecc9cacc0150f0a84f6dc098f3e5c526ac85f8a14c1a0d16c2a4eb3d305a6",
    "images/train/000000000025.jpg": "f7ddff65077bd4e362a890ed13b1cd931fd38882d49bae9e7e53e369e4b4d028",
    "images/train/000000000030.jpg": "52a12b6af76049a23192320610a316b6c1ea8e7d12e083f15c18e1690c506e66",
    "images/train/000000000034.jpg": "8d5334f6c8d3e8b77d50726625eecc6896597f063d3801f1993ffcb9e6b05acb",
    "images/val/000000000036.jpg": "4c28394898302bef227834d63498a0fc54e4295f11c590c8a8ebcba51347bc03",
    "images/val/000000000042.jpg": "c87afb6dfe55db1cada52479ed939a231e030d64f5e3c3eaf7eb1544591f853a",
    "images/val/000000000049.jpg": "86b46022d382f67b0934147fe515e1c3c3f5c04db45045516214b5e3092148e3",
    "images/val/000000000061.jpg": "6460e4a7cc80e34815aba8910a23152a16a24a416fa598138bd9231cccd413e2",
    "labels/train/000000000009.txt": "04b4729debacebc5bff70868a82049031d29418bd41dea8bb8f94e0cb8bae251",
    "labels/train/000000000025.txt": "aa12a57fe5cd9d9e1d6d743dd12f78416344c8fc72ad21331de4cf91c30d1c4f",
    "labels/train/000000000030.txt": "24b356d47e38426a3a5531b74c03594c847012b7f15a2cbe24169d99f7df2ee2",
    "labels/train/000000000034.txt": "216ae7bbf009dd5f8b13b84c230f84dfd3c5566cf144ca3d965ea0daa0aa9252",
    "labels/val/000000000036.txt": "2f2dc5b5b6c95e6ff7f1e89d0f71ccdab61843ac3f947f9dee2466bc8accb1bc",
    "labels/val/000000000042.txt": "b14434326543be974715bded3dd590b1335abb8f3e8b16fc7b99c8e7629f4d17",
    "labels/val/000000000049.txt": "7a3fdd3c8e2cbc9bb9911cd72717a341df421f7091b238bac7a7637e22163b69",
    "labels/val/000000000061.txt": "986a559607f69cac74dcb3d2107078c21f9c76923b84ad4241578e49cd5ca142",
}

DOWNLOADABLE: dict[str, CocoArchives | YoloArchive] = {
    "coco8": YoloArchive(
        archives=(Download("coco8.zip", None, tuple(f"{host}/coco8.zip" for host in _ULTRALYTICS)),), files=_COCO8
    ),
    "coco-val2017": CocoArchives(
        archives=(
            _coco("zips/val2017.zip", "4f7e2ccb2866ec5041993c9cf2a952bbed69647b115d0f74da7ce8f4bef82f05"),
            _coco(
                "annotations/annotations_trainval2017.zip",
                "113a836d90195ee1f884e704da6304dfaaecff1f023f49b6ca93c4aaae470268",
            ),
        ),
        annotations="annotations/instances_val2017.json",
        pictures="val2017",
    ),
}


def fetch_dataset(name: str, split: str = "val", progress: Progress = lambda *_: None) -> Dataset:
    """A data set by name, downloaded and unpacked unless it is in the cache.

    Args:
        name: a key of `DOWNLOADABLE`.
        split: of it.
        progress: told as bytes arrive and files are unpacked.

    Raises:
        DownloadError: says what each URL answered, and how to bring the file by hand; or that the cache cannot be
            written.
        DatasetError: if there is no such split, or an archive cannot be unpacked or holds other files than it should.
    """
    source = DOWNLOADABLE[name]
    if split not in source.splits:
        raise DatasetError(f"{name}: has the splits {', '.join(source.splits)}, got {split}.", remedy="split")
    folder = downloads.cache_folder() / "datasets" / name
    if not folder.is_dir():
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with downloads.alone(folder):
                if not folder.is_dir():
                    _fetch(source, folder, progress)
        except OSError as error:
            raise DownloadError(f"{folder.parent}: cannot keep {name} there: {error}. Set NAS_CACHE.") from None
    dataset = source.load(folder, split)
    return Dataset(name, dataset.pictures, dataset.truth)


def _fetch(source: CocoArchives | YoloArchive, folder: Path, progress: Progress) -> None:
    """Download and unpack it; the folder is there when it is whole."""
    archives = downloads.cache_folder() / "downloads"
    staging = Path(tempfile.mkdtemp(prefix=f"{folder.name}-", dir=folder.parent))
    try:
        for archive in source.archives:
            _unpack(downloads.fetch(archive, archives, progress=progress), staging, source.path_of, progress)
        source.check(staging)
        staging.rename(folder)
    except DatasetError:
        for archive in source.archives:
            if archive.sha256 is None:
                (archives / archive.name).unlink(missing_ok=True)  # the next try is not to find it again
        raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    for archive in source.archives:
        (archives / archive.name).unlink(missing_ok=True)


def _unpack(path: Path, folder: Path, path_of: Callable[[str], str | None], progress: Progress) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            wanted = {member: place for member in archive.namelist() if (place := path_of(member))}
            for i, (member, place) in enumerate(wanted.items(), 1):
                target = folder / place
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(member) as source, target.open("wb") as file:
                    shutil.copyfileobj(source, file)
                progress(f"unpack {path.name}", i, len(wanted))
    except (OSError, zipfile.BadZipFile) as error:
        raise DatasetError(f"{path}: cannot be unpacked into {folder.parent}: {error}") from error
