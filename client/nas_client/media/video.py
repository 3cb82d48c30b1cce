"""Frames of video files, network streams and cameras, decoded ahead of their use; and videos written."""

from __future__ import annotations

import contextlib
import os
import queue
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from types import TracebackType
from urllib.parse import urlsplit

import numpy as np
from nas_ensembles.opencv import cv2
from numpy.typing import NDArray

from .sources import split_url

SUFFIXES = frozenset(
    {".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".ts", ".m2ts", ".wmv", ".flv", ".ogv", ".3gp"}
)
_STREAMS = ("rtsp", "rtsps", "rtmp", "rtp", "udp", "srt")
_CAMERA_DIGITS = 9  # more do not fit OpenCV's index
_AHEAD = 8  # frames that are decoded before they are asked for
_USUAL_FPS = 25.0
_OPEN_TIMEOUT_MS = 10_000


@dataclass(frozen=True, eq=False)
class Frame:
    """One frame.

    Attributes:
        index: from 0, counting those that were dropped.
        time_s: in the video; of a stream or camera since it was opened.
        image: (H, W, 3) uint8 RGB, upright.
    """

    index: int
    time_s: float
    image: NDArray[np.uint8]


def is_video(name: str) -> bool:
    """Whether a name means a video file, a stream (rtsp://...) or a camera (0, /dev/video0) and no picture."""
    parts = split_url(name)
    if parts.scheme in _STREAMS or _camera(name) is not None:
        return True
    return PurePosixPath(parts.path if parts.scheme in ("http", "https") else name).suffix.lower() in SUFFIXES


class Video:
    """Frames in order, decoded by a thread of its own while earlier ones are in use.

    A file waits for who reads it. A stream or camera does not: when frames are not taken fast enough the oldest waiting
    one is dropped, so that what is seen stays live.

    Args:
        name: a file, a URL, or a camera: its number or device.

    Attributes:
        fps: frames per second, as the video says; 25 if it does not.
        total: frames there are, or None.
        live: a stream or a camera.
        dropped: frames that nobody took in time.
        seconds_taken: from the first look at its frames until it was closed.

    Raises:
        OSError: if it cannot be opened.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        camera = _camera(name)
        scheme = split_url(name).scheme
        self.live = camera is not None or scheme in _STREAMS
        if camera is None and not scheme and not os.path.isfile(name):
            raise OSError("no such file")
        if "://" in name:
            try:
                urlsplit(name).port  # noqa: B018  is looked at only then
            except ValueError as error:
                raise OSError(f"malformed URL: {error}; expected scheme://host:port/path") from None
        timeouts = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, _OPEN_TIMEOUT_MS, cv2.CAP_PROP_READ_TIMEOUT_MSEC, _OPEN_TIMEOUT_MS]
        if camera is None:
            self._capture = cv2.VideoCapture(name, cv2.CAP_FFMPEG, timeouts)
        else:
            self._capture = cv2.VideoCapture(camera, cv2.CAP_V4L2)
        if not self._capture.isOpened():
            what = "a stream that answers" if self.live and camera is None else "a camera" if self.live else "a video"
            raise OSError(f"cannot be opened as {what}")
        fps = self._capture.get(cv2.CAP_PROP_FPS)
        self.fps = fps if 1 <= fps <= 1000 else _USUAL_FPS
        total = int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        self.total = total if total > 0 and not self.live else None
        self.dropped = 0
        self.seconds_taken = 0.0
        self._began = time.monotonic()
        self._waiting: queue.Queue[Frame | None] = queue.Queue(1 if self.live else _AHEAD)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._decode, name=f"decode {name}", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[Frame]:
        self._began = time.monotonic()
        while (frame := self._waiting.get()) is not None:
            yield frame

    def close(self) -> None:
        """Stop decoding."""
        self.seconds_taken = time.monotonic() - self._began
        self._stop.set()
        with contextlib.suppress(queue.Empty):
            while True:
                self._waiting.get_nowait()
        self._thread.join(1.0)  # a stream may be waiting for its next packet; it ends with the program

    def __enter__(self) -> Video:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _decode(self) -> None:
        index, opened = 0, time.monotonic()
        try:
            while not self._stop.is_set():
                came, image = self._capture.read()
                if not came:
                    break
                at = time.monotonic() - opened if self.live else self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1e3
                cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image)
                self._hand_over(Frame(index, at, image))  # type: ignore[arg-type]
                index += 1
        finally:
            self._capture.release()
            self._hand_over(None)

    def _hand_over(self, frame: Frame | None) -> None:
        may_drop = self.live and frame is not None
        while not self._stop.is_set():
            try:
                self._waiting.put(frame, timeout=0 if may_drop else 0.1)
                return
            except queue.Full:
                if may_drop:
                    with contextlib.suppress(queue.Empty):
                        self._waiting.get_nowait()
                        self.dropped += 1


def _camera(name: str) -> int | None:
    """Number of a camera, or None if the name is of something else."""
    if os.path.exists(name) and not name.startswith("/dev/video"):
        return None
    number = name.removeprefix("/dev/video")
    return int(number) if number.isdecimal() and len(number) <= _CAMERA_DIGITS else None
