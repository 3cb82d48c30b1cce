"""Does a served model compute what it was built to compute? The known answer that travels with it says."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from nas_ensembles import contract, known_answer
from nas_ensembles.known_answer import KnownAnswer
from nas_ensembles.opencv import cv2

from ..errors import ClientError
from ..transport import Transport
from .detector import Detector

_RUNS, _AT_LEAST, _ENOUGH_S = 20, 3, 2.0  # a slow model is timed less often
_CANDIDATES = tuple(tensor.name for tensor in contract.CANDIDATE_TENSORS)
_OUTPUTS = tuple(tensor.name for tensor in contract.OUTPUTS)


@dataclass(frozen=True)
class Check:
    """What a served model said.

    Attributes:
        model: name of the ensemble.
        problem: why it must not be used; None if all is well.
        agreement: of the engine with the known answer, from 0 to 1; None if there is none or the engine failed.
        engine_ms: median of a canvas through `NAME_engine`, network and queues included.
        picture_ms: median of an encoded picture through the ensemble.
        device: "CPU" or "GPU", as the engine's instances are.
        engine: what computes there: kernels and versions of OpenVINO, or what built the TensorRT plan, and where.
        triton: version of the server.
    """

    model: str
    problem: str | None
    agreement: float | None = None
    engine_ms: float | None = None
    picture_ms: float | None = None
    device: str | None = None
    engine: dict[str, Any] | None = None
    triton: str | None = None


def check(detector: Detector, name: str) -> Check:
    """Ask a model's engine for its known answer, and its ensemble for an answer at all.

    Args:
        detector: connected to the server; its own model does not matter.
        name: of an ensemble.

    Raises:
        ServerUnavailable: if no server answers.
    """
    transport = detector.transport
    triton = transport.server_version()
    try:
        model = detector.named(name)
        engine = contract.stage_name(name, "engine")
        config = transport.model_config(engine)
        device = "GPU" if any("GPU" in group["kind"] for group in config.get("instance_group", [])) else "CPU"
        info = engine_info(transport, config) or model.parameters.get(contract.PLAN)
        known, reason = _known_answer(transport, engine, config)
        if known is None:
            return Check(name, reason, device=device, engine=info, triton=triton)
        answer = transport.infer(engine, {contract.IMAGES.name: known.canvas[None]}, _CANDIDATES)
        agreement = known.agreement(*(answer[output][0] for output in _CANDIDATES))
        engine_ms = _median_ms(lambda: transport.infer(engine, {contract.IMAGES.name: known.canvas[None]}, _CANDIDATES))
        encoded = cv2.imencode(".png", known.canvas.transpose(1, 2, 0)[..., ::-1])[1].tobytes()
        pictures = {contract.IMAGE.name: np.array([[encoded]], object)}
        picture_ms = _median_ms(lambda: transport.infer(name, pictures, _OUTPUTS))
    except ClientError as error:
        return Check(name, str(error), triton=triton)
    problem = None
    if agreement < known_answer.LIMIT:
        problem = (
            f"{name} computes something else than it was built to: agreement with the known answer {agreement:.2f}, "
            f"expected at least {known_answer.LIMIT:g}. Do not use its boxes; build it again for this machine."
        )
    return Check(name, problem, agreement, engine_ms, picture_ms, device, info, triton)


def engine_info(transport: Transport, config: dict[str, Any]) -> dict[str, Any] | None:
    """What computes the graph, as an openvino engine says; None for others.

    Args:
        transport: to the server.
        config: of the engine.
    """
    if not any(output["name"] == contract.ENGINE_INFO.name for output in config.get("output", [])):
        return None
    (tensor,) = config["input"]
    blank = np.zeros((1, *(int(side) for side in tensor["dims"])), np.uint8)
    answer = transport.infer(config["name"], {tensor["name"]: blank}, (contract.ENGINE_INFO.name,))
    return dict(json.loads(answer[contract.ENGINE_INFO.name].item()))


def _known_answer(transport: Transport, engine: str, config: dict[str, Any]) -> tuple[KnownAnswer | None, str | None]:
    """The known answer of the version that is served, or why there is none."""
    fields = contract.read_parameters(config).get(contract.KNOWN_ANSWER)
    if fields is None:
        return None, f"{engine} has no known answer: build the model again with this nas-build."
    served = transport.versions(engine)
    if str(fields["version"]) not in served:
        return None, (
            f"{engine}: its known answer is of version {fields['version']}, the server has "
            f"{', '.join(map(str, served))}. Load the newest version, or build the model again."
        )
    try:
        return KnownAnswer.from_dict(fields), None
    except ValueError as error:
        return None, f"{engine}: {error}. Build the model again."


def _median_ms(run: Callable[[], object]) -> float:
    """After one run that does not count."""
    run()
    taken: list[float] = []
    while len(taken) < _RUNS and (len(taken) < _AT_LEAST or sum(taken) < _ENOUGH_S):
        started = time.perf_counter()
        run()
        taken.append(time.perf_counter() - started)
    return round(statistics.median(taken) * 1e3, 1)
