"""Write results: JSON, JSON lines, CSV, YOLO label lines."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import secrets
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, Literal

from ..detection.detections import Detections
from ..media.sources import STDIN, Source

Format = Literal["table", "json", "jsonl", "csv", "yolo", "voc", "coco", "coco-results", "label-studio", "cvat"]


@dataclass(frozen=True)
class Found:
    """One picture, or one frame of a video, that was answered.

    Attributes:
        source: where it is from.
        size_wh: in pixels, upright.
        detections: in it.
        frame: its index in a video.
        time_s: of the frame.
    """

    source: Source
    size_wh: tuple[int, int]
    detections: Detections
    frame: int | None = None
    time_s: float | None = None

    @property
    def name(self) -> str:
        """`bus.jpg`, or `clip.mp4#12`."""
        return self.source.name if self.frame is None else f"{self.source.name}#{self.frame}"

    @property
    def relative_name(self) -> str:
        """Likewise, in the folder that was named; of a URL all of it."""
        path = self.source.name if "://" in self.source.name else self.source.relative
        return path if self.frame is None else f"{path}#{self.frame}"


def to_json(results: Sequence[Found], names: Sequence[str]) -> str:
    """One array with an object per picture."""
    return json.dumps([_record(found) for found in results], indent=2, ensure_ascii=False) + "\n"


def jsonl_lines(found: Found) -> str:
    """One object on one line."""
    return json.dumps(_record(found), ensure_ascii=False) + "\n"


CSV_HEADER = "source,name,label,score,left,top,right,bottom\n"


def csv_lines(found: Found) -> str:
    """One row per detection."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for box, score, label, name in rows(found.detections):
        writer.writerow(
            [_plain_text(found.name), _plain_text(name), label, round(score, 4), *(round(v, 2) for v in box)]
        )
    return text.getvalue()


def _plain_text(cell: str) -> str:
    """Spreadsheets take what begins so for a formula; the apostrophe, which they do not show, says it is text."""
    return f"'{cell}" if cell[:1] in ("=", "+", "-", "@", "\t", "\r") and cell != STDIN else cell


def yolo_lines(found: Found, with_scores: bool = False) -> str:
    """Label lines of one picture, as Ultralytics takes them: `label x_center y_center width height`, normalized.

    Args:
        found: in the picture.
        with_scores: as a sixth column, which trainers refuse.
    """
    width, height = found.size_wh
    lines = []
    for (left, top, right, bottom), score, label, _ in rows(found.detections):
        box = (left + right) / 2 / width, (top + bottom) / 2 / height, (right - left) / width, (bottom - top) / height
        line = " ".join([str(label), *(f"{v:.6f}" for v in box)])
        lines.append(f"{line} {score:.4f}\n" if with_scores else f"{line}\n")
    return "".join(lines)


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[IO[bytes]]:
    """A file that gets its name when it is whole, or none; a pipe or a device gets what is written at once."""
    if path.exists() and (not path.is_file() or _is_open(path)):
        with path.open("wb", buffering=0) as file:
            yield file
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{secrets.token_hex(8)}.part")
    try:
        with temporary.open("xb") as file:
            yield file
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename == str(temporary):
            error.filename = str(path)
        raise


def _is_open(path: Path) -> bool:
    """Whether it leads to what a process has opened, such as /dev/stdout."""
    while path.is_symlink():
        if path.is_relative_to("/proc") or path.is_relative_to("/dev"):
            return True
        path = path.parent / path.readlink()
    return False


def write_atomic(path: Path, data: bytes) -> None:
    """Write a whole file or none."""
    with atomic(path) as file:
        file.write(data)


def _record(found: Found) -> dict[str, Any]:
    return {
        "source": found.source.name,
        **({} if found.frame is None else {"frame": found.frame, "time_s": round(found.time_s or 0.0, 3)}),
        "width": found.size_wh[0],
        "height": found.size_wh[1],
        "detections": [
            {"name": name, "label": label, "score": round(score, 4), "box_xyxy": [round(v, 2) for v in box]}
            for box, score, label, name in rows(found.detections)
        ],
    }


def rows(detections: Detections) -> Iterable[tuple[list[float], float, int, str]]:
    """Box, score, label and name of each object."""
    plain = detections.to_dict()
    return zip(plain["boxes_xyxy"], plain["scores"], plain["labels"], plain["names"], strict=True)


def numbered(wanted: PurePosixPath, taken: set[PurePosixPath]) -> PurePosixPath:
    """The path, with a number before its suffix if it is taken; it is taken from then on."""
    path, number = wanted, 2
    while path in taken:
        path, number = wanted.with_name(f"{wanted.stem}_{number}{wanted.suffix}"), number + 1
    taken.add(path)
    return path
