from __future__ import annotations

from pathlib import Path

import pytest
from nas_serve.supervision.status import Probes, Troubles, say


def test_what_it_says_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    say("ready")
    say("restarting", "a cause\nof two lines")
    assert capsys.readouterr().out == "ready\nrestarting a cause of two lines\n"


def test_probes_read_files(tmp_path: Path) -> None:
    probes = Probes(str(tmp_path))
    probes.show("live")
    probes.show("ready")
    probes.hide("ready")
    probes.hide("ready")
    assert [path.name for path in tmp_path.iterdir()] == ["live"]
    Probes(None).show("live")
    Probes(None).hide("live")


def test_trouble_with_files_is_told_once_until_it_is_over(capsys: pytest.CaptureFixture[str]) -> None:
    troubles = Troubles()
    for trouble in (True, True, False, True):
        with troubles.noted("it cannot be written"):
            if trouble:
                raise OSError(28, "No space left on device")
    assert capsys.readouterr().out == "note it cannot be written: [Errno 28] No space left on device\n" * 2
    with pytest.raises(ValueError, match="another"), troubles.noted("it cannot be written"):
        raise ValueError("another")
