from __future__ import annotations

import pytest
from nas_build.progress import SILENT, BuildProgress


class Counted(BuildProgress):
    def __init__(self) -> None:
        super().__init__()
        self.counts: list[tuple[str, int, int]] = []

    def count(self, what: str, done: int, total: int) -> None:
        self.counts.append((what, done, total))


def test_a_step_is_counted_and_timed() -> None:
    progress = Counted()
    with progress.step("check", 2):
        assert list(progress.over("ab")) == ["a", "b"]
    assert progress.counts == [("check", 0, 2), ("check", 1, 2), ("check", 2, 2), ("check", 2, 2)]
    assert progress.seconds["check"] >= 0


def test_a_step_that_fails_is_timed_but_not_done() -> None:
    progress = Counted()
    with pytest.raises(ValueError), progress.step("check", 2):
        raise ValueError
    assert progress.counts == [("check", 0, 2)] and "check" in progress.seconds


def test_silence(capsys: pytest.CaptureFixture[str]) -> None:
    SILENT.advance()
    SILENT.warn("x", options=("name",))
    SILENT.log("error", "x")
    SILENT.count("download", 1, 2)
    assert capsys.readouterr() == ("", "")
