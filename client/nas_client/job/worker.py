"""What a worker of a job does: reads pictures, asks for them, and gives rows."""

from __future__ import annotations

import atexit
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from nas_eval.picture_size import size_wh

from .. import own_server
from ..detection.detector import Detector
from ..detection.outcomes import Detected, Failed
from ..errors import OF_THE_SERVER
from .storage import Place

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("url", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("boxes", pa.list_(pa.list_(pa.float32(), 4))),  # left, top, right, bottom in pixels of the upright picture
        ("scores", pa.list_(pa.float32())),
        ("labels", pa.list_(pa.int32())),
        ("names", pa.list_(pa.string())),
        ("error", pa.string()),  # kind: message; null if it was answered
    ]
)
_RETRIES = 1000  # within the timeout


@dataclass(frozen=True)
class Asked:
    """What a worker is told.

    Attributes:
        urls: of servers, asked in turn; empty: each worker starts nas-serve on `model_repository`.
        model: its name.
        model_repository: of nas-serve.
        in_flight: requests at a time, of a worker.
        timeout_s: for a picture, restarts of the server among it.
        thresholds: of `Detector.detect`; none for the model's own.
    """

    urls: tuple[str, ...]
    model: str
    model_repository: str | None
    in_flight: int
    timeout_s: float
    thresholds: Mapping[str, float | int]


class Worker:
    """Holds its connections for all batches that Ray gives it.

    Args:
        asked: what to do.
        counted: Ray actor that is told of pictures done, or None.
    """

    def __init__(self, asked: Asked, counted: Any = None) -> None:
        self._asked = asked
        self._counted = counted
        urls = asked.urls or (_served(asked),)
        self._detectors = [
            Detector(url, asked.model, timeout_s=asked.timeout_s, retries=_RETRIES, shared_memory=False) for url in urls
        ]
        self._pool = ThreadPoolExecutor(len(urls))

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Rows of `SCHEMA` for rows of `manifest.SCHEMA`, in order.

        Raises:
            ServerUnavailable, ModelUnavailable, Unauthorized: no picture can be asked for.
        """
        pictures = batch.to_pylist()
        count = len(self._detectors)
        parts = list(self._pool.map(self._ask, self._detectors, [pictures[i::count] for i in range(count)]))
        rows: list[dict[str, Any]] = [{}] * len(pictures)
        for i, part in enumerate(parts):
            rows[i::count] = part
        if self._counted is not None:
            self._counted.add.remote(dict(Counter(cause(row["error"]) for row in rows)))
        return pa.Table.from_pylist(rows, SCHEMA)

    def _ask(self, detector: Detector, pictures: Sequence[Mapping[str, str]]) -> list[dict[str, Any]]:
        rows = []
        for outcome in detector.detect_many(
            pictures,
            lambda picture: Place.of(picture["url"]).read(),
            in_flight=max(1, self._asked.in_flight // len(self._detectors)),
            **self._asked.thresholds,  # type: ignore[arg-type]
        ):
            row: dict[str, Any] = {"id": outcome.item["id"], "url": outcome.item["url"], "error": None}
            if isinstance(outcome, Failed):
                if isinstance(outcome.error, OF_THE_SERVER):
                    raise outcome.error
                kind = "Unreadable" if isinstance(outcome.error, OSError) else type(outcome.error).__name__
                row["error"] = f"{kind}: {outcome.error}"
            else:
                row |= _answered(outcome)
            rows.append(row)
        return rows


def cause(error: str | None) -> str:
    """The kind of an error in a row; "" for none."""
    return (error or "").partition(":")[0]


def _answered(outcome: Detected[Any]) -> dict[str, Any]:
    found = outcome.detections
    assert isinstance(outcome.image, bytes)
    width, height = size_wh(outcome.image)
    return {
        "width": width,
        "height": height,
        "boxes": found.boxes_xyxy.tolist(),
        "scores": found.scores.tolist(),
        "labels": found.labels.tolist(),
        "names": list(found.names),
    }


def _served(asked: Asked) -> str:
    """GRPC address of an nas-serve that ends with this process, however it ends."""
    server, url = own_server.start(str(asked.model_repository), asked.model)
    assert server.stdin is not None
    atexit.register(server.stdin.close)
    return url
