"""Videos that are written: H.264 where there is an encoder, which browsers play, else MPEG-4."""

from __future__ import annotations

import os
import tempfile
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np
from nas_ensembles.opencv import cv2
from numpy.typing import NDArray


class _Encoder(Protocol):
    def write(self, bgr: Any) -> None: ...
    def release(self) -> None: ...


class VideoFile:
    """A video being written, in .mp4; it gets its name when it is closed and whole.

    H.264 by PyAV (`pip install 'nas-triton[video]'`), else MPEG-4 by OpenCV, which has no encoder for H.264.

    Args:
        path: of the file.
        fps: frames per second.
    """

    def __init__(self, path: Path, fps: float) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.stem}.", suffix=".mp4", dir=path.parent)
        os.fchmod(descriptor, 0o644)
        os.close(descriptor)
        self._temporary = Path(temporary)
        self._fps = fps
        self._encoder: _Encoder | None = None
        self._size_wh = (0, 0)
        self._written = 0

    def write(self, image: NDArray[np.uint8], index: int) -> None:
        """Add a frame; it also stands for those that were dropped before it, so that time is kept.

        Args:
            image: (H, W, 3) uint8 RGB; fitted to the first frame's size.
            index: of the frame.

        Raises:
            OSError: if the video cannot be written.
        """
        height, width = image.shape[:2]
        if self._encoder is None:
            self._size_wh = width - width % 2, height - height % 2  # both halve the colours' resolution
            try:
                self._encoder = _H264(self._temporary, self._fps, self._size_wh)
            except _NoEncoder:
                self._encoder = _mpeg4(self._temporary, self._fps, self._size_wh)
            if self._encoder is None:
                raise OSError(f"{self.path}: cannot write a video of {width} x {height} pixels")
        bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
        if (width, height) != self._size_wh:
            bgr = cv2.resize(bgr, self._size_wh)
        for _ in range(max(1, index + 1 - self._written)):
            self._encoder.write(bgr)
            self._written += 1

    def close(self) -> None:
        """Finish the video; one without frames is removed.

        Raises:
            OSError: if not all of it was written.
        """
        try:
            if self._encoder is None:
                return
            self._encoder.release()
            check = cv2.VideoCapture(str(self._temporary), cv2.CAP_FFMPEG)
            readable = int(check.get(cv2.CAP_PROP_FRAME_COUNT))
            check.release()
            if readable != self._written:
                raise OSError(f"{self.path}: {readable} of {self._written} frames were written; is the disk full?")
            self._temporary.replace(self.path)
        finally:
            self._temporary.unlink(missing_ok=True)

    def __enter__(self) -> VideoFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _NoEncoder(Exception):
    """PyAV is not installed, or was built without the encoder."""


class _H264:
    """By PyAV."""

    def __init__(self, path: Path, fps: float, size_wh: tuple[int, int]) -> None:
        try:
            import av
        except ImportError:
            raise _NoEncoder from None
        self._av: Any = av
        self._file: Any = av.open(str(path), "w")
        try:
            rate = Fraction(fps).limit_denominator(1001)
            self._stream = self._file.add_stream("libx264", rate=rate, options={"preset": "veryfast"})
        except ValueError:  # unknown codec
            self._file.close()
            raise _NoEncoder from None
        self._stream.width, self._stream.height = size_wh
        self._stream.pix_fmt = "yuv420p"  # what every player reads

    def write(self, bgr: Any) -> None:
        self._file.mux(self._stream.encode(self._av.VideoFrame.from_ndarray(bgr, format="bgr24")))

    def release(self) -> None:
        self._file.mux(self._stream.encode())
        self._file.close()


def _mpeg4(path: Path, fps: float, size_wh: tuple[int, int]) -> _Encoder | None:
    """By OpenCV; None if it cannot."""
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"mp4v"), fps, size_wh)
    return writer if writer.isOpened() else None
