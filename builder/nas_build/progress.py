"""The steps of a build: how far each is, and how long it took."""

from __future__ import annotations

import time

from .yolo_nas.weights import Progress


class Clock:
    """Times the steps and reports how far each is: `with clock.step("export"): ...`."""

    def __init__(self, progress: Progress = lambda *_: None) -> None:
        self.seconds: dict[str, float] = {}
        self._progress = progress

    def step(self, name: str, total: int = 1) -> Clock:
        """Begin a step of so many parts."""
        self._name, self._total, self._done = name, total, 0
        return self

    def advance(self) -> None:
        """One part is done."""
        self._done += 1
        self._progress(self._name, self._done, self._total)

    def __enter__(self) -> None:
        self._started = time.monotonic()
        self._progress(self._name, 0, self._total)

    def __exit__(self, kind: object, *_: object) -> None:
        self.seconds[self._name] = round(time.monotonic() - self._started, 2)
        if kind is None:
            self._progress(self._name, self._total, self._total)
