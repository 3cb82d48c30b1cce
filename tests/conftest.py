"""Shared fixtures: the samples, networks, one model repository of all six models, and one real Triton on it."""

from __future__ import annotations

import io
import os
import signal
import ssl
import subprocess
import tarfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from nas_build import Int8Options, pipeline
from nas_build.errors import BuildError, PlanError
from nas_build.graph.export import top_candidates
from nas_build.targets.tensorrt import executors
from nas_build.yolo_nas import checkpoint, network, processing
from nas_build.yolo_nas.network import YoloNAS
from nas_ensembles import contract, images
from nas_ensembles.letterbox import LetterboxSpec
from nas_ensembles.pipeline import Candidates, finish, prepare
from nas_serve import Server, embedded
from numpy.typing import NDArray

ROOT = Path(__file__).parents[1]
SAMPLES = ROOT / "samples"
DEMO = SAMPLES / "yolo_nas_s_demo.safetensors"
PICTURES = sorted(path for path in SAMPLES.iterdir() if path.suffix in (".jpg", ".png"))
CUSTOM_NAMES = ("bolt", "nut", "schräge Mutter")
CUSTOM_PROCESSING = {
    "class_names": list(CUSTOM_NAMES),
    "image_processor": {
        "ComposeProcessing": {
            "processings": [
                {"ReverseImageChannels": {}},
                {"DetectionLongestMaxSizeRescale": {"output_shape": [640, 640]}},
                {"DetectionBottomRightPadding": {"output_shape": [640, 640], "pad_value": 114}},
                {"ImagePermute": {"permutation": [2, 0, 1]}},
            ]
        }
    },
    "iou": 0.65,
    "conf": 0.5,
}


# By what the CPU at hand must have to imitate each (ONEDNN_MAX_CPU_ISA).
_FLAGS = {
    "AVX2": "avx2",
    "AVX2_VNNI": "avx_vnni",
    "AVX512_CORE": "avx512bw",
    "AVX512_CORE_VNNI": "avx512_vnni",
    "AVX512_CORE_AMX": "amx_int8",
}
_CPU = set(Path("/proc/cpuinfo").read_text().partition("flags")[2].partition("\n")[0].split())
INSTRUCTION_SETS = [name for name, flag in _FLAGS.items() if flag in _CPU]


def canvas_of(path: Path, spec: LetterboxSpec | None = None) -> NDArray[np.uint8]:
    """(3, H, W) uint8 RGB of a picture file."""
    return prepare(images.decode(path.read_bytes()), spec or LetterboxSpec()).canvas


def in_pytorch(network: YoloNAS, compiled: processing.Processing, path: Path) -> tuple[NDArray[Any], ...]:
    """Unfused float32 network, the same decoding of pictures and the same NMS, in this process."""
    prepared = prepare(images.decode(path.read_bytes()), compiled.letterbox)
    canvas = prepared.canvas[::-1].copy() if compiled.bgr else prepared.canvas
    x = torch.from_numpy(canvas)[None].float() * compiled.multiply[0]
    with torch.inference_mode():
        candidates = Candidates(*(t[0].numpy() for t in top_candidates(*network(x))))
    return finish(candidates, prepared.geometry, compiled.thresholds)


def lively(variant: network.Variant, num_classes: int, pixel_scale: float = 1 / 255) -> YoloNAS:
    """A network with random weights that detects things: its outputs depend on the picture.

    Batch statistics are those of the samples. Batch normalization keeps most values off the ReLU's kink, so that
    rounding is not amplified from layer to layer, as it is not in a trained network.
    """
    torch.manual_seed(7)
    model = network.build(variant, num_classes)
    batch = torch.from_numpy(np.stack([canvas_of(path)[:, ::2, ::2] for path in PICTURES])).float() * pixel_scale
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # the running statistics become those of the one batch
            torch.nn.init.constant_(module.weight, 0.5)
            torch.nn.init.constant_(module.bias, 1.0)
    for head in (model.heads.head1, model.heads.head2, model.heads.head3):
        for convolution, spread, bias in ((head.cls_pred, 2.5, -4.0), (head.reg_pred, 1.0, 0.0)):
            weight = torch.randn_like(convolution.weight)
            weight -= weight.mean(dim=1, keepdim=True)
            convolution.weight.data = weight * spread / weight.shape[1] ** 0.5
            torch.nn.init.constant_(convolution.bias, bias)
    with torch.no_grad():
        model.train()(batch)
    return model.eval()


@pytest.fixture(scope="session", autouse=True)
def interruptible() -> None:
    """Shells start background jobs with SIGINT ignored, and that is inherited: some tests send it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def demo() -> checkpoint.Checkpoint:
    return checkpoint.load(DEMO)


@pytest.fixture(scope="session")
def demo_network(demo: checkpoint.Checkpoint) -> YoloNAS:
    return demo.network()


@pytest.fixture(scope="session")
def networks(demo_network: YoloNAS) -> dict[str, YoloNAS]:
    """S is the demo; M has 80 classes; L has three, wants BGR, bottom-right padding and undivided pixels."""
    return {"s": demo_network, "m": lively("m", 80), "l": lively("l", len(CUSTOM_NAMES), pixel_scale=1.0)}


@pytest.fixture(scope="session")
def checkpoints(networks: dict[str, YoloNAS], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A file per variant, each of another kind."""
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("checkpoints")
    files = {"s": DEMO, "m": folder / "medium.safetensors", "l": folder / "large.pth"}
    save_file({key: value.contiguous() for key, value in networks["m"].state_dict().items()}, files["m"])
    ema = {f"module.{key}": value for key, value in networks["l"].state_dict().items()}
    net = {key: torch.zeros_like(value) for key, value in ema.items()}
    torch.save({"net": net, "ema_net": ema, "epoch": 3, "processing_params": CUSTOM_PROCESSING}, files["l"])
    return files


@pytest.fixture(scope="session")
def six_builds(
    checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, BuildError]]:
    """All six variant x precision combinations, built by the builder, and which could not be."""
    folder, failed = tmp_path_factory.mktemp("repository"), {}
    for variant, path in checkpoints.items():
        for precision in ("fp16", "int8"):
            options = pipeline.Options(
                weights="demo" if variant == "s" else str(path),
                variant=variant,  # type: ignore[arg-type]
                precision=precision,  # type: ignore[arg-type]
                model_repository=folder,
                # Trying all methods takes minutes for the large ones.
                int8=Int8Options(calibration_method="auto" if variant == "s" else "percentile-99.999"),
            )
            try:
                assert pipeline.build(options).built
            except BuildError as error:
                failed[contract.model_name(variant, precision)] = error
    return folder, failed


@pytest.fixture(scope="session")
def repository(six_builds: tuple[Path, dict[str, BuildError]]) -> Path:
    """All six models. `test_all_six_are_built` says what is wrong if one is missing, once for all."""
    folder, failed = six_builds
    if failed:
        pytest.skip(f"not built: {', '.join(failed)}")
    return folder


@pytest.fixture(scope="session")
def server(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One Triton for the whole run, on free ports."""
    log = tmp_path_factory.mktemp("server") / "tritonserver.log"
    with Server(repository, log=log) as running:
        yield running


@contextmanager
def triton_by_script(
    arguments: Sequence[str],
    environment: dict[str, str],
    log: Path,
    timeout_s: float = 120,
    tls: ssl.SSLContext | None = None,
) -> Iterator[dict[str, int]]:
    """Ports of a Triton started by docker/serve.sh, with the tritonserver that is on the environment's PATH."""
    ports = embedded._claim_ports("127.0.0.1", {"http": 0, "grpc": 0, "metrics": 0})
    ready = f"{'https' if tls else 'http'}://localhost:{ports['http']}/v2/health/ready"
    command = [str(ROOT / "docker/serve.sh"), *arguments, *(f"--{name}-port={port}" for name, port in ports.items())]
    with (
        log.open("w") as out,
        subprocess.Popen(command, env=os.environ | environment, stdout=out, stderr=out) as process,
    ):
        try:
            deadline = time.monotonic() + timeout_s
            while True:
                try:
                    if httpx.get(ready, verify=tls or True).is_success:
                        break
                except httpx.TransportError:
                    pass
                assert process.poll() is None and time.monotonic() < deadline, log.read_text()[-3000:]
                time.sleep(0.2)
            yield ports
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


@pytest.fixture(scope="session")
def engine() -> Iterator[Any]:
    """A real Docker engine."""
    try:
        with executors.engine() as connected:
            yield connected
    except PlanError as error:
        pytest.skip(str(error))


@contextmanager
def machine_image(
    engine: Any, name: str, programs: Sequence[Path], scripts: Mapping[str, str] | None = None
) -> Iterator[None]:
    """An image of this machine's own programs and the libraries they need, so that nothing is pulled."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        needed = subprocess.run(["ldd", *map(str, programs)], capture_output=True, text=True, check=True).stdout
        paths = {f"bin/{path.name}": str(path) for path in programs}
        for word in needed.split():
            if word.startswith("/") and not word.endswith(":"):
                loader = Path(word).name.startswith("ld-")
                paths[word.lstrip("/") if loader else f"libraries/{Path(word).name}"] = word
        for target, path in paths.items():
            tar.add(os.path.realpath(path), target)
        for target, text in (scripts or {}).items():
            entry = tarfile.TarInfo(f"bin/{target}")
            entry.mode, entry.size = 0o755, len(text)
            tar.addfile(entry, io.BytesIO(text.encode()))
        for folder in ("tmp", "etc"):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o1777
            tar.addfile(entry)
    repository, _, tag = name.partition(":")
    changes = ["ENV PATH=/bin", "ENV LD_LIBRARY_PATH=/libraries"]
    engine.api.import_image_from_data(archive.getvalue(), repository=repository, tag=tag, changes=changes)
    try:
        yield
    finally:
        engine.images.remove(name, force=True)


@pytest.fixture(scope="session")
def coco_data() -> Path:
    """Folder of test data that does not ship: coco8, tiny_coco, pictures."""
    folder = Path(os.environ.get("NAS_TEST_DATA") or ROOT.parent / "shared" / "data")
    if not (folder / "coco8").is_dir():
        pytest.skip("no test data beside the checkout; NAS_TEST_DATA names its folder")
    return folder
