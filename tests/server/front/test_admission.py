"""Who is let in, by the script as Envoy runs it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from nas_serve.front import front

lupa = pytest.importorskip("lupa.luajit21", reason="lupa is not installed")
SCRIPT = (Path(front.__file__).with_name("admission.lua")).read_text(encoding="utf-8")
NOW = 1_000_000.0
TooLate = Callable[[float, float], float | None]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "capacity"


@pytest.fixture
def too_late(file: Path) -> TooLate:
    """Of a deadline and a time in seconds."""
    told = f"PROTOCOL, THREADS, CAPACITY_FILE = 'http', 1, '{file}'\n"
    found: TooLate = lupa.LuaRuntime().execute(f"{told}{SCRIPT}\nreturn too_late")
    return found


def test_all_are_let_in_while_nothing_is_known(too_late: TooLate, file: Path) -> None:
    assert all(too_late(0.1, NOW + n / 100) is None for n in range(50))
    file.write_text("no numbers\n")
    assert too_late(0.1, NOW + 1) is None


def test_as_many_as_can_be_answered_in_time(too_late: TooLate, file: Path) -> None:
    file.write_text(f"10.000 0 {NOW:.3f}\n")
    waits = [too_late(2.0, NOW) for _ in range(30)]
    assert waits[:12] == [None] * 12  # 60 % of the deadline
    assert waits[12:] == [pytest.approx(1.3)] * 18
    assert too_late(2.0, NOW + 1) is None  # ten have been answered since


def test_what_waits_already_counts(too_late: TooLate, file: Path) -> None:
    file.write_text(f"10.000 40 {NOW:.3f}\n")
    assert too_late(2.0, NOW) == pytest.approx(4.1)
    assert too_late(10.0, NOW) is None
    file.write_text(f"10.000 3 {NOW + 1:.3f}\n")
    assert too_late(0.01, NOW + 1) is None  # fewer than four wait: nobody is refused


def test_an_old_sample_is_no_limit(too_late: TooLate, file: Path) -> None:
    file.write_text(f"1.000 200 {NOW:.3f}\n")
    assert too_late(2.0, NOW + 29) is not None
    assert too_late(2.0, NOW + 31) is None


@pytest.mark.parametrize("seconds", [5, 600, 86400])
def test_a_clock_that_is_set_back_refuses_nobody(seconds: float, too_late: TooLate, file: Path) -> None:
    file.write_text(f"10.000 4 {NOW:.3f}\n")
    assert too_late(10.0, NOW) is None
    assert too_late(10.0, NOW - seconds + 0.2) is None  # the sample is still of the future
    file.write_text(f"10.000 4 {NOW - seconds + 0.5:.3f}\n")
    assert all(too_late(10.0, NOW - seconds + 1 + n) is None for n in range(20))
    file.write_text(f"1.000 200 {NOW - seconds + 20:.3f}\n")
    assert too_late(10.0, NOW - seconds + 21) is not None  # and the file is read again
