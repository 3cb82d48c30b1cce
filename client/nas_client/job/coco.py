"""The rows of a job as one COCO data set with scores."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from typing import Any

from ..output import coco
from .run import dataset
from .storage import Place

FILE = "coco.json"


def write(output: Place, class_names: Sequence[str]) -> str:
    """Write `coco.json` beside the rows, one after the other, so that any number of them fits into memory.

    Args:
        output: of the job.
        class_names: by label; category ids are labels + 1.

    Returns:
        Its URL.
    """
    with (output / FILE).written() as binary, io.TextIOWrapper(binary, encoding="utf-8") as file:
        categories = [{"id": label + 1, "name": name} for label, name in enumerate(class_names)]
        file.write(f'{{"categories": {json.dumps(categories, ensure_ascii=False)},\n"images": [')
        for number, row in enumerate(_answered(output, ["id", "width", "height", "error"]), 1):
            image = coco.image_entry(number, row["id"], row["width"], row["height"])
            file.write(f"{',' if number > 1 else ''}\n{json.dumps(image, ensure_ascii=False)}")
        file.write('],\n"annotations": [')
        annotation = 0
        for number, row in enumerate(_answered(output, ["boxes", "scores", "labels", "error"]), 1):
            for box, score, label in zip(row["boxes"], row["scores"], row["labels"], strict=True):
                annotation += 1
                one = coco.annotation_entry(annotation, coco.result_entry(number, label + 1, box, score))
                file.write(f"{',' if annotation > 1 else ''}\n{json.dumps(one)}")
        file.write("]}\n")
    return str(output / FILE)


def _answered(output: Place, columns: list[str]) -> Any:
    """Rows without an error, in an order that stays."""
    found = dataset(output)
    for batch in found.to_batches(columns=columns) if found is not None else ():
        yield from (row for row in batch.to_pylist() if row["error"] is None)
