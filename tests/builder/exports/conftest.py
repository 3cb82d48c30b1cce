"""The demo network in every format, on a quarter of COCO's canvas, exported once for all tests that look at it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import pytest
from nas_build.exports import FORMATS, run
from nas_build.exports.options import ExportOptions
from nas_build.exports.run import ExportResult

Files = dict[str, ExportResult]
Bytes = Callable[[str], bytes]


@pytest.fixture(scope="session")
def files(quarter_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Files:
    """By format."""
    folder = tmp_path_factory.mktemp("exports")
    return {
        name: run.export(ExportOptions(quarter_checkpoint, name, output=folder / f"{name}.onnx")) for name in FORMATS
    }


@pytest.fixture(scope="session")
def batched(quarter_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Bytes:
    """Of a format, the file that takes as many pictures as there are."""
    folder = tmp_path_factory.mktemp("batched")

    @functools.cache
    def of(name: str) -> bytes:
        output = folder / f"{name}.onnx"
        run.export(ExportOptions(quarter_checkpoint, name, output=output, batch="dynamic"))
        return output.read_bytes()

    return of
