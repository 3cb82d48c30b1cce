"""OpenCV, of whichever distribution is installed (headless or not, with contrib or without), from 4.8 to 5."""

from __future__ import annotations

from importlib import metadata
from typing import Any

_DISTRIBUTIONS = (
    "opencv-python-headless",
    "opencv-python",
    "opencv-contrib-python-headless",
    "opencv-contrib-python",
)


class OpenCVMissingError(ImportError):
    """It is needed, and not installed."""

    def __init__(self) -> None:
        super().__init__("OpenCV is needed for this, and not installed: pip install opencv-python-headless", name="cv2")


class _Missing:
    """Stands where the module would: whoever needs something of it is told, whoever does not is not."""

    def __getattr__(self, name: str) -> Any:
        raise OpenCVMissingError


try:
    import cv2

    available = True
except ImportError:
    cv2 = _Missing()  # type: ignore[assignment]
    available = False


def version() -> str:
    """Of what is installed, as its distribution says; that of the module where none says it."""
    for name in _DISTRIBUTIONS:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return cv2.__version__


def silence() -> None:
    """OpenCV says nothing of its own any more; what goes wrong is said by those who use it."""
    logging = getattr(cv2.utils, "logging", None)
    set_level = getattr(cv2, "setLogLevel", None) or getattr(logging, "setLogLevel", None)
    if set_level is not None:
        set_level(0)


__all__ = ["OpenCVMissingError", "available", "cv2", "silence", "version"]
