"""The supervisor's HTTP, with a Triton of a few lines."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from nas_ensembles import contract
from nas_serve.supervision.client import Client

from support.web import Quiet, serving

LENGTH = "Inference-Header-Content-Length"
# Triton's, shortened.
METRICS = b"""
# HELP nv_inference_request_success Number of successful inference requests, all batch sizes
nv_inference_request_success{model="m_engine",version="1"} 30
nv_inference_request_success{model="n_engine",version="3"} 4
nv_inference_request_success{model="m",version="1"} 30
nv_inference_pending_request_count{model="m",version="1"} 0
nv_inference_pending_request_count{model="m_engine",version="1"} 7
nv_inference_pending_request_count{model="m_preprocess",version="1"} 1.000000
"""


class Handler(Quiet):
    protocol_version = "HTTP/1.1"
    seen: list[tuple[str, Any, bytes]] = []

    def do_GET(self) -> None:
        answers: dict[str, Any] = {
            "/v2/models/m": {"versions": ["2"]},
            "/v2/models/m/stats": {"model_stats": [{"inference_stats": {"success": {"count": 7}}}]},
            "/v2/systemsharedmemory/status": [{"name": "a"}, {"name": "b c"}],
        }
        if self.path == "/metrics":
            return self.answer(METRICS)
        self.answer(json.dumps(answers[self.path]).encode() if self.path in answers else None)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.seen.append((self.path, self.headers, body))
        if not self.path.endswith("/infer"):
            return self.answer(b"")
        boxes, labels = np.array([[[1, 2, 3, 4]]], np.float32), np.array([[5]], np.int32)
        outputs = [
            {"name": name, "shape": list(array.shape), "parameters": {"binary_data_size": array.nbytes}}
            for name, array in (("candidate_labels", labels), ("candidate_boxes", boxes))  # in another order
        ]
        header = json.dumps({"outputs": outputs}).encode()
        self.answer(header + labels.tobytes() + boxes.tobytes(), {LENGTH: str(len(header))})

    def answer(self, body: bytes | None, headers: dict[str, str] | None = None) -> None:
        self.send_response(404 if body is None else 200)
        for name, value in ({"Content-Length": str(len(body or b""))} | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body or b"")


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    monkeypatch.setattr(Handler, "seen", [])
    with serving(Handler) as url:
        port = int(url.rpartition(":")[2])
        yield Client(port, "the key", port)


def test_what_triton_knows_by_itself(client: Client) -> None:
    assert client.versions("m") == ["2"] and client.versions("nope") == []
    assert client.answered("m") == 7 and client.answered("nope") == 0
    assert client.load() == (8, 34)
    assert client.regions() == ["a", "b c"] and client.get("/nope") is None
    client.unregister("b c")
    ((path, headers, _),) = Handler.seen
    assert path == "/v2/systemsharedmemory/region/b%20c/unregister" and headers["front-key"] == "the key"


def test_tensors_are_sent_and_read_as_bytes(client: Client) -> None:
    wanted = (contract.CANDIDATE_BOXES, contract.CANDIDATE_LABELS)
    boxes, labels = client.infer("m/versions/2", (contract.IMAGES, [1, 2], b"xy"), wanted)
    assert boxes.tolist() == [[1, 2, 3, 4]] and labels.tolist() == [5] and labels.dtype == np.int32
    ((path, headers, body),) = Handler.seen
    size = int(headers[LENGTH])
    question = json.loads(body[:size])
    assert path == "/v2/models/m/versions/2/infer" and body[size:] == b"xy"
    assert question["inputs"][0]["datatype"] == "UINT8" and len(question["outputs"]) == 2


def test_nobody_there_is_no_answer(client: Client) -> None:
    alone = Client(1, "", 1)
    assert alone.versions("m") == [] and alone.answered("m") == 0 and alone.regions() == [] and alone.load() is None
    alone.unregister("a")
    with pytest.raises(OSError):
        alone.get("/v2/health/live")
