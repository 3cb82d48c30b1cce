from __future__ import annotations

import os
from pathlib import Path

import pytest
from nas_ensembles import cores


@pytest.fixture
def of_32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file with the limit of a container, on a machine of 32 cores."""
    limit = tmp_path / "cpu.max"
    monkeypatch.setattr(cores, "_LIMIT", limit)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(32)), raising=False)
    return limit


@pytest.mark.parametrize(
    ("limit", "expected"),
    [(None, 32), ("max 100000", 32), ("400000 100000", 4), ("150000 100000", 2), ("50000 100000", 1), ("what", 32)],
)
def test_a_containers_limit_counts(limit: str | None, expected: int, of_32: Path) -> None:
    if limit:
        of_32.write_text(f"{limit}\n")
    assert cores.count() == expected


def test_a_share_is_at_least_one(of_32: Path) -> None:
    assert [cores.share(of) for of in (0, 0.125, 1)] == [1, 4, 32]
    of_32.write_text("200000 100000")
    assert [cores.share(of) for of in (0, 0.125, 1)] == [1, 1, 2]


def test_what_this_process_is_bound_to_counts() -> None:
    assert 1 <= cores.count() <= len(os.sched_getaffinity(0))
