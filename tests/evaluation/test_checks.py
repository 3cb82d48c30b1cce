from __future__ import annotations

from pathlib import Path

import pytest
from nas_eval import checks


@pytest.mark.parametrize(("value", "expected"), [("bolt", True), ("", True), ("\ud800", False), (7, False)])
def test_text(value: object, expected: bool) -> None:
    assert checks.is_text(value) is expected


def test_inside(tmp_path: Path) -> None:
    names = ["a.jpg", "deep/../a.jpg", f"{tmp_path}/a.jpg", "../a.jpg", f"{tmp_path}_too/a.jpg", "."]
    assert checks.inside(tmp_path, names) == [tmp_path / "a.jpg"] * 3 + [None] * 3


def test_some() -> None:
    assert checks.some(["a", "b", "c"]) == "a, b, c" and checks.some([*"abcde"]) == "a, b, c and 2 more"
