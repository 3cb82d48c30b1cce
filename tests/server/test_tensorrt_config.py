"""The configs of a TensorRT model in a real Triton, whose `tensorrt` backend is a stand-in that opens ONNX."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton
from nas_build import Int8Options, pipeline
from nas_build.progress import BuildProgress
from nas_build.targets.tensorrt import TensorRT
from nas_build.targets.tensorrt.gpus import Gpu
from nas_build.targets.tensorrt.plan import Plan, PlanRequest
from nas_client import Detections, Detector, ServerBusy
from nas_client.detection import check
from nas_serve import Server, ServerError, wheel

from support.samples import PICTURES

NAME = "yolo_nas_s_int8"
BACKENDS = Path(__file__).parent / "backends"


class OnnxAsPlan:
    """Hands the exported graph through."""

    def identity(self) -> dict[str, str]:
        return {"tensorrt_version": "11.2.1"}

    def build(self, request: PlanRequest, progress: BuildProgress) -> Plan:
        return Plan(request.onnx, "11.2.1", Gpu("none", "8.9"), "tensorrt", 0.0)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tensorrt")
    options = pipeline.Options(
        weights="demo",
        precision="int8",
        target="tensorrt",
        model_repository=folder,
        queue_delay_us=20_000,
        int8=Int8Options(calibration_method="percentile-99.999"),  # trying all takes long
    )
    pipeline.build(options, target=TensorRT(options, OnnxAsPlan()))
    return folder


@pytest.fixture(scope="module")
def with_stand_in() -> Iterator[None]:
    """Servers started here have the stand-in among their backends."""
    real = wheel.assemble_backends

    def assemble(triton: Path, target: Path) -> Path:
        shutil.copytree(BACKENDS, real(triton, target), dirs_exist_ok=True)
        return target

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wheel, "assemble_backends", assemble)
        yield


@pytest.fixture(scope="module")
def server(models: Path, with_stand_in: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(models, log=tmp_path_factory.mktemp("log") / "tritonserver.log") as running:
        yield running


def executed(server: Server) -> list[tuple[int, int]]:
    """Requests and pictures of each execution, from the first."""
    log = server.log_path.read_text()
    return [(int(a), int(b)) for a, b in re.findall(r"EXECUTED (\d+) requests, (\d+) pictures, uint8", log)]


def test_a_server_without_the_backend_names_it(models: Path) -> None:
    with pytest.raises(ServerError, match="unable to find backend library for backend 'tensorrt'"):
        Server(models).start()


def test_warmed_up_with_one_picture_and_a_full_batch(server: Server) -> None:
    assert sorted(pictures for _, pictures in executed(server)[:4]) == [1, 1, 8, 8]  # each of two instances


def test_triton_took_the_config_as_it_was_rendered(server: Server) -> None:
    client = triton.InferenceServerClient(server.grpc_url)
    config = client.get_model_config(f"{NAME}_engine", as_json=True)["config"]
    assert config["backend"] == "tensorrt" and config["default_model_filename"] == "model.plan"
    assert config["optimization"]["cuda"]["graphs"] is True
    assert config["dynamic_batching"]["max_queue_delay_microseconds"] == "20000"
    assert config["dynamic_batching"]["default_queue_policy"]["max_queue_size"] == 128
    assert config["dynamic_batching"]["default_queue_policy"]["allow_timeout_override"] is True
    (images,) = client.get_model_metadata(f"{NAME}_engine").inputs
    assert (images.datatype, list(images.shape)) == ("UINT8", [-1, 3, 640, 640])
    assert client.get_model_config(f"{NAME}_preprocess").config.instance_group[0].count == 2


def test_the_ensemble_detects_what_the_openvino_target_detects(server: Server, repository: Path) -> None:
    with Server(repository, models=[NAME]) as other, Detector(other.grpc_url) as there:
        expected = there.detect(list(PICTURES))
    with Detector(server.grpc_url) as detector:
        got = detector.detect(list(PICTURES))
        assert detector.models()[0].parameters["target"] == "tensorrt"
    for a, b in zip(expected, got, strict=True):
        # The same network with other activations: what one is sure of, the other sees too.
        for clear, other in ((a, b), (b, a)):
            sure = np.flatnonzero(clear.scores > 0.5)
            assert len(sure)
            for i in sure:
                near = np.abs(other.boxes_xyxy - clear.boxes_xyxy[i]).max(axis=1) < 20
                assert (near & (other.labels == clear.labels[i]) & (np.abs(other.scores - clear.scores[i]) < 0.2)).any()


def test_check_asks_a_plan_for_its_known_answer_too(server: Server) -> None:
    with Detector(server.grpc_url) as detector:
        one = check.check(detector, NAME)
    assert one.problem is None and one.agreement is not None and one.agreement > 0.9
    assert one.engine is not None and one.engine["tensorrt_version"] == "11.2.1"


def test_waiting_requests_share_an_execution(server: Server) -> None:
    before = len(executed(server))
    pictures = list(PICTURES) * 8
    with Detector(server.grpc_url) as detector, ThreadPoolExecutor(16) as pool:
        results = list(pool.map(detector.detect, pictures))
    assert all(isinstance(result, Detections) for result in results)
    since = executed(server)[before:]
    assert 0 <= sum(count for _, count in since) - len(pictures) <= 8  # the supervisor asks too, now and then
    assert max(count for count, _ in since) > 1 and len(since) < len(pictures)


def test_a_full_queue_refuses_and_says_so(models: Path, with_stand_in: None, tmp_path: Path) -> None:
    shutil.copytree(models, tmp_path / "models")
    config = tmp_path / "models" / f"{NAME}_engine" / "config.pbtxt"
    config.write_text(config.read_text().replace("max_queue_size: 128", "max_queue_size: 1"))
    with Server(tmp_path / "models") as server, ThreadPoolExecutor(16) as pool:
        for protocol in ("grpc", "http"):
            url = server.grpc_url if protocol == "grpc" else f"http://{server.http_url}"
            with Detector(url, retries=0) as detector:

                def ask(path: Path, detector: Detector = detector) -> object:
                    try:
                        return detector.detect(path)
                    except ServerBusy as error:
                        return error

                outcomes: list[object] = []
                deadline = time.monotonic() + 60
                # Triton looks at a full queue every half second: until then it may refuse all that come.
                while len({type(outcome) for outcome in outcomes}) < 2 and time.monotonic() < deadline:
                    outcomes += pool.map(ask, list(PICTURES) * 8)
            refused = [outcome for outcome in outcomes if isinstance(outcome, ServerBusy)]
            assert refused and len(refused) < len(outcomes)
            assert "is overloaded: Exceeds maximum queue size" in str(refused[0]), protocol
