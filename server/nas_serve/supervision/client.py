"""Asks Triton over HTTP, with its key and the standard library alone."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote
from urllib.request import ProxyHandler, Request, build_opener

import numpy as np
from nas_ensembles import contract
from numpy.typing import NDArray

from ..front.front import LOOPBACK, TRITON_HEADER

ANSWER_S = 10.0  # for an answer, if nothing else is answered meanwhile
NO_ANSWER = (OSError, HTTPException)  # HTTPError, which is an answer, is one of these too: catch it before
_GLANCE_S = 0.5  # for what can be missed
_QUICK_S = 2.0  # for what Triton knows by itself
_ENGINE = f'model="[^"]*{contract.stage_name("", "engine")}"'  # each picture passes one engine
_WAITING = re.compile(r'^nv_inference_pending_request_count\{.*model="([^"]*)".* (\S+)$', re.MULTILINE)
_ANSWERED = re.compile(rf"^nv_inference_request_success\{{.*{_ENGINE}.* (\S+)$", re.MULTILINE)
_LENGTH = "Inference-Header-Content-Length"
_open = build_opener(ProxyHandler({})).open  # what is asked is on this machine, whatever the environment's proxies


@dataclass(frozen=True)
class Client:
    """Of one Triton.

    Attributes:
        port: of its HTTP, on loopback.
        key: that it wants.
        metrics_port: of its metrics, on loopback; without it `load` knows nothing.
    """

    port: int
    key: str
    metrics_port: int | None = None

    def get(self, path: str, timeout_s: float = _QUICK_S) -> bytes | None:
        """None if the answer is no success.

        Raises:
            NO_ANSWER: if there is none.
        """
        try:
            body, _ = self._send(path, None, timeout_s)
        except HTTPError:
            return None
        return body

    def versions(self, model: str) -> list[str]:
        """That are served; none if it is not, or gives no answer."""
        with contextlib.suppress(*NO_ANSWER, ValueError):
            return json.loads(self.get(f"/v2/models/{model}", ANSWER_S) or b"{}").get("versions") or []
        return []

    def load(self) -> tuple[int, int] | None:
        """Requests that wait in queues, those of clients that have given up too, and those engines have answered."""
        metrics = self._metrics()
        if metrics is None:
            return None
        waiting = sum(float(count) for _, count in _WAITING.findall(metrics))
        return int(waiting), int(sum(map(float, _ANSWERED.findall(metrics))))

    def waiting(self, model: str) -> int:
        """Requests in the queue of a model; 0 if it cannot be known."""
        return int(sum(float(count) for name, count in _WAITING.findall(self._metrics() or "") if name == model))

    def _metrics(self) -> str | None:
        if self.metrics_port is None:
            return None
        try:
            with _open(f"http://{LOOPBACK}:{self.metrics_port}/metrics", timeout=_GLANCE_S) as response:
                return str(response.read().decode(errors="replace"))
        except NO_ANSWER:
            return None

    def answered(self, model: str) -> int:
        """Requests that a model has answered; 0 if it cannot be known."""
        try:
            text = self.get(f"/v2/models/{model}/stats") or b"{}"
            return int(json.loads(text)["model_stats"][0]["inference_stats"]["success"]["count"])
        except (*NO_ANSWER, ValueError, KeyError, IndexError):
            return 0

    def infer(
        self, model: str, given: tuple[contract.Tensor, Sequence[int], bytes], wanted: Sequence[contract.Tensor] = ()
    ) -> list[NDArray[Any]]:
        """Ask a model.

        Args:
            model: its name, perhaps with `/versions/N`.
            given: the input, its shape with the batch of one, and its bytes.
            wanted: outputs.

        Returns:
            The outputs, without the batch dimension.

        Raises:
            HTTPError: the answer is an error.
            NO_ANSWER: there is none.
        """
        tensor, shape, data = given
        described: dict[str, Any] = {"name": tensor.name, "shape": list(shape), "datatype": tensor.datatype}
        question: dict[str, Any] = {"inputs": [described | {"parameters": {"binary_data_size": len(data)}}]}
        if wanted:
            question["outputs"] = [{"name": output.name, "parameters": {"binary_data": True}} for output in wanted]
        header = json.dumps(question).encode()
        headers = {_LENGTH: str(len(header))}
        body, length = self._send(f"/v2/models/{model}/infer", header + data, ANSWER_S, headers)
        if not wanted:
            return []
        at, answers = int(length), {}
        for output in json.loads(body[:at])["outputs"]:
            size = output["parameters"]["binary_data_size"]
            answers[output["name"]] = (body[at : at + size], output["shape"])
            at += size
        found = ((tensor, *answers[tensor.name]) for tensor in wanted)
        return [np.frombuffer(data, tensor.dtype).reshape(shape)[0] for tensor, data, shape in found]

    def regions(self) -> list[str]:
        """Names of the shared memory that clients have registered; none if it cannot be known."""
        with contextlib.suppress(*NO_ANSWER, ValueError):
            return [region["name"] for region in json.loads(self.get("/v2/systemsharedmemory/status") or b"[]")]
        return []

    def unregister(self, region: str) -> None:
        """Let go of shared memory, if it answers."""
        with contextlib.suppress(*NO_ANSWER):
            self._send(f"/v2/systemsharedmemory/region/{quote(region)}/unregister", b"", _QUICK_S)

    def _send(
        self, path: str, data: bytes | None, timeout_s: float, headers: dict[str, str] | None = None
    ) -> tuple[bytes, str]:
        """The body, and the length of its JSON if binary data follows; with data it is a POST."""
        with_key = {TRITON_HEADER: self.key} | (headers or {})
        with _open(Request(f"http://{LOOPBACK}:{self.port}{path}", data, with_key), timeout=timeout_s) as response:
            return response.read(), response.headers.get(_LENGTH, "0")
