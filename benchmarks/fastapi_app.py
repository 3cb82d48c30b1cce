"""What people write instead of a model server: the same graph behind FastAPI, compiled as OpenVINO does by default.

GRAPH in the environment names the ONNX file.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

from common import compiled, detect
from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool

app = FastAPI()
_model = compiled(Path(os.environ["GRAPH"]))
_local = threading.local()


def _infer(canvas: Any) -> Any:
    if not hasattr(_local, "request"):
        _local.request = _model.create_infer_request()
    return _local.request.infer({0: canvas}).to_tuple()


@app.post("/detect")
async def detect_objects(request: Request) -> dict[str, Any]:
    """Boxes, scores and labels of the picture in the body."""
    boxes, scores, labels = await run_in_threadpool(detect, await request.body(), _infer)
    return {"boxes": boxes.tolist(), "scores": scores.tolist(), "labels": labels.tolist()}
