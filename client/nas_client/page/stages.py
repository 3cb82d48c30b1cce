"""How long each stage of a request took, by the server's own statistics."""

from __future__ import annotations

from typing import Any

from nas_ensembles import contract

from ..detection.detector import Detector
from ..errors import AdminKeyMissing

_COMPUTE = ("compute_input", "compute_infer", "compute_output")


class Stages:
    """What a server's statistics say before and after a request.

    Nothing is said if the server keeps them to who has its admin key, or if other requests came between.

    Args:
        detector: of the model.
    """

    def __init__(self, detector: Detector) -> None:
        self._detector = detector
        self._before = self._read()

    def taken(self) -> dict[str, float]:
        """Milliseconds of preprocess, engine and postprocess, and of waiting before them as queue; or nothing."""
        after = self._read()
        if self._before is None or after is None:
            return {}
        found, queue_ns = {}, 0
        for stage in contract.STAGES:
            old, new = self._before[stage], after[stage]
            if _number(new, "success", "count") - _number(old, "success", "count") != 1:
                return {}
            found[stage] = round(sum(_number(new, part) - _number(old, part) for part in _COMPUTE) / 1e6, 2)
            queue_ns += _number(new, "queue") - _number(old, "queue")
        return {**found, "queue": round(queue_ns / 1e6, 2)}

    def _read(self) -> dict[str, dict[str, Any]] | None:
        name = self._detector.model.name
        try:
            return {
                stage: self._detector.transport.statistics(contract.stage_name(name, stage)).get("inference_stats", {})
                for stage in contract.STAGES
            }
        except AdminKeyMissing:
            return None


def _number(statistics: dict[str, Any], part: str, field: str = "ns") -> int:
    return int(statistics.get(part, {}).get(field, 0))
