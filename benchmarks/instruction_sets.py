"""int8 by instruction set: what is found again, and how fast, beside the exact graph and fp16.

    .venv/bin/python benchmarks/instruction_sets.py --pictures FOLDER --json benchmarks/instruction_sets.json

Builds the demo model in both precisions, then runs the engines as they are served, in a process for each instruction
set (ONEDNN_MAX_CPU_ISA; those that the CPU lacks are as the next lower one). Found: of the objects that the network
finds in float64, above the default threshold, with the same label and an IoU of at least 0.5. Three minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from common import SAMPLES, build_demo, canvas_of, compiled, machine, measure
from nas_ensembles import contract, images, nms

_NAMES = [tensor.name for tensor in contract.CANDIDATE_TENSORS]
INSTRUCTION_SETS = ("AVX2", "AVX2_VNNI", "AVX512_CORE", "AVX512_CORE_VNNI", "ALL")


def latency(repository: Path, rounds: int = 30) -> dict[str, float]:
    """Medians of both engines in turn, and their ratio."""
    canvas = canvas_of((SAMPLES / "bus.jpg").read_bytes())
    engines = {p: compiled(next((repository / f"yolo_nas_s_{p}_engine").rglob("model.onnx"))) for p in ("int8", "fp16")}
    taken = measure({name: partial(engine, canvas) for name, engine in engines.items()}, rounds)
    medians = {f"{name} ms": round(float(np.median(values)), 1) for name, values in taken.items()}
    return {**medians, "int8 / fp16": round(medians["int8 ms"] / medians["fp16 ms"], 3)}


def candidates(engine: Any, canvas: np.ndarray) -> tuple[np.ndarray, ...]:
    """Boxes, scores, labels above the default thresholds."""
    answer = engine(canvas[None])
    boxes, scores, labels = (np.asarray(answer[name])[0] for name in _NAMES)
    kept = nms.select(boxes, scores, labels, contract.Thresholds())
    return boxes[kept], scores[kept], labels[kept]


def accuracy(expected: list[tuple[np.ndarray, ...]], got: list[tuple[np.ndarray, ...]]) -> dict[str, float]:
    """Share of the expected objects that are found, how many more there are, and how far boxes are off in px."""
    from nas_build.graph.boxes import iou

    total = found = extra = 0
    off: list[float] = []
    for (boxes, _, labels), (others, _, other_labels) in zip(expected, got, strict=True):
        total += len(boxes)
        extra += max(0, len(others) - len(boxes))
        for box, label in zip(boxes, labels, strict=True):
            same = others[other_labels == label]
            overlap = iou(box.astype(np.float32), same.astype(np.float32))
            if len(same) and overlap.max() >= 0.5:
                found += 1
                off.append(float(np.abs(same[overlap.argmax()] - box).max()))
    return {
        "objects": total,
        "found": round(found / total, 4),
        "extra": extra,
        "box px": round(float(np.median(off)), 2),
    }


def correlations(expected: list[np.ndarray], got: list[np.ndarray]) -> list[float]:
    """Of the class logits, per sample."""
    from nas_build.graph.check import _logits

    return [round(float(np.corrcoef(_logits(a), _logits(b))[0, 1]), 4) for a, b in zip(expected, got, strict=True)]


def reference(pictures: list[np.ndarray], samples: list[np.ndarray], folder: Path) -> None:
    """What the network says in float64, to a file."""
    import torch
    from nas_build.graph.export import EndToEnd, top_candidates
    from nas_build.inputs import bundled
    from nas_build.yolo_nas import checkpoint
    from nas_build.yolo_nas.processing import COCO

    engine = EndToEnd(checkpoint.load(bundled.folder() / bundled.DEMO_CHECKPOINT).network(), COCO, torch.float64)

    def detect(canvas: np.ndarray) -> tuple[np.ndarray, ...]:
        boxes, scores, labels = (t[0].numpy() for t in top_candidates(*engine.decoded(torch.from_numpy(canvas)[None])))
        kept = nms.select(boxes, scores, labels, contract.Thresholds())
        return boxes[kept], scores[kept], labels[kept]

    with torch.inference_mode():
        found = [detect(canvas) for canvas in pictures]
        scores = [engine.decoded(torch.from_numpy(canvas)[None])[1][0].float().numpy() for canvas in samples]
    np.save(folder / "reference.npy", np.array([found, scores], dtype=object), allow_pickle=True)


def one(repository: Path, folder: Path, exact: bool) -> dict[str, Any]:
    """Of this process's instruction set, or of the exact executor."""
    from nas_build.graph.exact import Exact, opened
    from nas_build.graph.export import SCORES

    found, scores = np.load(folder / "reference.npy", allow_pickle=True)
    stored = np.load(folder / "canvases.npz")
    pictures, samples = stored["pictures"], stored["samples"]
    model = onnx.load(str(next((repository / "yolo_nas_s_int8_engine").rglob("model.onnx"))))
    if exact:
        graph = Exact(model)

        def engine(canvas: np.ndarray) -> dict[str, Any]:
            outputs = graph(canvas[0])
            answer = dict(zip(_NAMES, ([output] for output in outputs.candidates), strict=True))
            return {**answer, SCORES: [outputs.scores]}

        timing: dict[str, float] = {}
    else:
        path = folder / "opened.onnx"
        onnx.save(opened(model), str(path))
        engine = compiled(path)
        timing = latency(repository)
    got = [candidates(engine, canvas) for canvas in pictures]
    sampled = [np.asarray(engine(canvas[None])[SCORES][0]) for canvas in samples]
    return {**accuracy(found, got), "correlation": correlations(scores, sampled), **timing}


def main() -> None:
    """Build, run a process for each, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=Path, help="folder of pictures that calibration has not seen")
    parser.add_argument("--every", type=int, default=1, help="take every so manieth of them")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--latency", type=Path, help="only print the latency in this process of a built repository")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.latency:
        print(json.dumps(latency(arguments.latency)))
        return
    if arguments.one:
        repository, folder, exact = arguments.one
        print(json.dumps(one(Path(repository), Path(folder), exact == "exact")))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        repository = folder / "models"
        for precision in ("fp16", "int8"):
            build_demo(repository, precision)
        paths = sorted(p for p in (arguments.pictures or SAMPLES).rglob("*") if p.suffix in images.SUFFIXES)
        samples = sorted(p for p in SAMPLES.iterdir() if p.suffix in images.SUFFIXES)
        of_pictures, of_samples = (
            [canvas_of(path.read_bytes())[0] for path in some] for some in (paths[:: arguments.every], samples)
        )
        np.savez(folder / "canvases.npz", pictures=of_pictures, samples=of_samples)
        reference(of_pictures, of_samples, folder)
        results = {}
        for instruction_set in ("exact", *INSTRUCTION_SETS):
            limit = {} if instruction_set in ("exact", "ALL") else {"ONEDNN_MAX_CPU_ISA": instruction_set}
            command = [sys.executable, __file__, "--one", str(repository), name, instruction_set]
            done = subprocess.run(command, env=os.environ | limit, stdout=subprocess.PIPE, text=True, check=True)
            results[instruction_set] = json.loads(done.stdout)
            print(instruction_set, results[instruction_set], flush=True)
    report = {"machine": machine(), "pictures": len(of_pictures), "results": results}
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
