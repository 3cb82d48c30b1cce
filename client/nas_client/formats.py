"""Write results: a table, JSON, JSON lines, CSV, YOLO labels, COCO annotations."""

from __future__ import annotations

import csv
import io
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from .detections import Detections
from .sources import Source

Format = Literal["table", "json", "jsonl", "csv", "yolo", "coco"]


@dataclass(frozen=True)
class Found:
    """One picture that was answered. `size_wh` in pixels, upright."""

    source: Source
    size_wh: tuple[int, int]
    detections: Detections


def to_json(results: Sequence[Found], names: Sequence[str]) -> str:
    """One array with an object per picture."""
    return json.dumps([_record(found) for found in results], indent=2, ensure_ascii=False)


def to_jsonl(results: Sequence[Found], names: Sequence[str]) -> str:
    """One object per line and picture."""
    return "\n".join(json.dumps(_record(found), ensure_ascii=False) for found in results)


def to_csv(results: Sequence[Found], names: Sequence[str]) -> str:
    """One row per detection, with a header."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["source", "name", "label", "score", "left", "top", "right", "bottom"])
    for found in results:
        for box, score, label, name in _rows(found.detections):
            writer.writerow([found.source.name, name, label, _round(score, 4), *(_round(v, 2) for v in box)])
    return text.getvalue().rstrip("\n")


def to_yolo(results: Sequence[Found], names: Sequence[str]) -> str:
    """`label x_center y_center width height score` per detection, normalized; a comment before each picture."""
    return "\n".join(f"# {found.source.name}" + "".join(f"\n{line}" for line in yolo_lines(found)) for found in results)


def yolo_lines(found: Found) -> list[str]:
    """Ultralytics' label lines of one picture, with the score at the end."""
    width, height = found.size_wh
    lines = []
    for (left, top, right, bottom), score, label, _ in _rows(found.detections):
        box = (left + right) / 2 / width, (top + bottom) / 2 / height, (right - left) / width, (bottom - top) / height
        lines.append(" ".join([str(label), *(f"{v:.6f}" for v in box), f"{score:.4f}"]))
    return lines


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
        {"id": i, "file_name": found.source.name, "width": found.size_wh[0], "height": found.size_wh[1]}
        for i, found in enumerate(results, start=1)
    ]
    categories = [{"id": label + 1, "name": name} for label, name in enumerate(names)]
    return json.dumps(
        {"images": images, "categories": categories, "annotations": annotations}, indent=2, ensure_ascii=False
    )


WRITERS: dict[str, Callable[[Sequence[Found], Sequence[str]], str]] = {
    "json": to_json,
    "jsonl": to_jsonl,
    "csv": to_csv,
    "yolo": to_yolo,
    "coco": to_coco,
}


def write_atomic(path: Path, data: bytes) -> None:
    """Write a whole file or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            os.fchmod(file.fileno(), 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _record(found: Found) -> dict[str, Any]:
    return {
        "source": found.source.name,
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
