"""How a build speaks: how far its steps are, how long they took, what the user should know."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar

_Part = TypeVar("_Part")


class Warn(Protocol):
    """Told what the user should know, and the options that change it, as of `errors.BuildError`."""

    def __call__(self, message: str, *, options: tuple[str, ...] = ()) -> None: ...


class BuildProgress:
    """Of one build, and silent: a display overrides `count`, `warn` and `log`.

    Attributes:
        seconds: that each step took, by its name.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._name, self._done, self._total = "", 0, 0

    @contextlib.contextmanager
    def step(self, name: str, total: int = 1) -> Iterator[None]:
        """Time a step of so many parts: `with progress.step("export"): ...`."""
        self._name, self._done, self._total = name, 0, total
        self.count(name, 0, total)
        started = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = round(time.monotonic() - started, 2)
        self.count(name, total, total)

    def advance(self) -> None:
        """One part of the current step is done."""
        self._done += 1
        self.count(self._name, self._done, self._total)

    def over(self, parts: Iterable[_Part]) -> Iterator[_Part]:
        """The parts of the current step; each counts as done when the next is asked for."""
        for part in parts:
            yield part
            self.advance()

    def count(self, what: str, done: int, total: int) -> None:
        """Of a step or a download, `done` of `total` parts or bytes are done."""

    def warn(self, message: str, *, options: tuple[str, ...] = ()) -> None:
        """Something the user should know, and the options that change it, as of `errors.BuildError`."""

    def log(self, level: str, line: str) -> None:
        """What TensorRT says; level is "error", "warning", "info" or "verbose"."""


SILENT = BuildProgress()
