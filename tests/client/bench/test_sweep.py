"""What is better, worse or the same, and what comes back from a file."""

from __future__ import annotations

import json

import pytest
from nas_client.bench import sweep
from nas_client.bench.perf_analyzer import Load
from nas_client.bench.sweep import Point
from nas_client.errors import BenchError


def point(throughput: float, p50_ms: float, spread: float = 0.0) -> Point:
    noise = dict.fromkeys(("throughput", "p50_ms", "p95_ms", "p99_ms", "mean_ms"), spread)
    load = Load("concurrency", 1)
    return Point("x", "ensemble", load, throughput, p50_ms, p50_ms, p50_ms, p50_ms, {}, None, noise, 3)


@pytest.mark.parametrize(
    ("old", "new", "verdicts"),
    [
        (point(100, 10), point(101, 9.9), ["same", "same", "same"]),
        (point(100, 10), point(90, 11), ["worse", "worse", "worse"]),
        (point(100, 10, spread=0.3), point(90, 11), ["same", "same", "same"]),
        (point(100, 10), point(150, 8, spread=0.1), ["better", "better", "better"]),
    ],
)
def test_changes_beyond_the_spread_of_the_rounds_count(old: Point, new: Point, verdicts: list[str]) -> None:
    assert [change.verdict for change in sweep.compare(old, new)] == verdicts


def test_points_come_back_from_json() -> None:
    one = point(100, 10, 0.1)
    assert sweep.from_dict(json.loads(json.dumps(sweep.to_dict(one)))) == one
    with pytest.raises(BenchError, match="is no measurement"):
        sweep.from_dict({"load": {"kind": "concurrency", "value": 1}})
