from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from nas_client import ClientError, Detected, Detections, Detector, Failed, ModelUnavailable, ServerUnavailable
from nas_serve import Server

from support.samples import PICTURES, SAMPLES

BUS = SAMPLES / "bus.jpg"
INT8 = "yolo_nas_s_int8"


def same(a: Detections, b: Detections) -> bool:
    return a.names == b.names and np.array_equal(a.boxes_xyxy, b.boxes_xyxy) and np.array_equal(a.scores, b.scores)


@pytest.fixture(params=["grpc", "http"])
def detector(request: pytest.FixtureRequest, server: Server) -> Iterator[Detector]:
    url = server.grpc_url if request.param == "grpc" else server.http_url
    with Detector(url, model=INT8, protocol=request.param) as made:
        yield made


def test_every_kind_of_picture_gives_the_same(detector: Detector) -> None:
    rgb = cv2.imread(str(BUS))[..., ::-1]
    expected = detector.detect(BUS)
    assert "bus" in expected.names[:2] and expected.boxes_xyxy.dtype == expected.scores.dtype == np.float32
    for picture in (str(BUS), BUS.read_bytes(), rgb, np.ascontiguousarray(rgb)):
        assert same(detector.detect(picture), expected)


def test_a_list_is_sent_in_batches(detector: Detector) -> None:
    pictures = [*PICTURES] * 5  # 20: more than the model's batch of 8
    results = detector.detect(pictures)
    assert len(results) == 20
    for picture, result in zip(pictures[:4], results[16:], strict=True):
        assert same(detector.detect(picture), result)
    assert detector.detect([]) == []


def test_detect_many_keeps_order_and_goes_on_after_errors(detector: Detector) -> None:
    items = [str(BUS), "missing.jpg", b"no picture", *map(str, PICTURES)] * 3
    outcomes = list(detector.detect_many(items, in_flight=5, max_detections=1))
    assert [outcome.item for outcome in outcomes] == items
    failed = [isinstance(outcome, Failed) for outcome in outcomes]
    assert failed == [False, True, True, False, False, False, False] * 3
    assert all(len(outcome.detections) == 1 for outcome in outcomes if isinstance(outcome, Detected))


def test_connections_are_kept(server: Server) -> None:
    with Detector(f"http://{server.http_url}", model=INT8) as detector:
        for _ in range(4):
            assert len(list(detector.detect_many([BUS] * 4, in_flight=2))) == 4
        opened = detector.transport._opened  # type: ignore[attr-defined]
        assert len(opened) <= 3  # this thread's, and two


def test_a_child_has_threads_of_its_own(server: Server) -> None:
    code = "import os, sys, nas_client; d = nas_client.Detector('http://' + sys.argv[1], sys.argv[2])\n"
    code += "ask = lambda: sum(len(o.detections) for o in d.detect_many([sys.argv[3]] * 3)); before = ask()\n"
    code += "child = os.fork()\nif not child: os._exit(ask() != before)\n"
    code += "sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) or ask() != before)"
    command = [sys.executable, "-c", code, server.http_url, INT8, str(BUS)]
    assert subprocess.run(command, timeout=120, check=False).returncode == 0


def test_detect_many_is_lazy_and_stops(detector: Detector) -> None:
    taken = 0

    def endless() -> Iterator[Path]:
        nonlocal taken
        while True:
            taken += 1
            yield BUS

    outcomes = detector.detect_many(endless(), in_flight=3)
    assert isinstance(next(outcomes), Detected)
    outcomes.close()  # type: ignore[attr-defined]
    assert taken <= 5


def test_thresholds(detector: Detector) -> None:
    assert (
        len(detector.detect(BUS, score_threshold=0.9))
        < len(detector.detect(BUS))
        < len(detector.detect(BUS, score_threshold=0.01, iou_threshold=1.0))
    )
    assert len(detector.detect(BUS, max_detections=2)) == 2


def test_names_and_parameters_come_from_the_server(detector: Detector) -> None:
    assert len(detector.class_names) == 80 and detector.class_names[15] == "cat"
    parameters = detector.model.parameters
    assert parameters["variant"] == "s" and parameters["precision"] == "int8"
    assert parameters["letterbox"]["fit_hw"] == [636, 636]
    assert parameters["checkpoint_sha256"].startswith("8cb5aaff")
    assert "torch" in parameters["build_versions"]


def test_a_model_without_its_frames(repository: Path, tmp_path: Path) -> None:
    for path in repository.glob(f"{INT8}*"):
        if not path.name.endswith("_frames"):
            shutil.copytree(path, tmp_path / path.name)
    with Server(tmp_path) as server, Detector(server.grpc_url) as detector:
        assert detector.detect(BUS).names
        with pytest.raises(ModelUnavailable, match=f"takes no frames: .*Load {INT8}_frames too, or build"):
            detector.detect(np.zeros((8, 8, 3), np.uint8))


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_no_server(protocol: str) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"127.0.0.1:{unused.getsockname()[1]}"
    with pytest.raises(ServerUnavailable, match="no Triton server answers on .*Start one with `nas-serve`"):
        Detector(url, protocol=protocol).detect(BUS)  # type: ignore[arg-type]


def test_the_other_protocols_port_is_guessed(server: Server) -> None:
    with pytest.raises(ServerUnavailable, match="if this is its HTTP port, add --protocol http"):
        Detector(server.http_url, timeout_s=5).detect(BUS)
    with pytest.raises(ClientError, match="if this is its gRPC port, add --protocol grpc"):
        Detector(server.grpc_url, protocol="http", timeout_s=5).detect(BUS)


def test_a_timeout_is_named(server: Server) -> None:
    for url, protocol in ((server.grpc_url, "grpc"), (server.http_url, "http")):
        detector = Detector(url, model="yolo_nas_l_fp16", protocol=protocol)  # type: ignore[arg-type]
        assert detector.model.detects
        slow = Detector(url, model="yolo_nas_l_fp16", protocol=protocol, timeout_s=0.005)  # type: ignore[arg-type]
        slow._model = detector.model
        with pytest.raises(ServerUnavailable, match=r"no answer within 0.005 s|timed out"):
            slow.detect(BUS)
