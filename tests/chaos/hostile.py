"""Requests that must be refused, each with a reason; a ValueError says what was not."""

from __future__ import annotations

import json
import random
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx
from nas_client import Detector, ImageRefused
from nas_serve import Server
from tritonclient.grpc import service_pb2, service_pb2_grpc

SAMPLES = Path(__file__).parents[2] / "samples"
PICTURES = [path.read_bytes() for path in sorted(SAMPLES.iterdir()) if path.suffix in (".jpg", ".png")]
HUGE = ([1, 2**61, 8, 3], [1, 100_000, 100_000, 3], [1, -1, 8, 3], [2**62, 4])


@dataclass(frozen=True)
class Target:
    """A model of a server, and a detector that asks it."""

    server: Server
    model: str
    detector: Detector


def broken_picture(chance: random.Random, target: Target) -> str:
    """Bytes that are no picture any more, or perhaps still one."""
    data = bytearray(chance.choice(PICTURES))
    for _ in range(chance.randrange(1, 20)):
        data[chance.randrange(min(len(data), 2000))] = chance.randrange(256)
    try:
        target.detector.detect(bytes(data[: chance.randrange(1, len(data))]))
    except ImageRefused:
        return "refused: no picture"
    return "right"


def bad_threshold(chance: random.Random, target: Target) -> str:
    try:
        target.detector.detect(PICTURES[0], score_threshold=chance.choice((-1.0, 2.0, float("nan"))))
    except ImageRefused:
        return "refused: threshold"
    raise ValueError("a threshold out of range was taken")


def huge_http(chance: random.Random, target: Target) -> str:
    tensor: dict[str, Any] = {"name": "frame", "shape": chance.choice(HUGE), "datatype": "UINT8"}
    tensor |= chance.choice(({"data": [1]}, {"parameters": {"binary_data_size": 0}}))
    header = json.dumps({"inputs": [tensor]}).encode()
    url = f"http://{target.server.http_url}/v2/models/{target.model}_frames/infer"
    answer = httpx.post(url, content=header, headers={"inference-header-content-length": str(len(header))}, timeout=300)
    return _refused(answer.status_code == 400, answer.status_code == 503, f"HTTP {answer.status_code}")


def huge_grpc(chance: random.Random, target: Target) -> str:
    asked = service_pb2.ModelInferRequest(model_name=f"{target.model}_frames")
    asked.inputs.add(name="frame", datatype="UINT8").shape.extend(chance.choice(HUGE))
    asked.raw_input_contents.append(b"")
    with grpc.insecure_channel(target.server.grpc_url) as channel:
        try:
            service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(asked, timeout=30)
        except grpc.RpcError as error:
            code = error.code().name
            return _refused(code == "INVALID_ARGUMENT", code == "UNAVAILABLE", code)
    raise ValueError("a huge shape was taken")


def noise(chance: random.Random, target: Target) -> str:
    """Bytes that are no message, for both protocols."""
    data = chance.randbytes(chance.randrange(0, 300))
    url = f"http://{target.server.http_url}/v2/models/{target.model}/infer"
    answer = httpx.post(url, content=data, headers={"inference-header-content-length": "9"}, timeout=300)
    return _refused(answer.status_code in (400, 500), answer.status_code == 503, f"HTTP {answer.status_code}")


def cut(chance: random.Random, target: Target) -> str:
    """A connection that is cut in the middle of what it sends."""
    host, _, port = chance.choice((target.server.http_url, target.server.grpc_url)).partition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=5) as connection:
            connection.sendall(b"POST /v2/models/x/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n")
            connection.sendall(chance.randbytes(chance.randrange(1, 50_000)))
    except OSError:
        pass
    return "refused: cut"


REQUESTS = (broken_picture, bad_threshold, huge_http, huge_grpc, noise, cut)


def _refused(right: bool, unavailable: bool, what: str) -> str:
    if unavailable:
        return "refused: unavailable"
    if not right:
        raise ValueError(f"{what} for a hostile request")
    return "refused: hostile"
