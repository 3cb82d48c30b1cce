"""What each built model loses against float32, and what it costs, in one run.

    make results     # or: .venv/bin/python benchmarks/accuracy.py --json benchmarks/accuracy.json --readme README.md

For each variant: the network in float32 (PyTorch, in process), the fp16 and int8 models as served by a real Triton, and
for comparison int8 by plain max calibration of every convolution (in process, OpenVINO). The interval is that of a
paired bootstrap over pictures. A data set of few pictures is mirrored and shrunk to give ten times as many: the demo
checkpoint knows coco8's pictures and little else.

    --weights coco --variants s m l --data coco-val2017 --calibration train2017/     # the real ones, hours on a CPU
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from common import cpu_name, measure
from nas_build import Int8Options, Options, pipeline
from nas_build.cli.display import Display
from nas_build.graph import predict
from nas_build.graph.exact import Exact
from nas_build.graph.export import Exported
from nas_build.inputs import bundled, calibration_data
from nas_build.int8 import calibrate, rounding
from nas_build.int8.qdq import insert_qdq
from nas_build.int8.quantizer import Quantizer
from nas_build.int8.schemes import UNSIGNED
from nas_build.yolo_nas import checkpoint, weights
from nas_build.yolo_nas.processing import COCO
from nas_client import Detector
from nas_client.validation.measure import answers as answers_of
from nas_ensembles import contract, images
from nas_eval import metrics, paired_bootstrap
from nas_eval.coco_names import COCO_NAMES
from nas_eval.dataset import Dataset, Picture
from nas_eval.errors import DatasetError
from nas_eval.metrics import Prediction
from nas_eval.open_dataset import open_dataset
from nas_serve import Server
from rich.console import Console
from rich.progress import track

# COCO val2017 with Deci's weights; NVIDIA T4, TensorRT, batch 1, network and decoding only.
PUBLISHED = {
    ("s", "fp16"): (47.5, 3.21),
    ("s", "int8"): (47.03, 2.36),
    ("m", "fp16"): (51.55, 5.85),
    ("m", "int8"): (51.0, 3.78),
    ("l", "fp16"): (52.22, 7.87),
    ("l", "int8"): (52.1, 4.78),
}
FEW = 100
SIZES = (1.0, 0.95, 0.9, 0.85, 0.8)
MARKS = "<!-- accuracy: written by make results -->", "<!-- end of accuracy -->"


@dataclass
class Row:
    """One model of the table."""

    variant: str
    name: str
    precision: str
    megabytes: float | None
    predictions: list[Prediction]
    p50_ms: float | None = None


def varied(dataset: Dataset, folder: Path) -> Dataset:
    """Every picture as it is and mirrored, at five sizes on a grey canvas of its own size; boxes go with it."""
    kept: list[Picture] = []
    entries: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for picture in track(dataset.pictures, "varying", console=Console(stderr=True)):
        original = images.decode(picture.path.read_bytes())
        height, width = original.shape[:2]
        for mirrored in (False, True):
            for size in SIZES:
                shrunk = cv2.resize(original, (round(width * size), round(height * size)), interpolation=cv2.INTER_AREA)
                canvas = np.full_like(original, 114)
                canvas[: shrunk.shape[0], : shrunk.shape[1]] = shrunk[:, ::-1] if mirrored else shrunk
                id = len(kept) + 1
                kept.append(Picture(id, folder / f"{id:06}.png"))
                cv2.imwrite(str(kept[-1].path), canvas[..., ::-1])
                entries.append({"id": id, "file_name": kept[-1].path.name, "width": width, "height": height})
                for box in dataset.truth["annotations"]:
                    if box["image_id"] == picture.id:
                        left, top, w, h = (value * size for value in box["bbox"])
                        left = shrunk.shape[1] - left - w if mirrored else left
                        moved = {"id": len(annotations) + 1, "image_id": id, "bbox": [left, top, w, h], "area": w * h}
                        annotations.append({**box, **moved})
    truth = {**dataset.truth, "images": entries, "annotations": annotations}
    return Dataset(dataset.name, tuple(kept), truth)


def in_process(title: str, detect: predict.Detect, dataset: Dataset, categories: dict[int, int]) -> list[Prediction]:
    display = Display(quiet=False, verbose=False)
    progress = display.model(title)
    with display.live(), progress.step("pictures", len(dataset.pictures)):
        return predict.on_dataset(detect, COCO.letterbox, dataset, categories, contract.VALIDATION_THRESHOLDS, progress)


def served(detector: Detector, dataset: Dataset, categories: dict[int, int]) -> list[Prediction]:
    answers = answers_of(detector, dataset, categories, contract.VALIDATION_THRESHOLDS, in_flight=4, resume=False)
    found = []
    for answer in track(answers, detector.model.name, len(dataset.pictures), console=Console(stderr=True)):
        if answer.error:
            raise answer.error
        found += answer.predictions
    return found


def plain_int8(exported: Exported, calibration: Sequence[Path]) -> Exact:
    """What everybody's first int8 is: the largest value seen, the nearest weight, every convolution."""
    observed = calibrate.observe(exported.reference, calibration_data.canvases(calibration, COCO.letterbox))
    quantizer = Quantizer(exported, observed, UNSIGNED)
    rounded = {name: rounding.nearest(quantizer.weights_of(name)) for name in observed}
    return Exact(insert_qdq(exported.graph, quantizer.grids("max"), rounded))


def rows_of(variant: Any, arguments: argparse.Namespace, dataset: Dataset, folder: Path) -> list[Row]:
    """Build, serve, measure one variant."""
    display = Display(quiet=False, verbose=False)
    loaded = checkpoint.load(
        weights.resolve(weights.WeightsRequest(arguments.weights, variant), display.model(variant))
    )
    class_names = loaded.class_names or COCO_NAMES
    exported = Exported.of(loaded.network(), COCO, class_names, "plain")
    int8 = Int8Options(calibration=arguments.calibration, calibration_pictures=arguments.calibration_pictures)
    names = []
    for precision in ("fp16", "int8"):
        options = Options(
            arguments.weights,
            variant,  # type: ignore[arg-type]
            precision,
            model_repository=folder,
            int8=int8,
            processing="coco",
        )
        with display.live():
            names.append(pipeline.build(options, display.model(f"{variant} {precision}")).name)
    categories = dataset.categories_of(class_names)
    rows = [
        Row(variant, "PyTorch, in process", "float32", None, []),
        Row(variant, "plain max calibration, in process", "int8", None, []),
    ]
    rows[0].predictions = in_process("float32", predict.in_pytorch(exported.float32), dataset, categories)
    plain = plain_int8(exported, calibration_data.find(int8))
    rows[1].predictions = in_process("plain int8", lambda canvas: plain(canvas).candidates, dataset, categories)
    data = (bundled.folder() / "bus.jpg").read_bytes()
    with Server(folder, models=names) as server:
        detectors = {name: Detector(server.grpc_url, model=name) for name in names}
        contenders = {name: partial(detector.detect, data) for name, detector in detectors.items()}
        times = measure(contenders, arguments.rounds)  # type: ignore[arg-type]
        for name, precision in zip(names, ("fp16", "int8"), strict=True):
            engine = folder / contract.stage_name(name, "engine") / "1" / "model.onnx"
            rows.append(Row(variant, name, precision, engine.stat().st_size / 1e6, []))
            rows[-1].predictions = served(detectors[name], dataset, categories)
            rows[-1].p50_ms = statistics.median(times[name])
            detectors[name].close()
    return rows


def plain_row(row: Row, float32: Row, dataset: Dataset) -> dict[str, Any]:
    """The numbers of a row."""
    measured = metrics.evaluate(dataset, row.predictions)
    difference = paired_bootstrap.compare(dataset, float32.predictions, row.predictions, 300)
    published = PUBLISHED.get((row.variant, row.precision)) if row.p50_ms else None
    return {
        "variant": row.variant,
        "model": row.name,
        "precision": row.precision,
        "megabytes": row.megabytes and round(row.megabytes, 1),
        "map_50_95": round(measured.map_50_95 * 100, 2),
        "map_50": round(measured.map_50 * 100, 2),
        "loss": round(-difference.difference * 100, 2) + 0.0,
        "loss_interval": [round(-difference.high * 100, 2) + 0.0, round(-difference.low * 100, 2) + 0.0],
        "p50_ms": row.p50_ms and round(row.p50_ms, 1),
        "published_map_50_95": published and published[0],
        "published_t4_ms": published and published[1],
    }


def markdown(result: dict[str, Any]) -> str:
    """The table, and what it is of."""
    titles = ("model", "MB", "mAP 50-95", "loss (95 % interval)", "p50 ms", "published mAP", "published ms, T4")
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for row in result["rows"]:
        low, high = row["loss_interval"]
        cells = (
            f"{row['variant'].upper()} {row['precision']}: {row['model']}",
            row["megabytes"],
            f"{row['map_50_95']:.2f}",
            None if row["precision"] == "float32" else f"{row['loss']:+.2f} ({low:+.2f} to {high:+.2f})",
            row["p50_ms"],
            row["published_map_50_95"],
            row["published_t4_ms"],
        )
        lines.append("| " + " | ".join("" if cell is None else str(cell) for cell in cells) + " |")
    return "\n".join([*lines, "", *result["about"]])


def about(arguments: argparse.Namespace, dataset: Dataset, originals: int) -> list[str]:
    """What data and weights the table is for."""
    data = f"{len(dataset.pictures)} pictures of {dataset.name}"
    if originals < len(dataset.pictures):
        data += f" ({originals} pictures as they are and mirrored, at five sizes)"
    calibration = arguments.calibration.name if arguments.calibration else "the bundled samples"
    cores = len(os.sched_getaffinity(0))
    lines = [
        f"Weights `{arguments.weights}`, {data}, calibrated on {calibration}. Loss is against float32; p50 is one",
        f"picture from JPEG to boxes through gRPC on {cpu_name()}, {cores} cores. Published: Deci's weights on COCO",
        "val2017; network and decoding only, on an NVIDIA T4.",
    ]
    if arguments.weights == "demo":
        lines += [
            "The demo checkpoint was trained on these pictures: the table shows what quantization costs,",
            "and says nothing about YOLO-NAS's accuracy.",
        ]
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="demo", help="as nas-build takes them")
    parser.add_argument("--variants", nargs="+", default=["s"], choices=("s", "m", "l"))
    parser.add_argument("--data", default="coco8", help="name, data set YAML, or COCO JSON with --images")
    parser.add_argument("--images", type=Path, help="folder of a COCO JSON's pictures")
    parser.add_argument("--splits", nargs="+", default=["train", "val"], help="of a YAML")
    parser.add_argument("--calibration", type=Path, help="folder of pictures; default: the samples")
    parser.add_argument("--calibration-pictures", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--json", type=Path, help="write the result there")
    parser.add_argument("--readme", type=Path, help="replace the table there")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        dataset = joined(splits_of(arguments))
        originals = len(dataset.pictures)
        if originals < FEW:
            (folder / "varied").mkdir()
            dataset = varied(dataset, folder / "varied")
        rows = []
        for variant in arguments.variants:
            group = rows_of(variant, arguments, dataset, folder / "models")
            rows += [plain_row(row, group[0], dataset) for row in group]
    libraries = ("nas-triton", "openvino", "torch", "faster-coco-eval", "nvidia-pytriton")
    result = {
        "about": about(arguments, dataset, originals),
        "versions": {key: metadata.version(key) for key in libraries},
        "rows": rows,
    }
    table = markdown(result)
    print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")
    if arguments.readme:
        start, end = MARKS
        text = arguments.readme.read_text(encoding="utf-8")
        inside = f"{start}\n{table}\n{end}"
        arguments.readme.write_text(
            re.sub(f"{start}.*{end}", lambda _: inside, text, flags=re.DOTALL), encoding="utf-8"
        )


def splits_of(arguments: argparse.Namespace) -> list[Dataset]:
    """Those that the data set has of the wanted ones."""
    opened, reasons = [], []
    for split in arguments.splits:
        try:
            opened.append(open_dataset(arguments.data, arguments.images, split))
        except DatasetError as error:
            if error.remedy != "split":
                raise
            reasons.append(error)
    if not opened:
        raise reasons[0]
    return opened


def joined(splits: Sequence[Dataset]) -> Dataset:
    """The splits of a data set as one; a data set of one split comes once for each name."""
    kept: list[Picture] = []
    entries: list[Any] = []
    annotations: list[Any] = []
    for split in splits:
        if any(picture.path == split.pictures[0].path for picture in kept):
            continue
        shift = len(kept)
        kept += [Picture(picture.id + shift, picture.path) for picture in split.pictures]
        entries += [{**entry, "id": entry["id"] + shift} for entry in split.truth["images"]]
        for box in split.truth["annotations"]:
            annotations.append({**box, "id": len(annotations) + 1, "image_id": box["image_id"] + shift})
    truth = {**splits[0].truth, "images": entries, "annotations": annotations}
    return Dataset(splits[0].name, tuple(kept), truth)


if __name__ == "__main__":
    main()
