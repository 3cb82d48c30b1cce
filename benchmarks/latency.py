"""Latency of the served model beside OpenVINO and PyTorch in this process, interleaved in one run.

    make bench            # or: .venv/bin/python benchmarks/latency.py --json benchmarks/latency.json

What is compared, for one picture from its JPEG bytes to its boxes:

  served     nas-client's Detector over gRPC, the whole int8 ensemble in a real Triton
  openvino   cv2.imdecode and one bare OpenVINO call on the very same model.onnx: the bound
  pytorch    decode, letterbox, float32 network as loaded from the checkpoint, top-k, NMS, unletterbox
  fused      the same with the fused network

Rounds alternate, so that a busy machine slows all alike; ratios of medians are what counts.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import cv2
import numpy as np
import openvino
import torch
from nas_build import build, checkpoint, weights
from nas_build.export import top_candidates
from nas_build.network import fuse
from nas_client import Detector
from nas_ensembles import contract, images, nms
from nas_ensembles.letterbox import LetterboxSpec, letterbox, to_planes, unletterbox
from nas_serve import Server
from rich.console import Console
from rich.progress import track
from rich.table import Table

LIMITS = {"served / openvino": ("at most", 1.4), "pytorch / served": ("at least", 8.0)}


def bare_openvino(model: Path, data: bytes) -> Callable[[], object]:
    """Decode the JPEG, run the graph on a canvas that is there already."""
    core = openvino.Core()
    graph = core.read_model(model)
    graph.reshape({0: [1, *graph.input(0).partial_shape[1:]]})
    properties = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    request = core.compile_model(graph, "CPU", properties).create_infer_request()
    canvas = canvas_of(data)

    def run() -> object:
        cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        return request.infer({0: canvas}, share_inputs=True)

    return run


def canvas_of(data: bytes) -> np.ndarray:
    """(1, 3, 640, 640) uint8."""
    out = np.empty((1, 3, 640, 640), np.uint8)
    to_planes(letterbox(images.decode(data), LetterboxSpec()).canvas, out[0])
    return out


def in_pytorch(network: torch.nn.Module, data: bytes) -> Callable[[], object]:
    """Everything the ensemble does, in this process."""
    spec, thresholds = LetterboxSpec(), contract.Thresholds()

    @torch.inference_mode()
    def run() -> object:
        image = images.decode(data)
        boxed = letterbox(image, spec)
        canvas = np.empty((3, *spec.size_hw), np.uint8)
        to_planes(boxed.canvas, canvas)
        candidates = top_candidates(*network(torch.from_numpy(canvas)[None].float() / 255))
        boxes, scores, labels = (tensor[0].numpy() for tensor in candidates)
        kept = nms.select(boxes, scores, labels, thresholds)
        return unletterbox(boxes[kept], boxed.scale, boxed.pad_xy, (image.shape[1], image.shape[0]))

    return run


def cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def measure(contenders: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Milliseconds per contender and round, interleaved, after three warm-up rounds."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for i in track(range(rounds + 3), "measuring", console=Console(stderr=True)):
        for name, run in contenders.items():
            started = time.perf_counter()
            run()
            if i >= 3:
                times[name].append((time.perf_counter() - started) * 1e3)
    return times


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--picture", type=Path, default=weights.samples_folder() / "bus.jpg")
    parser.add_argument("--json", type=Path, help="write the result there too")
    arguments = parser.parse_args()
    data = arguments.picture.read_bytes()
    network = checkpoint.load(weights.resolve("demo", "s", print, lambda *_: None)).network()
    with tempfile.TemporaryDirectory() as folder:
        options = build.Options(weights="demo", variant="s", precision="int8", model_repository=Path(folder))
        name = build.build(options).name
        with Server(folder) as server, Detector(server.grpc_url, model=name) as detector:
            times = measure(
                {
                    "served": lambda: detector.detect(data),
                    "openvino": bare_openvino(Path(folder) / f"{name}_engine/1/model.onnx", data),
                    "pytorch": in_pytorch(network, data),
                    "fused": in_pytorch(fuse(network), data),
                },
                arguments.rounds,
            )
    p50 = {key: statistics.median(values) for key, values in times.items()}
    ratios = {
        "served / openvino": p50["served"] / p50["openvino"],
        "pytorch / served": p50["pytorch"] / p50["served"],
        "fused / served": p50["fused"] / p50["served"],
    }
    result = {
        "cpu": cpu_name(),
        "threads": torch.get_num_threads(),
        "picture": arguments.picture.name,
        "rounds": arguments.rounds,
        "versions": {key: metadata.version(key) for key in ("openvino", "torch", "tritonclient", "nvidia-pytriton")},
        "p50_ms": {key: round(value, 1) for key, value in p50.items()},
        "p95_ms": {key: round(statistics.quantiles(v, n=20)[-1], 1) for key, v in times.items()},
        "ratios": {key: round(value, 2) for key, value in ratios.items()},
    }
    table = Table("contender", "p50 ms", "p95 ms", title=f"{result['cpu']}, {result['threads']} threads")
    for key in times:
        table.add_row(key, f"{result['p50_ms'][key]}", f"{result['p95_ms'][key]}")
    console = Console()
    console.print(table)
    passed = True
    for key, value in ratios.items():
        word, limit = LIMITS.get(key, ("", 0.0))
        holds = {"at most": value <= limit, "at least": value >= limit, "": True}[word]
        passed &= holds
        console.print(f"{key}: {value:.2f}" + (f" ({word} {limit:g}: {'holds' if holds else 'FAILS'})" if word else ""))
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
