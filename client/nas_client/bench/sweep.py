"""Latency and throughput under load, where the time goes, and whether it has changed."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from nas_ensembles import contract, images
from numpy.typing import NDArray

from ..detection.detector import Detector
from ..errors import BenchError, ClientError
from .perf_analyzer import Analyzer, Load, Measured, SharedMemory, write_data

ENSEMBLE = "ensemble"
WHERE = ("network", "queue", *contract.STAGES)
_METRICS = ("throughput", "p50_ms", "p95_ms", "p99_ms", "mean_ms")
_OUTPUT_BYTES = 100_000
# With shared memory perf_analyzer wants every optional input too.
_THRESHOLDS = {
    tensor.name: tensor.full(1, value)[0]
    for tensor, value in zip(contract.THRESHOLDS, astuple(contract.Thresholds()), strict=True)
}
_ROUNDS_IN_WINDOW = 2  # of requests; perf_analyzer fails if none ends in a window
_LEAST_NOISE = 0.03  # rounds that agree by chance still differ so much the next day


@dataclass(frozen=True)
class Round:
    """One measurement of one load.

    Attributes:
        where: milliseconds of a request on the network, in queues and in each stage; empty if the server does not say.
        batch: mean batch of the engine.
    """

    measured: Measured
    where: Mapping[str, float] = field(default_factory=dict)
    batch: float | None = None


@dataclass(frozen=True)
class Point:
    """A load on a contender, over all rounds: medians, and how far rounds were apart.

    Attributes:
        target: label of the contender, by the name that results have for it.
        stage: the whole ensemble, or one of its composing models alone.
        load: what was asked.
        spread: largest less smallest round in shares of the median, by metric.
    """

    target: str
    stage: str
    load: Load
    throughput: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    mean_ms: float
    where: Mapping[str, float]
    batch: float | None
    spread: Mapping[str, float]
    rounds: int


@dataclass(frozen=True)
class Change:
    """Of a metric of a load against another measurement of it.

    Attributes:
        ratio: new / old.
        noise: by how much it may differ from 1 by chance, from the spread of the rounds of both.
    """

    metric: str
    ratio: float
    noise: float

    @property
    def verdict(self) -> str:
        """Whether it is better or worse beyond the noise."""
        if abs(self.ratio - 1) <= self.noise:
            return "same"
        return "better" if (self.ratio > 1) == (self.metric == "throughput") else "worse"


class Contender:
    """A served model, with requests ready to be sent to it.

    Args:
        label: in reports.
        detector: of the model.
        pictures: encoded.
        stages: "ensemble" and composing models.
        shared_memory: how tensors travel.
        frames: send the pictures decoded, to the ensemble that takes frames.
    """

    def __init__(
        self,
        label: str,
        detector: Detector,
        pictures: Sequence[bytes],
        stages: Sequence[str] = (ENSEMBLE,),
        shared_memory: SharedMemory = "none",
        frames: bool = False,
    ) -> None:
        self.label = label
        self.detector = detector
        self.stages = tuple(stages)
        self._first = pictures[0]
        self._frames = frames
        self._shared_memory = shared_memory
        self._folder = tempfile.TemporaryDirectory(prefix="nas-client-bench-")
        if frames:
            whole: list[dict[str, NDArray[Any]]] = [
                {contract.FRAME.name: images.decode(picture)} for picture in pictures
            ]
        else:
            whole = [{contract.IMAGE.name: np.array([picture], dtype=object)} for picture in pictures]
        samples = {ENSEMBLE: whole, "preprocess": whole}
        if {"engine", "postprocess"} & set(stages):
            passed = [self._pass(picture) for picture in pictures]
            samples["engine"] = [engine for engine, _ in passed]
            samples["postprocess"] = [postprocess for _, postprocess in passed]
        for stage in self.stages:
            place = Path(self._folder.name) / stage
            place.mkdir()
            optional = _THRESHOLDS if shared_memory != "none" and stage in (ENSEMBLE, "postprocess") else {}
            write_data(place / "input.json", [{**sample, **optional} for sample in samples[stage]])

    def measure(self, analyzer: Analyzer, stage: str, load: Load, window_s: float) -> Round:
        """One load, one time; the window is longer if requests take so long."""
        model, transport = self._served(stage), self.detector.transport
        before = self._statistics() if stage == ENSEMBLE else None
        data = Path(self._folder.name) / stage / "input.json"
        room = self._output_bytes(stage)
        waiting = load.value if load.kind == "concurrency" else 1
        window_s = max(window_s, _ROUNDS_IN_WINDOW * (waiting + 1) * self._one_request_s)
        measured = analyzer.run(model, transport.address, load, data, window_s, self._shared_memory, room)
        after = self._statistics() if before else None
        if before is None or after is None:
            return Round(measured)
        passed = {name: _less(after[name], before[name]) for name in (ENSEMBLE, *contract.STAGES)}
        return Round(measured, _where(passed, measured.mean_ms), _batch(passed["engine"]))

    @cached_property
    def _one_request_s(self) -> float:
        """Of the ensemble, when nothing else is asked; the quicker of two."""
        seconds = []
        for _ in range(2):
            started = time.perf_counter()
            self.detector.detect(self._first)
            seconds.append(time.perf_counter() - started)
        return min(seconds)

    def close(self) -> None:
        """Remove the requests."""
        self._folder.cleanup()
        self.detector.close()

    def _served(self, stage: str) -> str:
        name = self.detector.model.name
        if stage == ENSEMBLE:
            return contract.frames_name(name) if self._frames else name
        return contract.stage_name(name, stage)

    def _statistics(self) -> dict[str, Any] | None:
        """Of the ensemble and its composing models; None where the server keeps them to itself."""
        asked = (ENSEMBLE, *contract.STAGES)
        try:
            return {stage: self.detector.transport.statistics(self._served(stage)) for stage in asked}
        except ClientError:
            return None

    def _pass(self, picture: bytes) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]]]:
        """What the engine and the postprocessing are given for a picture, from the server itself."""
        infer = self.detector.transport.infer
        image = {contract.IMAGE.name: np.array([[picture]], dtype=object)}
        prepared = infer(self._served("preprocess"), image, (contract.IMAGES.name, contract.GEOMETRY.name))
        candidates = tuple(tensor.name for tensor in contract.CANDIDATE_TENSORS)
        engine = {contract.IMAGES.name: prepared[contract.IMAGES.name]}
        found = infer(self._served("engine"), engine, candidates)
        postprocess = {**found, contract.GEOMETRY.name: prepared[contract.GEOMETRY.name]}
        return {name: array[0] for name, array in engine.items()}, {n: array[0] for n, array in postprocess.items()}

    def _output_bytes(self, stage: str) -> int:
        """Room for the largest output of a stage and its batch of one."""
        if stage == "preprocess":
            height, width = self.detector.model.parameters[contract.LETTERBOX]["size_hw"]
            return max(_OUTPUT_BYTES, 3 * int(height) * int(width))
        return _OUTPUT_BYTES


def sweep(
    analyzer: Analyzer,
    contenders: Sequence[Contender],
    loads: Sequence[Load],
    rounds: int,
    window_s: float,
    progress: Callable[[str], None] = lambda _: None,
) -> Iterator[Point]:
    """Measure every load on every stage of every contender; they take turns, so that a busy machine slows all alike.

    Args:
        analyzer: from `perf_analyzer.find`.
        contenders: one, or two to compare.
        loads: in order.
        rounds: of each load.
        window_s: of a measurement, three are taken.
        progress: told what was measured, after each round.

    Raises:
        BenchError: if a load cannot be measured.
    """
    for load in loads:
        for stage in contenders[0].stages:
            measured: dict[str, list[Round]] = {contender.label: [] for contender in contenders}
            for _ in range(rounds):
                for contender in contenders:
                    measured[contender.label].append(contender.measure(analyzer, stage, load, window_s))
                    progress(f"{contender.label} {stage} {load}")
            for contender in contenders:
                yield _point(contender.label, stage, load, measured[contender.label])


def compare(old: Point, new: Point) -> list[Change]:
    """What is different between two measurements of the same load."""
    changes = []
    for metric in ("throughput", "p50_ms", "p95_ms"):
        noise = max(_LEAST_NOISE, old.spread[metric], new.spread[metric])
        changes.append(Change(metric, getattr(new, metric) / max(getattr(old, metric), 1e-9), noise))
    return changes


def to_dict(point: Point) -> dict[str, Any]:
    """For JSON."""
    return asdict(point)


def from_dict(plain: Mapping[str, Any]) -> Point:
    """A point that was written as JSON.

    Raises:
        BenchError: if it is none.
    """
    try:
        return Point(**{**plain, "load": Load(**plain["load"])})
    except (TypeError, KeyError) as error:
        raise BenchError(f"is no measurement of nas-client bench: {error}") from None


def _point(label: str, stage: str, load: Load, rounds: Sequence[Round]) -> Point:
    values: dict[str, list[float]] = {metric: [getattr(one.measured, metric) for one in rounds] for metric in _METRICS}
    medians = {metric: statistics.median(values[metric]) for metric in _METRICS}
    batches = [one.batch for one in rounds if one.batch is not None]
    return Point(
        label,
        stage,
        load,
        **medians,
        where={
            name: statistics.median(one.where[name] for one in rounds if one.where)
            for name in WHERE
            if any(one.where for one in rounds)
        },
        batch=statistics.median(batches) if batches else None,
        spread={m: (max(values[m]) - min(values[m])) / max(medians[m], 1e-9) for m in _METRICS},
        rounds=len(rounds),
    )


def _less(after: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, float]:
    """What a model did between two looks: requests, executions, and nanoseconds of each part."""
    did = {
        name: float(after.get(name, 0)) - float(before.get(name, 0)) for name in ("inference_count", "execution_count")
    }
    for part in ("success", "queue", "compute_input", "compute_infer", "compute_output"):
        for unit in ("count", "ns"):
            values = (float(look["inference_stats"].get(part, {}).get(unit, 0)) for look in (after, before))
            did[f"{part}_{unit}"] = next(values) - next(values)
    return did


def _where(passed: Mapping[str, Mapping[str, float]], mean_ms: float) -> dict[str, float]:
    """Milliseconds of a request by place.

    Outside the server it is the network's; inside, what queues and the other stages do not account for is the engine's:
    it may answer a request before or after its execution, as Triton sees it, ends.
    """
    parts = dict.fromkeys(WHERE, 0.0)
    for stage in contract.STAGES:
        did = passed[stage]
        requests = max(did["success_count"], 1)
        parts["queue"] += did["queue_ns"] / requests / 1e6
        parts[stage] = sum(did[f"compute_{part}_ns"] for part in ("input", "infer", "output")) / requests / 1e6
    served_ms = passed[ENSEMBLE]["success_ns"] / max(passed[ENSEMBLE]["success_count"], 1) / 1e6
    parts["network"] = max(mean_ms - served_ms, 0.0)
    parts["engine"] = max(served_ms - parts["queue"] - parts["preprocess"] - parts["postprocess"], 0.0)
    return parts


def _batch(engine: Mapping[str, float]) -> float | None:
    return engine["inference_count"] / engine["execution_count"] if engine["execution_count"] else None
