"""Write results: a table, JSON, JSON lines, CSV, YOLO labels, COCO annotations."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

from ..detection.detections import Detections
from ..media.sources import STDIN, Source

Format = Literal["table", "json", "jsonl", "csv", "yolo", "coco"]


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
    for box, score, label, name in _rows(found.detections):
        writer.writerow(
            [_plain_text(found.name), _plain_text(name), label, _round(score, 4), *(_round(v, 2) for v in box)]
        )
    return text.getvalue()


def _plain_text(cell: str) -> str:
    """Spreadsheets take what begins so for a formula; the apostrophe, which they do not show, says it is text."""
    return f"'{cell}" if cell[:1] in ("=", "+", "-", "@", "\t", "\r") and cell != STDIN else cell


def commented_yolo_lines(found: Found) -> str:
    """`label x_center y_center width height score` per detection, normalized, after a comment with the picture."""
    return f"# {found.name}\n{yolo_lines(found)}"


def yolo_lines(found: Found) -> str:
    """Ultralytics' label lines of one picture, with the score at the end."""
    width, height = found.size_wh
    lines = []
    for (left, top, right, bottom), score, label, _ in _rows(found.detections):
        box = (left + right) / 2 / width, (top + bottom) / 2 / height, (right - left) / width, (bottom - top) / height
        lines.append(" ".join([str(label), *(f"{v:.6f}" for v in box), f"{score:.4f}\n"]))
    return "".join(lines)


def to_coco(results: Sequence[Found], names: Sequence[str]) -> str:
    """A COCO data set with scores: images, categories (id = label + 1) and annotations (bbox xywh in pixels)."""
    annotations: list[dict[str, Any]] = []
    for image_id, found in enumerate(results, start=1):
        for (left, top, right, bottom), score, label, _ in _rows(found.detections):
            width, height = right - left, bottom - top
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": label + 1,
                    "bbox": [_round(v, 2) for v in (left, top, width, height)],
                    "area": _round(width * height, 2),
                    "iscrowd": 0,
                    "score": _round(score, 4),
                }
            )
    images = [
        {"id": i, "file_name": found.name, "width": found.size_wh[0], "height": found.size_wh[1]}
        for i, found in enumerate(results, start=1)
    ]
    categories = [{"id": label + 1, "name": name} for label, name in enumerate(names)]
    whole = {"images": images, "categories": categories, "annotations": annotations}
    return json.dumps(whole, indent=2, ensure_ascii=False) + "\n"


# Formats that need all results, and those that are written line by line as results come: header and lines of each.
WHOLE: dict[str, Callable[[Sequence[Found], Sequence[str]], str]] = {"json": to_json, "coco": to_coco}
BY_LINE: dict[str, tuple[str, Callable[[Found], str]]] = {
    "jsonl": ("", jsonl_lines),
    "csv": (CSV_HEADER, csv_lines),
    "yolo": ("", commented_yolo_lines),
}


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[IO[bytes]]:
    """A file that gets its name when it is whole, or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            os.fchmod(file.fileno(), 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_atomic(path: Path, data: bytes) -> None:
    """Write a whole file or none."""
    with atomic(path) as file:
        file.write(data)


def _record(found: Found) -> dict[str, Any]:
    return {
        "source": found.source.name,
        **({} if found.frame is None else {"frame": found.frame, "time_s": _round(found.time_s or 0.0, 3)}),
        "width": found.size_wh[0],
        "height": found.size_wh[1],
        "detections": [
            {"name": name, "label": label, "score": _round(score, 4), "box_xyxy": [_round(v, 2) for v in box]}
            for box, score, label, name in _rows(found.detections)
        ],
    }


def _rows(detections: Detections) -> Iterable[tuple[list[float], float, int, str]]:
    plain = detections.to_dict()
    return zip(plain["boxes_xyxy"], plain["scores"], plain["labels"], plain["names"], strict=True)


def _round(value: float, digits: int) -> float:
    return round(value, digits)
