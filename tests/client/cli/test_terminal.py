from __future__ import annotations

import pytest
import typer
from nas_client.cli.terminal import exit_codes
from nas_eval.errors import DatasetError, Remedy


@pytest.mark.parametrize(
    ("remedy", "expected"),
    [
        (None, "Bad."),
        ("images", "Bad. (--images DIR)"),
        ("split", "Bad. (--split)"),
        ("ignore_unknown", "Bad. Or leave the unknown ones out: --ignore-unknown-classes"),
    ],
)
def test_what_is_wrong_with_a_data_set_and_the_flag_that_mends_it(
    remedy: Remedy | None, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(typer.Exit) as caught, exit_codes():
        raise DatasetError("Bad.", remedy=remedy)
    assert caught.value.exit_code == 1 and capsys.readouterr().err == f"error: {expected}\n"
