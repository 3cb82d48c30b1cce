"""What --scaled-decoding saves, and how far boxes and scores move.

    .venv/bin/python benchmarks/scaled_decoding.py pictures/ --json benchmarks/scaled_decoding.json

Time: JPEGs of several sizes decoded and fitted into 640 x 640, whole and to a part, interleaved on one core. Boxes: the
demo network in float32 on a canvas of 320 x 320, for which usual pictures are large enough.
"""

from __future__ import annotations

import argparse
import json
import statistics
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from common import SAMPLES, machine, measure
from feed import kinds
from nas_build.graph.export import top_candidates
from nas_build.yolo_nas import checkpoint
from nas_ensembles import contract, images
from nas_ensembles.letterbox import LetterboxSpec
from nas_ensembles.pipeline import Candidates, Detected, Prepared, finish, prepare
from pycocotools import mask
from rich.console import Console
from rich.progress import track
from rich.table import Table

SMALL = LetterboxSpec((320, 320), (318, 318))
CLEAR = 0.4  # of such a score is what is compared


def prepared(data: bytes, spec: LetterboxSpec, scaled: bool) -> Prepared:
    image, size_hw = images.decode_reduced(data, spec.divisor if scaled else lambda _: 1)
    return prepare(image, spec, size_hw=size_hw)


def times() -> dict[str, dict[str, float]]:
    """Median milliseconds by picture, whole and scaled."""
    cv2.setNumThreads(1)
    jpegs = [kind for kind in kinds() if kind.name.startswith("JPEG")]
    contenders = {
        f"{kind.name}, {'scaled' if scaled else 'whole'}": partial(prepared, kind.data, LetterboxSpec(), scaled)
        for kind in jpegs
        for scaled in (False, True)
    }
    medians = {name: statistics.median(ms) for name, ms in measure(contenders, 20).items()}
    return {kind.name: {how: medians[f"{kind.name}, {how}"] for how in ("whole", "scaled")} for kind in jpegs}


def overlap(one: Detected, other: Detected) -> np.ndarray:
    """Intersection over union of boxes of the same class, (N, M)."""
    if not (len(one.scores) and len(other.scores)):
        return np.zeros((len(one.scores), len(other.scores)))
    boxes = [np.hstack([b[:, :2], b[:, 2:] - b[:, :2]]).astype(float) for b in (one.boxes_xyxy, other.boxes_xyxy)]
    return mask.iou(*boxes, np.zeros(len(other.scores), np.uint8)) * (one.labels[:, None] == other.labels)


def moved(folder: Path) -> dict[str, object]:
    """Clear objects of the pictures that are large enough: how they differ."""
    network = checkpoint.load(SAMPLES / "yolo_nas_s_demo.safetensors").network()

    def detect(data: bytes, scaled: bool) -> Detected:
        canvas, geometry = prepared(data, SMALL, scaled)
        with torch.inference_mode():
            found = top_candidates(*network(torch.from_numpy(canvas)[None].float() / 255))
        return finish(Candidates(*(one[0].numpy() for one in found)), geometry, contract.Thresholds(score=CLEAR / 2))

    pixels: list[float] = []
    scores: list[float] = []
    lost = pictures = 0
    for path in track(sorted(folder.rglob("*.jpg")), "pictures", console=Console(stderr=True)):
        data = path.read_bytes()
        if images.decode_reduced(data, SMALL.divisor).image.shape == images.decode(data).shape:
            continue
        pictures += 1
        whole, scaled = detect(data, False), detect(data, True)
        for one, other in ((whole, scaled), (scaled, whole)):
            overlaps = overlap(one, other)
            for i in np.flatnonzero(one.scores > CLEAR):
                if overlaps[i].max(initial=0) < 0.5:
                    lost += 1
                elif one is whole:
                    j = int(overlaps[i].argmax())
                    pixels.append(float(np.abs(one.boxes_xyxy[i] - other.boxes_xyxy[j]).max()))
                    scores.append(float(abs(one.scores[i] - other.scores[j])))
    quantiles = {
        name: {"median": float(np.median(values)), "95 %": float(np.quantile(values, 0.95)), "most": max(values)}
        for name, values in (("box side px", pixels), ("score", scores))
    }
    return {"pictures": pictures, "objects": len(pixels), "found by one alone": lost, **quantiles}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", type=Path, nargs="?", default=SAMPLES, help="JPEGs; default: the samples")
    parser.add_argument("--json", type=Path, help="write the result there too")
    arguments = parser.parse_args()
    result = {**machine(), "ms": times(), "moved": moved(arguments.pictures)}
    table = Table("picture", "whole ms", "scaled ms", "ratio")
    for name, ms in result["ms"].items():
        table.add_row(name, *(f"{ms[how]:.1f}" for how in ("whole", "scaled")), f"{ms['scaled'] / ms['whole']:.2f}")
    console = Console()
    console.print(table)
    console.print(result["moved"])
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
