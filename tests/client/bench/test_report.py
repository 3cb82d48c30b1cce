"""What bench shows and writes of points that were measured."""

from __future__ import annotations

import csv
from typing import Any

import cv2
import numpy as np
from nas_client.bench import report, sweep
from nas_client.bench.perf_analyzer import Load
from nas_client.bench.sweep import Point
from rich.console import Console
from rich.table import Table

ABOUT: dict[str, Any] = {
    "machine": {"cpu": "a CPU", "cores": 2},
    "versions": {"perf_analyzer": "2.51.0"},
    "targets": {"m": {"triton": "2.51.0", "precision": "int8", "checkpoint_sha256": "ab"}},
    "pictures": 1,
}


def point(concurrency: int, throughput: float, rounds: int = 3) -> Point:
    spread = dict.fromkeys(("throughput", "p50_ms", "p95_ms", "p99_ms", "mean_ms"), 0.1)
    where = {"network": 1.0, "engine": 8.0}
    load = Load("concurrency", concurrency)
    return Point("m", "ensemble", load, throughput, 10.0, 11.0, 12.0, 10.5, where, 1.5, spread, rounds)


def shown(points: list[Point]) -> str:
    console = Console(width=160)
    with console.capture() as captured:
        for part in report.tables(points, ABOUT, {"m": sweep.compare(points[0], points[-1])}, "against"):
            console.print(part)
            assert isinstance(part, str | Table)
    return captured.get()


def test_tables() -> None:
    out = shown([point(1, 100.0), point(4, 300.0)])
    assert "a CPU, 2 cores; Triton 2.51.0, perf_analyzer 2.51.0" in out
    first = next(line for line in out.splitlines() if "100.0" in line)
    cells = [cell.strip() for cell in first.strip("│").split("│")]
    assert cells == ["m", "1", "100.0", "10.0", "11.0", "12.0", "5", "1.0", "", "", "8.0", "", "1.5"]
    assert "3.00 x better (±10%)" in out


def test_one_round_has_no_spread() -> None:
    first = next(line for line in shown([point(1, 100.0, rounds=1)]).splitlines() if "100.0" in line)
    assert first.strip("│").split("│")[6].strip() == ""


def test_csv() -> None:
    (row,) = csv.DictReader(report.to_csv([point(4, 300.0)]).splitlines())
    assert (row["target"], row["load"], row["value"], row["throughput"]) == ("m", "concurrency", "4", "300.000")
    assert (row["engine_ms"], row["queue_ms"], row["mean_ms"]) == ("8.000", "", "10.500")


def test_what_else_is_different_is_named() -> None:
    now = {**ABOUT, "machine": {"cpu": "a CPU", "cores": 4}, "pictures": 2}
    now["targets"] = {"m": {**ABOUT["targets"]["m"], "precision": "fp16"}}
    assert report.differences(ABOUT, ABOUT) == []
    assert set(report.differences(ABOUT, now)) == {"cores 2 -> 4", "pictures 1 -> 2", "m's precision int8 -> fp16"}


def test_the_plot_is_a_picture() -> None:
    drawn = cv2.imdecode(np.frombuffer(report.draw([point(1, 100.0), point(4, 300.0)]), np.uint8), cv2.IMREAD_COLOR)
    assert drawn is not None and drawn.std() > 5
