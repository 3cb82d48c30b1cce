"""What reads the files of strangers, one function a target: each takes a whole file as bytes.

A target lets through the errors that its reader documents. Anything else is a finding: another exception, more than
`LIMIT_S` seconds, more than `LIMIT_BYTES` of memory beyond what the process had.
"""

from __future__ import annotations

import json
import os
import resource
import struct
import tempfile
import time
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
from nas_build.errors import CheckpointError
from nas_build.yolo_nas import checkpoint, unpickle
from nas_ensembles import images
from nas_eval.dataset import Dataset
from nas_eval.errors import DatasetError
from nas_eval.open_dataset import open_dataset
from nas_eval.picture_size import size_wh

CORPUS = Path(__file__).with_name("corpus")
LIMIT_S = 10.0
LIMIT_BYTES = 1 << 30

Mutate = Callable[[bytes], bytes]


def unpickler(data: bytes) -> None:
    """A file of `torch.save`, read only."""
    with _limits(), _documented(CheckpointError):
        unpickle.load(_written("file.pt", data))


def torch_checkpoint(data: bytes) -> None:
    """A file of `torch.save`, understood."""
    with _limits(), _documented(CheckpointError):
        checkpoint.load(_written("file.pt", data))


def safetensors(data: bytes) -> None:
    with _limits(), _documented(CheckpointError):
        checkpoint.load(_written("file.safetensors", data))


def picture(data: bytes) -> None:
    with _limits(), _documented(images.UnreadableImage):
        size_wh(data)
    with _limits(), _documented(images.UnreadableImage):
        image = images.decode(data)
        assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3


def coco(data: bytes) -> None:
    """COCO instances JSON of one picture, `a.png`."""
    with _limits(), _documented(DatasetError):
        _whole(open_dataset(_written("coco.json", data), _folder() / "images"))


def yolo(data: bytes) -> None:
    """Ultralytics YAML of the pictures in `images`."""
    if b"/" in data or b"\\" in data:  # a folder outside is as large as it is
        return
    (_folder() / "labels/a.txt").unlink(missing_ok=True)
    with _limits(), _documented(DatasetError):
        _whole(open_dataset(_written("data.yaml", data)))


def labels(data: bytes) -> None:
    """Labels of one picture, in the format of YOLO."""
    _written("labels/a.txt", data)
    with _limits(), _documented(DatasetError):
        _whole(open_dataset(_written("data.yaml", b"names: [bolt, nut]\nval: images\n")))


TARGETS: dict[str, Callable[[bytes], None]] = {
    target.__name__: target for target in (unpickler, torch_checkpoint, safetensors, picture, coco, yolo, labels)
}


def mutated(data: bytes, mutate: Mutate) -> bytes:
    """The file with a part of it changed, and lengths and checksums that fit: readers refuse others at the door."""
    if data.startswith(b"PK"):
        return _mutated_zip(data, mutate)
    if data.startswith(b"\x89PNG"):
        return _mutated_png(data, mutate)
    if data[8:9] == b"{" and (header := int.from_bytes(data[:8], "little")) <= len(data) - 8:
        changed = mutate(data[8 : 8 + header])
        return struct.pack("<Q", len(changed)) + changed + data[8 + header :]
    return mutate(data)


def _mutated_zip(data: bytes, mutate: Mutate) -> bytes:
    out = BytesIO()
    try:
        with zipfile.ZipFile(BytesIO(data)) as source, zipfile.ZipFile(out, "w") as target:
            for entry in source.infolist():
                content = source.read(entry)
                changed = mutate(content) if entry.filename.endswith("data.pkl") else content
                target.writestr(entry.filename, changed, entry.compress_type)
    except Exception:  # an earlier change broke the container
        return mutate(data)
    return out.getvalue()


def _mutated_png(data: bytes, mutate: Mutate) -> bytes:
    changed, at, out = mutate(data[8:]), 0, data[:8]
    while at + 8 <= len(changed):
        length = int.from_bytes(changed[at : at + 4], "big")
        chunk = changed[at + 4 : at + 8 + length]
        out += changed[at : at + 4] + chunk + struct.pack(">I", zlib.crc32(chunk))
        at += 12 + length
    return out


@contextmanager
def _documented(error: type[Exception]) -> Iterator[None]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except error as raised:
        cause = raised.__cause__ or raised.__context__
        if isinstance(cause, MemoryError):  # what it would have taken without the limit
            raise cause from None


@contextmanager
def _limits() -> Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + LIMIT_BYTES, limits[1]))
    began = time.monotonic()
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
    assert time.monotonic() - began < LIMIT_S, "too slow"


@cache
def _folder() -> Path:
    """A data set of one picture, three folders below any other."""
    base = Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else None
    keep = tempfile.TemporaryDirectory(dir=base)
    _kept.append(keep)
    folder = Path(keep.name) / "a/b/c"
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    cv2.imwrite(str(folder / "images/a.png"), np.zeros((4, 4, 3), np.uint8))
    (folder / "list.txt").write_text("./images/a.png\n")
    return folder


_kept: list[tempfile.TemporaryDirectory[str]] = []  # until the process ends


def _written(name: str, data: bytes) -> Path:
    path = _folder() / name
    path.write_bytes(data)
    return path


def _whole(dataset: Dataset) -> None:
    """What is done with a data set after it was read."""
    names = [str(name) for name in dataset.class_names.values()]
    dataset.categories_of(names or ["bolt"])
    dataset.limited(1).sampled(1)
    json.dumps([(box["bbox"], box["area"]) for box in dataset.truth["annotations"]], allow_nan=False)
