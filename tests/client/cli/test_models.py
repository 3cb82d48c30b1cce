from __future__ import annotations

import json

from support.commands import Run


def test_models(run: Run) -> None:
    out, _ = run("models")
    assert "yolo_nas_m_fp16" in out and "READY" in out and "80: person, bicycle, car" in out
    listed = json.loads(run("models", "--json")[0])
    assert {m["name"]: m for m in listed}["yolo_nas_l_int8"]["parameters"]["precision"] == "int8"
