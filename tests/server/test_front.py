"""Envoy before Triton: what it refuses, and what it lets pass."""

from __future__ import annotations

import base64
import json
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import grpc
import httpx
import pytest
from nas_client import Detector
from nas_serve import Server
from nas_serve.front.listeners import MAX_REQUEST_BYTES
from tritonclient.grpc import service_pb2, service_pb2_grpc

from support.samples import SAMPLES

BIN = Path(sys.executable).parent
NAME = "yolo_nas_s_int8"
BUS = SAMPLES / "bus.jpg"
HUGE = [[1, 2**61, 8, 3], [1, 100_000, 100_000, 3], [1, 2**31, 1, 3], [1, -1, 8, 3], [2**62, 4], [1] * 65]


@pytest.fixture(scope="module")
def said() -> list[str]:
    return []


@pytest.fixture(scope="module")
def server(repository: Path, said: list[str]) -> Iterator[Server]:
    """Of the demo model alone; what it says must stay nothing: it was never started again."""
    with Server(repository, models=[NAME], said=said.append) as running:
        yield running


@pytest.fixture(autouse=True)
def unharmed(server: Server, said: list[str]) -> Iterator[None]:
    yield
    with Detector(server.grpc_url, model=NAME, retries=0) as detector:
        assert "bus" in detector.detect(BUS).names
    assert not said


def post(server: Server, content: bytes, json_size: int | None = None, **headers: str) -> httpx.Response:
    if json_size is not None:
        headers["inference-header-content-length"] = str(json_size)
    url = f"http://{server.http_url}/v2/models/{NAME}_frames/infer"
    return httpx.post(url, content=content, headers=headers, timeout=300)


def question(shape: list[Any], **fields: Any) -> dict[str, Any]:
    return {"inputs": [{"name": "frame", "shape": shape, "datatype": "UINT8", **fields}]}


@pytest.mark.parametrize("shape", HUGE)
def test_shapes_that_claim_too_much_are_refused_over_http(shape: list[int], server: Server) -> None:
    binary = json.dumps(question(shape, parameters={"binary_data_size": 0})).encode()
    plain = json.dumps(question(shape, data=[1])).encode()
    for answer in (post(server, binary, len(binary)), post(server, plain), post(server, plain + bytes(99), len(plain))):
        assert answer.status_code == 400 and answer.json()["error"], answer.text


def ask(server: Server, content: bytes, query: str = "", **headers: str) -> httpx.Response:
    url = f"http://{server.http_url}/v2/models/{NAME}/infer{query}"
    return httpx.post(url, content=content, headers=headers, timeout=300)


def outputs(answer: httpx.Response) -> dict[str, list[float]]:
    assert answer.status_code == 200, answer.text
    return {output["name"]: output["data"] for output in answer.json()["outputs"]}


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".webp"])
@pytest.mark.parametrize("headers", [{}, {"inference-header-content-length": "0", "content-type": "image/jpeg"}])
def test_a_picture_alone_is_a_request(suffix: str, headers: dict[str, str], server: Server) -> None:
    picture = cv2.imencode(suffix, cv2.imread(str(BUS)))[1].tobytes()
    with Detector(server.grpc_url, model=NAME) as detector:
        expected = detector.detect(picture)
    found = outputs(ask(server, picture, **headers))
    assert found["num_detections"] == [len(expected)]
    assert found["labels"][: len(expected)] == expected.labels.tolist()
    assert found["boxes"][: 4 * len(expected)] == pytest.approx(expected.boxes_xyxy.ravel().tolist(), abs=0.01)


def test_thresholds_of_a_picture_alone(server: Server) -> None:
    picture = BUS.read_bytes()
    with Detector(server.grpc_url, model=NAME) as detector:
        for query, options in (
            ("?score_threshold=0.85", {"score_threshold": 0.85}),
            ("?score_threshold=.05&iou_threshold=0.3", {"score_threshold": 0.05, "iou_threshold": 0.3}),
            ("?max_detections=2", {"max_detections": 2}),
        ):
            found = outputs(ask(server, picture, query))
            assert found["num_detections"] == [len(detector.detect(picture, **options))]
    for query, says in (
        ("?score=1", "called score; expected score_threshold"),
        ("?score_threshold=high", "is no number"),
        ("?score_threshold=1.2.3", "is no number"),
        ("?max_detections=1.5", "is no number"),
        ("?max_detections=99999999999", "is no number"),
        ("?score_threshold=7", "must be from 0 to 1"),
        ('?max_detections=1"}],"x":[{', "is no number"),
    ):
        answer = ask(server, picture, query)
        assert answer.status_code == 400 and says in answer.json()["error"], (query, answer.text)


def test_pictures_alone_are_bounded_and_damaged_ones_are_named(server: Server) -> None:
    picture = BUS.read_bytes()
    answer = ask(server, picture + bytes(33 * 2**20))
    assert answer.status_code == 413 and "expected at most 33554432" in answer.json()["error"]
    answer = ask(server, picture[:20])
    assert answer.status_code == 400 and "no JPEG, PNG, WebP or BMP picture, or a damaged one" in answer.json()["error"]


def test_base64_in_json(server: Server) -> None:
    text = base64.b64encode(BUS.read_bytes()).decode()
    for data in (text, f"data:image/jpeg;base64,{text}"):
        body = {"inputs": [{"name": "image", "shape": [1, 1], "datatype": "BYTES", "data": [data]}]}
        found = outputs(ask(server, json.dumps(body).encode()))
        assert found["num_detections"][0] >= 5
    body["inputs"][0]["data"] = [text[:-7]]
    answer = ask(server, json.dumps(body).encode())
    assert answer.status_code == 400 and "base64 text of a picture that is cut off" in answer.json()["error"]


def test_json_that_hides_a_shape(server: Server) -> None:
    text = json.dumps(question([1, 2**61, 8, 3], data=[1]))
    for hidden in (
        text.replace('"shape"', '"\\u0073hape"'),
        text.replace('"shape":', '"shape" \n\t:\r '),
        text.replace("[1, ", "[ \n1 ,"),
        text.replace("2305843009213693952", "2305843009213693952.0"),
        text.replace("2305843009213693952", "2e18"),
        '{"inputs":[{"shape":[1],"shape":' + text.partition('"shape":')[2],
        text.replace("[1, 2305843009213693952, 8, 3]", "[[1, 2305843009213693952, 8, 3]]"),
        text.replace("[1, 2305843009213693952, 8, 3]", "[0, 2147483647, 2147483647, 3]"),
        '{"id":"shared_memory_region",' + text.replace("2305843009213693952", "2147483647")[1:],
        '{"inputs":' + "[" * 500_000,
        '{"id":"' + "[" * 100 + '\\"", "inputs":' + "[" * 500_000,
        '{"inputs":[' + "[]," * 200_000 + "1]}",
        '{"inputs":[' + '{"shape":[]},' * 1000 + "1]}",
        "{" * 100_000,
        "\0" * 1000,
        "",
    ):
        assert post(server, hidden.encode()).status_code in (400, 500), hidden[:100]
    good = json.dumps(question([1, 2, 2, 3], data=[1] * 12)).encode()
    assert post(server, good).status_code == 200
    assert post(server, good, len(good) + 1).status_code == 400
    for size in ("-1", "0x10", "2e0", "nan", "99999999999999999999"):
        assert post(server, good, **{"inference-header-content-length": size}).status_code == 400, size
    assert post(server, good, **{"content-encoding": "gzip"}).status_code == 415


@pytest.fixture
def stub(server: Server) -> Iterator[Any]:
    """The raw gRPC service."""
    with grpc.insecure_channel(server.grpc_url) as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


def request(shape: list[int], raw: bytes = b"") -> Any:
    asked = service_pb2.ModelInferRequest(model_name=f"{NAME}_frames")
    tensor = asked.inputs.add(name="frame", datatype="UINT8")
    tensor.shape.extend(shape)
    asked.raw_input_contents.append(raw)
    return asked


def code(call: Any, *arguments: Any, **options: Any) -> tuple[str, str]:
    try:
        call(*arguments, timeout=30, **options)
    except grpc.RpcError as error:
        return error.code().name, error.details()
    return "OK", ""


@pytest.mark.parametrize("shape", [shape for shape in HUGE if max(shape) < 2**63])
def test_shapes_that_claim_too_much_are_refused_over_grpc(shape: list[int], stub: Any) -> None:
    status, message = code(stub.ModelInfer, request(shape))
    assert status == "INVALID_ARGUMENT" and message, message


def test_messages_that_are_none(server: Server, stub: Any) -> None:
    whole = request([1, 2, 2, 3], bytes(12)).SerializeToString()
    with grpc.insecure_channel(server.grpc_url) as channel:
        raw = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        assert code(raw, whole) == ("OK", "")
        # Shapes one by one, as an old writer would, and inputs in two parts are read like those in one.
        tensor = b"\x0a\x05frame\x12\x05UINT8" + b"".join(
            b"\x18" + n for n in (b"\x01", b"\x80" * 8 + b"\x20", b"\x08", b"\x03")
        )
        # So are numbers of fields that some readers cut to 32 bits.
        cut = tensor.replace(b"\x18", b"\x98\x80\x80\x80\x10")
        for hidden in (
            b"\x2a" + bytes([len(tensor)]) + tensor,
            b"\xaa\x80\x80\x80\x10" + bytes([len(tensor)]) + tensor,
        ):
            assert code(raw, b"\x0a\x04none" + hidden)[0] == "INVALID_ARGUMENT"
        assert code(raw, b"\x0a\x04none\x2a" + bytes([len(cut)]) + cut)[0] == "INVALID_ARGUMENT"
        assert code(raw, b"\x2a\x00" * 100)[0] == "INVALID_ARGUMENT"
        for bad in (whole[:-1], whole[:40], b"\xff" * 64, b"\x2a\xff\xff\xff\x7f", b"\x2b", b"\x28\x01" * 5000):
            assert code(raw, bad)[0] == "INVALID_ARGUMENT", bad[:20]
    assert code(stub.ModelInfer, request([1, 200, 200, 3], bytes(120_000)), compression=grpc.Compression.Gzip)[0] == (
        "INVALID_ARGUMENT"
    )


def test_methods_that_nobody_needs_are_closed(stub: Any) -> None:
    for method, kind in (
        ("RepositoryModelUnload", "RepositoryModelUnloadRequest"),
        ("TraceSetting", "TraceSettingRequest"),
    ):
        status, message = code(getattr(stub, method), getattr(service_pb2, kind)())
        assert status in ("UNIMPLEMENTED", "PERMISSION_DENIED"), message
    with pytest.raises(grpc.RpcError, match="not served here"):
        list(stub.ModelStreamInfer(iter([request([1, 2, 2, 3], bytes(12))]), timeout=10))


def test_paths_that_mean_another(server: Server) -> None:
    with httpx.Client(base_url=f"http://{server.http_url}") as http:
        for path in ("/v2/./logging", "//v2//logging", "/v2/models/../logging", "/v2%2flogging", "/v2/logging?x=1"):
            answer = http.send(httpx.Request("GET", f"http://{server.http_url}{path}"))
            assert answer.status_code in (400, 403, 404), (path, answer.status_code)
        assert http.post(f"/v2/models/{NAME}/generate", json={}).status_code == 403


def test_a_request_is_bounded(server: Server) -> None:
    answer = post(server, bytes(MAX_REQUEST_BYTES + 2**20), 10)
    assert answer.status_code == 413


def test_what_is_no_inference_is_small(server: Server) -> None:
    with httpx.Client(base_url=f"http://{server.http_url}") as http:
        assert http.post("/v2/repository/index", content=bytes(100_000)).status_code == 413
        chunks = (b"x" for _ in range(100_000))
        assert http.post("/v2/repository/index", content=chunks).status_code == 413
        for path in ("/v2", f"/v2/models/{NAME}", "/v2/health/ready"):
            assert http.post(path, content=b"x").status_code == 403, path
    assert httpx.post(server.metrics_url, content=b"x").status_code == 404


def test_clients_that_stall_are_ended(server: Server) -> None:
    host, _, port = server.http_url.partition(":")
    with socket.create_connection((host, int(port)), timeout=30) as slow:
        slow.sendall(b"POST /v2/models/x/infer HTTP/1.1\r\nHost: x\r\n")
        began = time.monotonic()
        assert b"408" in slow.recv(1000)
        assert 5 < time.monotonic() - began < 25
