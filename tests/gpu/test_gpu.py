"""What only a GPU can show: plans that run, served by Triton's TensorRT backend. docs/gpu.md says how to run these."""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from nas_build import TensorRTOptions, pipeline
from nas_build.errors import PlanError
from nas_build.graph.export import EndToEnd, top_candidates
from nas_build.targets.tensorrt import TensorRT, servers, ways
from nas_build.targets.tensorrt.container import docker_engine, require_gpu
from nas_build.targets.tensorrt.gpus import Gpu, find_gpu
from nas_build.yolo_nas import checkpoint
from nas_build.yolo_nas.processing import COCO
from nas_client import Detections, Detector
from numpy.typing import NDArray

from support.containers import triton_by_script
from support.networks import canvas_of, in_pytorch
from support.samples import DEMO, PICTURES, ROOT, SAMPLES

pytestmark = pytest.mark.gpu
PRECISIONS = ("fp16", "int8")
# Published for YOLO-NAS S: milliseconds on an NVIDIA T4, TensorRT, batch 1, 640 x 640.
PUBLISHED_MS = {"fp16": 3.21, "int8": 2.36}
# Per precision: box sides in pixels, scores, and the score above which an object must be found again.
TOLERANCES = {"fp16": (1.0, 0.01, 0.27), "int8": (25.0, 0.2, 0.4)}


@pytest.fixture(scope="session")
def gpu() -> Gpu:
    try:
        return find_gpu()
    except PlanError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def models(gpu: Gpu, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model in both precisions, tuned for single pictures like the published figures."""
    server = os.environ.get("NAS_SERVER", servers.DEFAULT_SERVER)
    try:
        plan_builder = ways.find(TensorRTOptions(server=server))
    except PlanError as error:
        pytest.skip(str(error))
    folder = tmp_path_factory.mktemp("models")
    for precision in PRECISIONS:
        options = pipeline.Options(
            weights="demo",
            variant="s",
            precision=precision,  # type: ignore[arg-type]
            target="tensorrt",
            model_repository=folder,
            tensorrt=TensorRTOptions(opt_batch_size=1, server=server),
        )
        manifest = pipeline.build(options, target=TensorRT(options, plan_builder)).manifest
        assert manifest["plan"]["gpu"] == gpu.name and manifest["plan"]["tensorrt_version"]
    for path in (folder, *folder.rglob("*")):  # the server in a container is another user
        path.chmod(path.stat().st_mode | (0o555 if path.is_dir() else 0o444))
    return folder


def plan_of(models: Path, precision: str) -> bytes:
    return (models / f"yolo_nas_s_{precision}_engine" / "1" / "model.plan").read_bytes()


class Running:
    """A plan on the GPU, through TensorRT's Python package."""

    def __init__(self, data: bytes) -> None:
        self.trt = importlib.import_module("tensorrt")
        self.runtime = self.trt.Runtime(self.trt.Logger(self.trt.Logger.WARNING))
        self.engine = self.runtime.deserialize_cuda_engine(data)
        self.context = self.engine.create_execution_context()
        self.stream = torch.cuda.Stream()

    def bind(self, canvases: NDArray[np.uint8]) -> dict[str, torch.Tensor]:
        kinds = {"INT32": torch.int32, "FLOAT": torch.float32}
        tensors = {"images": torch.from_numpy(canvases).cuda()}
        self.context.set_input_shape("images", tuple(canvases.shape))
        for i in range(self.engine.num_io_tensors):
            name = self.engine.get_tensor_name(i)
            if name not in tensors:
                shape = tuple(self.context.get_tensor_shape(name))
                tensors[name] = torch.empty(shape, dtype=kinds[self.engine.get_tensor_dtype(name).name], device="cuda")
            self.context.set_tensor_address(name, tensors[name].data_ptr())
        return tensors

    def run(self) -> None:
        assert self.context.execute_async_v3(self.stream.cuda_stream)
        self.stream.synchronize()


@pytest.fixture(scope="session")
def running(models: Path) -> Callable[[str], Running]:
    try:
        importlib.import_module("tensorrt")
    except ImportError as error:
        pytest.skip(f"the tensorrt package runs plans in this process: {error}")
    if not torch.cuda.is_available():
        pytest.skip("this PyTorch is a CPU build, and holds no tensors on the GPU")
    return lambda precision: Running(plan_of(models, precision))


def found_again(expected: list[NDArray[Any]], got: list[NDArray[Any]], precision: str) -> tuple[int, int]:
    """Clear objects of the first, and how many of them the second has: boxes, scores, labels."""
    px, score, clear = TOLERANCES[precision]
    boxes, scores, labels = got
    wanted = [
        bool(((np.abs(boxes - box).max(1, initial=0) <= px) & (np.abs(scores - s) <= score) & (labels == label)).any())
        for box, s, label in zip(*expected, strict=True)
        if s > clear
    ]
    return len(wanted), sum(wanted)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("batch", [1, 3, 8])
def test_the_plan_computes_what_pytorch_computes(
    batch: int, precision: str, running: Callable[[str], Running], demo: checkpoint.Checkpoint
) -> None:
    canvases = np.stack([canvas_of(PICTURES[i % len(PICTURES)]) for i in range(batch)])
    engine = running(precision)
    tensors = engine.bind(canvases)
    engine.run()
    with torch.inference_mode():
        reference = top_candidates(*EndToEnd(demo.network(), COCO, torch.float32).decoded(torch.from_numpy(canvases)))
    for i in range(batch):
        expected = [tensor[i].numpy() for tensor in reference]
        names = ("candidate_boxes", "candidate_scores", "candidate_labels")
        clear, again = found_again(expected, [tensors[name][i].cpu().numpy() for name in names], precision)
        assert clear and clear == again


def test_int8_convolutions_are_int8(running: Callable[[str], Running]) -> None:
    int8 = running("int8")
    inspector = int8.engine.create_engine_inspector()
    layers = json.loads(inspector.get_engine_information(int8.trt.LayerInformationFormat.JSON))["Layers"]
    convolutions = [layer for layer in layers if re.search("conv|correlation", layer["LayerType"], re.IGNORECASE)]
    in_int8 = [layer for layer in convolutions if "int8" in json.dumps(layer["Inputs"]).lower()]
    assert len(in_int8) >= 0.9 * len(convolutions) > 50


def test_latency_of_the_engine(gpu: Gpu, running: Callable[[str], Running], capsys: pytest.CaptureFixture[str]) -> None:
    """Interleaved, so that what else the machine does hits both."""
    engines = {precision: running(precision) for precision in PRECISIONS}
    for engine in engines.values():
        engine.bind(canvas_of(SAMPLES / "bus.jpg")[None])
    times: dict[str, list[float]] = {precision: [] for precision in PRECISIONS}
    for i in range(300):
        for precision, engine in engines.items():
            started = time.perf_counter()
            engine.run()
            if i >= 50:
                times[precision].append((time.perf_counter() - started) * 1000)
    medians = {precision: statistics.median(values) for precision, values in times.items()}
    with capsys.disabled():
        print(table(f"the plan alone (p50) on {gpu.name}, batch 1", medians))
    assert medians["int8"] <= medians["fp16"] * 1.05


def table(title: str, medians: dict[str, float]) -> str:
    rows = [f"\nYOLO-NAS S, {title}", f"{'':8}{'ms':>10}{'published on T4':>18}{'ratio':>8}"]
    for precision, median in medians.items():
        published = PUBLISHED_MS[precision]
        rows.append(f"{precision:8}{median:10.2f}{published:18.2f}{median / published:8.2f}")
    return "\n".join(rows)


@pytest.fixture(scope="session")
def served(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, int]]:
    """Ports of a Triton with the TensorRT backend: of this machine, or in a container."""
    binary = shutil.which("tritonserver")
    if binary and (Path(binary).resolve().parents[1] / "backends" / "tensorrt").is_dir():
        log = tmp_path_factory.mktemp("server") / "log"
        with triton_by_script([], {"MODEL_REPOSITORY": str(models)}, log, timeout_s=300) as ports:
            yield ports
        return
    try:
        with docker_engine() as client:
            require_gpu(client)
    except PlanError as error:
        pytest.skip(f"no tritonserver with the TensorRT backend: none on PATH, and {error}")
    compose = ["docker", "compose", "--profile", "gpu", "--project-directory", str(ROOT)]
    compose += ["--project-name", "nas-triton-tests"]  # a server that runs stays; the ports must be free, though
    env = os.environ | {"MODEL_REPOSITORY": str(models)}
    try:
        up = subprocess.run([*compose, "up", "--build", "--wait"], env=env, capture_output=True, text=True, check=False)
        assert up.returncode == 0, up.stderr
        yield {"http": 8000, "grpc": 8001, "metrics": 8002}
    finally:
        subprocess.run([*compose, "down"], env=env, check=False, capture_output=True)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_served_boxes_are_pytorchs(precision: str, served: dict[str, int]) -> None:
    network = checkpoint.load(DEMO).network()
    with Detector(f"localhost:{served['grpc']}", model=f"yolo_nas_s_{precision}") as detector:
        batch = detector.detect(list(PICTURES))
        for path, together in zip(PICTURES, batch, strict=True):
            alone = detector.detect(path)
            for got in (alone, together):
                expected = list(in_pytorch(network, COCO, path))
                clear, again = found_again(expected, [got.boxes_xyxy, got.scores, got.labels], precision)
                assert clear == again
            assert isinstance(alone, Detections)


def test_latency_of_the_served_model(gpu: Gpu, served: dict[str, int], capsys: pytest.CaptureFixture[str]) -> None:
    url = f"localhost:{served['grpc']}"
    picture = (SAMPLES / "bus.jpg").read_bytes()
    times: dict[str, list[float]] = {precision: [] for precision in PRECISIONS}
    with (
        Detector(url, model="yolo_nas_s_fp16") as fp16,
        Detector(url, model="yolo_nas_s_int8") as int8,
    ):
        for detector in (fp16, int8):
            detector.detect(picture)
        before = {precision: engine_counters(served, precision) for precision in PRECISIONS}
        for _ in range(200):
            for precision, detector in (("fp16", fp16), ("int8", int8)):
                started = time.perf_counter()
                detector.detect(picture)
                times[precision].append((time.perf_counter() - started) * 1000)
    after = {precision: engine_counters(served, precision) for precision in PRECISIONS}
    engines = {p: (after[p][0] - before[p][0]) / (after[p][1] - before[p][1]) / 1000 for p in PRECISIONS}
    with capsys.disabled():
        print(table(f"the engine inside Triton (mean) on {gpu.name}", engines))
        print(table("from JPEG to boxes through gRPC (p50)", {p: statistics.median(times[p]) for p in PRECISIONS}))
    assert all(engines[precision] < statistics.mean(times[precision]) for precision in PRECISIONS)
    assert engines["int8"] <= engines["fp16"] * 1.1


def engine_counters(served: dict[str, int], precision: str) -> tuple[float, float]:
    """Triton's own account of the engine: microseconds of computing, and executions."""
    metrics = httpx.get(f"http://localhost:{served['metrics']}/metrics").text
    us, count = (
        float(re.search(rf'^{name}{{model="yolo_nas_s_{precision}_engine"[^}}]*}} (\S+)', metrics, re.MULTILINE)[1])  # type: ignore[index]
        for name in ("nv_inference_compute_infer_duration_us", "nv_inference_exec_count")
    )
    return us, count
