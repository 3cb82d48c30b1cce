from __future__ import annotations

from pathlib import Path

import pytest
from nas_serve.log import cause


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "E1125 10:00:00.1 7 model_lifecycle.cc:621] \"failed to load 'm' version 1: Internal: no file\"\n",
            'a model failed to load.\n  m: Internal: no file"',
        ),
        ('I1125 10:00:00.1 7 x.cc:1] fine\nE1125 10:00:00.1 7 x.cc:1] "a port is taken"\n', "a port is taken"),
        ("E1125 10:00:00.1 7 x.cc:1] CudaDriverHelper has no driver\nlast words\n", "CudaDriverHelper"),
        ("", "it printed nothing."),
    ],
)
def test_it_says_what_went_wrong(text: str, expected: str, tmp_path: Path) -> None:
    (tmp_path / "log").write_text(text)
    assert expected in cause(tmp_path / "log")
