from __future__ import annotations

import pytest
from nas_build.cli import display as displaying
from nas_build.cli.display import Display
from rich.console import Console


def shown(*, quiet: bool, verbose: bool, monkeypatch: pytest.MonkeyPatch) -> str:
    console = Console(width=200, record=True, force_terminal=False)
    monkeypatch.setattr(displaying, "ERRORS", console)
    display = Display(quiet=quiet, verbose=verbose)
    with display.live():
        for model in ("one", "two"):
            progress = display.model(model)
            progress.count("download x", 3, 10)
            with progress.step("check", 2):
                progress.advance()
            progress.log("info", "Parsing")
            progress.warn("Too few.", options=("int8.calibration",))
        assert progress.seconds.keys() == {"check"}
    return console.export_text()


def test_titles_steps_and_notes(monkeypatch: pytest.MonkeyPatch) -> None:
    text = shown(quiet=False, verbose=False, monkeypatch=monkeypatch)
    assert text.count("check ") == 2 and text.count("2/2") == 2 and "3/10" in text
    assert "one\n" in text and "note: Too few. (--calibration)" in text


def test_all_that_tensorrt_says(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "Parsing\n" in shown(quiet=False, verbose=True, monkeypatch=monkeypatch)


def test_notes_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    text = shown(quiet=True, verbose=False, monkeypatch=monkeypatch)
    assert "check" not in text and "one" not in text and "note: Too few." in text
