"""What the benchmarks share: the machine, the demo model, pictures of many sizes, OpenVINO without a server."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import openvino
from nas_client.bench.report import cpu_name
from nas_ensembles import contract, images
from nas_ensembles.letterbox import LetterboxSpec
from nas_ensembles.pipeline import Candidates, finish, prepare
from rich.console import Console
from rich.progress import track

SAMPLES = Path(__file__).parents[1] / "samples"
BUS = SAMPLES / "bus.jpg"

LONG_SIDES = (320, 480, 640, 800)  # COCO's pictures have 640


def machine() -> dict[str, Any]:
    """What a result needs to be compared with another."""
    packages = (
        "nas-triton",
        "openvino",
        "onnxruntime",
        "torch",
        "tritonclient",
        "nvidia-pytriton",
        "fastapi",
        "uvicorn",
    )
    return {
        "cpu": cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "versions": {name: metadata.version(name) for name in packages},
    }


def build_demo(repository: Path, precision: str = "int8") -> str:
    """Name of the demo model, built into a repository for this CPU."""
    from nas_build import pipeline  # with PyTorch, which would count as memory of those that do without

    options = pipeline.Options(weights="demo", variant="s", precision=precision, model_repository=repository)  # type: ignore[arg-type]
    return pipeline.build(options).name


def graph_file(repository: Path, name: str) -> Path:
    return repository / f"{name}_engine/1/model.onnx"


def mixed_pictures() -> list[bytes]:
    """The samples as JPEG, each at four sizes."""
    pictures = []
    for path in sorted(SAMPLES.iterdir()):
        if path.suffix not in images.SUFFIXES:
            continue
        image = cv2.imread(str(path))
        for side in LONG_SIDES:
            factor = side / max(image.shape[:2])
            resized = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
            pictures.append(cv2.imencode(".jpg", resized, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes())
    return pictures


def canvas_of(data: bytes) -> np.ndarray:
    """(1, 3, 640, 640) uint8."""
    return prepare(images.decode(data), LetterboxSpec()).canvas[None]


def detect(data: bytes, infer: Callable[[np.ndarray], Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boxes, scores and labels of a picture: all the ensemble does, but for the graph in this process.

    Args:
        data: an encoded picture.
        infer: a canvas (1, 3, 640, 640) uint8 to the graph's three outputs.
    """
    canvas, geometry = prepare(images.decode(data), LetterboxSpec())
    candidates = Candidates(*(np.asarray(output)[0] for output in infer(canvas[None])))
    return finish(candidates, geometry, contract.Thresholds())


def compiled(graph: Path, **properties: Any) -> openvino.CompiledModel:
    """The graph in this process, for one picture, in the precision that is served."""
    core = openvino.Core()
    model = core.read_model(graph)
    model.reshape({0: [1, *model.input(0).partial_shape[1:]]})
    return core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32", **properties})


def measure(contenders: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Milliseconds per contender and round, interleaved, after three warm-up rounds."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for i in track(range(rounds + 3), "measuring", console=Console(stderr=True)):
        for name, run in contenders.items():
            started = time.perf_counter()
            run()
            if i >= 3:
                times[name].append((time.perf_counter() - started) * 1e3)
    return times


def bare_openvino(graph: Path) -> dict[str, Callable[[float], float]]:
    """Ways to run nothing but the graph as fast as OpenVINO can: seconds to pictures per second."""
    canvas = canvas_of(BUS.read_bytes())
    ways: dict[str, dict[str, Any]] = {
        "latency hint": {"PERFORMANCE_HINT": "LATENCY"},
        "throughput hint": {"PERFORMANCE_HINT": "THROUGHPUT"},
        "throughput hint, not pinned": {"PERFORMANCE_HINT": "THROUGHPUT", "ENABLE_CPU_PINNING": False},
    }

    def runner(properties: dict[str, Any]) -> Callable[[float], float]:
        queue = openvino.AsyncInferQueue(compiled(graph, **properties))
        return lambda seconds: _throughput(queue, canvas, seconds)

    return {name: runner(properties) for name, properties in ways.items()}


def _throughput(queue: openvino.AsyncInferQueue, canvas: np.ndarray, seconds: float) -> float:
    started, done = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        queue.start_async({0: canvas}, share_inputs=True)
        done += 1
    queue.wait_all()
    return done / (time.perf_counter() - started)


def spread(values: Sequence[float]) -> float:
    """Largest less smallest, as a share of the middle."""
    return (max(values) - min(values)) / sorted(values)[len(values) // 2]
