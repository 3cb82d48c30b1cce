"""The page's own server: static files, and a way to Triton that browsers can take."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from nas_ensembles import contract
from nas_ensembles.letterbox import LetterboxSpec
from nas_eval.picture_size import size_wh
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import QueryParams
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from ..detection.detector import Detector
from ..errors import ClientError, ImageRefused, ModelUnavailable, ServerUnavailable
from ..output import palette
from .stages import Stages

MAX_BYTES = 64 * 2**20  # of a picture
_STATIC = Path(__file__).with_name("static")
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_HEADERS = {
    "content-security-policy": "default-src 'self'; img-src 'self' blob:; media-src 'self' blob:; object-src 'none'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}
_STATUS: Mapping[type[ClientError], int] = {ImageRefused: 400, ModelUnavailable: 404, ServerUnavailable: 503}


class Refused(Exception):
    """A request that is not for the server behind; with its HTTP status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Page:
    """Answers the page's requests; a detector for each model that was asked for.

    Args:
        connect: makes a detector for a model's name; None for the server as a whole.
        url: of the server, for the lines of code that are shown; None for the client's default.
    """

    def __init__(self, connect: Callable[[str | None], Detector], url: str | None = None) -> None:
        self._connect = connect
        self._url = url
        self._detectors: dict[str | None, Detector] = {}

    def models(self) -> list[dict[str, Any]]:
        """Those that detect and are ready."""
        listed = [model for model in self._detector(None).models() if model.detects]
        return [
            {
                "name": model.name,
                "url": self._url,
                "precision": model.parameters.get(contract.PRECISION),
                "canvas_hw": LetterboxSpec.from_dict(model.parameters[contract.LETTERBOX]).size_hw,
                "class_names": model.parameters[contract.CLASS_NAMES],
                "score_threshold": model.parameters[contract.SCORE_THRESHOLD.name],
                "iou_threshold": model.parameters[contract.IOU_THRESHOLD.name],
            }
            for model in listed
        ]

    def colours(self) -> list[dict[str, str]]:
        """Of each class, as pictures are annotated; labels beyond begin again."""
        kinds = {"fill": palette.colour, "ink": palette.ink}
        return [{name: "#" + bytes(of(label)).hex() for name, of in kinds.items()} for label in range(palette.COUNT)]

    def detect(self, name: str | None, picture: bytes, thresholds: Mapping[str, Any], stages: bool) -> dict[str, Any]:
        """What a model finds, and what it took.

        Args:
            name: of the model; None if the server has one.
            picture: encoded.
            thresholds: of `Detector.detect`.
            stages: also ask the server how long each stage took.
        """
        detector = self._detector(name)
        watch = Stages(detector) if stages else None
        started = time.perf_counter()
        found = detector.detect(picture, **thresholds)
        milliseconds = 1000 * (time.perf_counter() - started)
        width, height = size_wh(picture)
        return {
            "model": detector.model.name,
            "width": width,
            "height": height,
            "ms": {"request": round(milliseconds, 2), **(watch.taken() if watch else {})},
            "detections": [
                {"name": name, "label": label, "score": round(score, 4), "box_xyxy": [round(edge, 2) for edge in box]}
                for box, score, label, name in zip(*found.to_dict().values(), strict=True)
            ],
        }

    def close(self) -> None:
        """Close all connections."""
        for detector in self._detectors.values():
            detector.close()

    def _detector(self, name: str | None) -> Detector:
        if name not in self._detectors:
            detector = self._connect(name)
            if name is not None:
                _ = detector.model  # one that is not there is not kept
            self._detectors[name] = detector
        return self._detectors[name]


def application(page: Page, host: str) -> Starlette:
    """The page's server.

    Args:
        page: answers.
        host: it listens on; on loopback only requests for loopback's names are answered, whoever may have rebound
            another name to it.
    """

    async def index(_: Request) -> Response:
        return FileResponse(_STATIC / "index.html")

    async def models(_: Request) -> Response:
        return JSONResponse(await run_in_threadpool(page.models))

    async def colours(_: Request) -> Response:
        return JSONResponse(page.colours())

    async def detect(request: Request) -> Response:
        _same_origin(request)
        query = request.query_params
        picture = await _body(request)
        thresholds = _thresholds(query)
        found = await run_in_threadpool(
            page.detect, query.get("model"), picture, thresholds, query.get("stages") == "1"
        )
        return JSONResponse(found)

    async def refused(_: Request, error: Exception) -> Response:
        assert isinstance(error, Refused)
        return JSONResponse({"error": str(error)}, error.status)

    async def failed(_: Request, error: Exception) -> Response:
        status = next((code for kind, code in _STATUS.items() if isinstance(error, kind)), 502)
        return JSONResponse({"error": str(error)}, status)

    hosts = list(_LOOPBACK) if host in _LOOPBACK else ["*"]
    routes = [
        Route("/", index),
        Route("/api/models", models),
        Route("/api/colours", colours),
        Route("/api/detect", detect, methods=["POST"]),
        Mount("/static", StaticFiles(directory=_STATIC)),
    ]
    middleware = [Middleware(TrustedHostMiddleware, allowed_hosts=hosts), Middleware(_WithHeaders)]
    return Starlette(routes=routes, middleware=middleware, exception_handlers={Refused: refused, ClientError: failed})


class _WithHeaders:
    """Adds the headers to every answer."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] += [(name.encode(), value.encode()) for name, value in _HEADERS.items()]
            await send(message)

        await self._app(scope, receive, with_headers)


def _same_origin(request: Request) -> None:
    origin = request.headers.get("origin")
    if origin is not None and origin.partition("://")[2] != request.headers.get("host"):
        raise Refused(403, f"pages of {origin} may not ask here")


async def _body(request: Request) -> bytes:
    data = bytearray()
    async for part in request.stream():
        data += part
        if len(data) > MAX_BYTES:
            raise Refused(413, f"more than {MAX_BYTES // 2**20} MiB; nas-client detect takes larger pictures")
    if not data:
        raise Refused(400, "no picture in the request; send one as its body: curl --data-binary @bus.jpg ...")
    return bytes(data)


def _thresholds(query: QueryParams) -> dict[str, Any]:
    """Of `Detector.detect`; the server checks their ranges."""
    found: dict[str, Any] = {}
    for tensor, kind in zip(contract.THRESHOLDS, (float, float, int), strict=True):
        given = query.get(tensor.name)
        if given is not None:
            try:
                found[tensor.name] = kind(given)
            except ValueError:
                raise Refused(400, f"{tensor.name}={given} is no number") from None
    return found
