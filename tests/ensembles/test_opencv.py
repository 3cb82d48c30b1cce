"""Whichever OpenCV is there is taken; where none is, who needs it is told so."""

from __future__ import annotations

import importlib
import subprocess
import sys
from importlib import metadata

import cv2
import pytest
from nas_ensembles import opencv

WITHOUT = """
import sys
sys.modules["cv2"] = None
from nas_ensembles import opencv, images
assert not opencv.available and images.SUFFIXES
try:
    images.decode(b"\\xff\\xd8\\xff")
except opencv.OpenCVMissingError as error:
    print(error)
"""


def test_it_is_the_module_itself() -> None:
    assert opencv.available and opencv.cv2 is cv2


def test_without_it_only_what_needs_it_fails() -> None:
    code = f"import sys; sys.path[:0] = {sys.path!r}\n{WITHOUT}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300)
    assert done.stdout == "OpenCV is needed for this, and not installed: pip install opencv-python-headless\n"


def test_version_is_that_of_the_distribution_that_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def version(name: str) -> str:
        asked.append(name)
        if name != "opencv-contrib-python":
            raise metadata.PackageNotFoundError(name)
        return "4.9"

    monkeypatch.setattr(metadata, "version", version)
    assert opencv.version() == "4.9" and asked[0] == "opencv-python-headless"
    monkeypatch.setattr(opencv, "_DISTRIBUTIONS", ())
    assert opencv.version() == cv2.__version__


def test_silence_asks_whichever_function_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    levels: list[int] = []
    monkeypatch.setattr(cv2, "setLogLevel", levels.append, raising=False)
    opencv.silence()
    monkeypatch.delattr(cv2, "setLogLevel")
    logging = importlib.import_module("types").SimpleNamespace(setLogLevel=levels.append)
    monkeypatch.setattr(cv2.utils, "logging", logging, raising=False)
    opencv.silence()
    monkeypatch.delattr(cv2.utils, "logging")
    opencv.silence()
    assert levels == [0, 0]
