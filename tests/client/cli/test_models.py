from __future__ import annotations

import json

import pytest

from support.commands import Run


def test_a_row_for_each_model_that_detects(run: Run) -> None:
    out, _ = run("models")
    rows = [line for line in out.splitlines() if "READY" in line]
    assert len(rows) == 6 and any("yolo_nas_m_fp16" in row and "fp16" in row and "80" in row for row in rows)
    assert "_engine" not in out


def test_all_of_them_with_all_parameters(run: Run) -> None:
    out, _ = run("models", "--all")
    assert "80: person, bicycle, car" in out and "yolo_nas_s_int8_engine" in out
    listed = json.loads(run("models", "--json")[0])
    assert {m["name"]: m for m in listed}["yolo_nas_l_int8"]["parameters"]["precision"] == "int8"


@pytest.mark.parametrize("columns", [80, 160])
def test_it_is_as_wide_as_it_may_be(columns: int, run: Run) -> None:
    run.environment["COLUMNS"] = str(columns)
    out, _ = run("models")
    assert max(map(len, out.splitlines())) <= columns and "…" not in out
    assert all(f"yolo_nas_{variant}_int8" in out for variant in "sml")
