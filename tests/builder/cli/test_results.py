from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from nas_build.cli import results
from nas_build.pipeline import Result
from rich.console import Console


def result(name: str, detections: int, *, built: bool = True, **more: Any) -> Result:
    agreement = {"detections": detections, "detections_found": detections, "pictures": 4, "max_score_difference": 0.01}
    manifest = {"agreement": agreement, "inputs": {"target": "openvino"}, "files": {}, **more}
    return Result(name, 1, built, manifest, {"agreement": 0.99}, {"export": 2.0} if built else {})


def printed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *shown: Result) -> str:
    with (tmp_path / "out").open("w") as file:
        monkeypatch.setattr(results, "OUT", Console(file=file, width=160))
        results.print_table(list(shown))
    return (tmp_path / "out").read_text()


def test_states(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    out = printed(monkeypatch, tmp_path, result("a", 10), result("b", 0), result("c", 10, built=False))
    rows = {line.split("│")[1].strip(): line for line in out.splitlines() if line.startswith("│")}
    assert "built, doubtful" in rows["b"] and "doubtful" not in rows["a"] + rows["c"]
    assert "up to date" in rows["c"] and "10 of 10" in rows["a"] and "2.0" in rows["a"]


def test_doubts_are_repeated_for_what_was_built_before(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    out = printed(monkeypatch, tmp_path, result("b", 0, built=False))
    assert "b is doubtful: float32 finds nothing in the 4 pictures" in out


def test_the_loss_and_where_there_is_more(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    accuracy = {"accuracy": {"loss": 0.5, "loss_low": -0.1, "loss_high": 1.1}}
    out = printed(monkeypatch, tmp_path, result("a", 10, int8=accuracy), result("b", 10))
    assert "+0.50 (-0.10 to +1.10)" in out and "nas-build report a" in out and "nas-build report b" not in out


def test_json() -> None:
    report = results.as_dict(result("b", 0))
    assert report["name"] == "b" and report["built"] is True and len(report["doubts"]) == 1  # type: ignore[arg-type]
