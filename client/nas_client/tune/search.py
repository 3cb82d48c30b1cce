"""Try settings, one kind after the other, and keep what answers most pictures within a latency."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from ..bench.sweep import Point
from .settings import Settings

LEAST_GAIN = 1.03  # less is noise: the settings stay as they are


@dataclass(frozen=True)
class Tried:
    """Settings, and what was measured of them.

    Attributes:
        points: by load.
    """

    settings: Settings
    points: tuple[Point, ...]

    def within(self, p99_ms: float) -> Point | None:
        """The load with the most pictures per second of those within the latency; None if there is none."""
        return max((p for p in self.points if p.p99_ms <= p99_ms), key=lambda p: p.throughput, default=None)

    def worth(self, p99_ms: float) -> tuple[bool, float]:
        """To be compared: within the latency, pictures per second; else how near the nearest load comes."""
        found = self.within(p99_ms)
        return (True, found.throughput) if found else (False, -min(p.p99_ms for p in self.points))


@dataclass(frozen=True)
class Outcome:
    """Of a search.

    Attributes:
        tried: all, the given settings first.
        best: of them.
        gain: pictures per second of the best, over those of the given settings; measured again, in turn. None if the
            given ones are never within the latency, 0 if the best are not, when they are measured again.
    """

    tried: tuple[Tried, ...]
    best: Tried
    gain: float | None

    @property
    def better(self) -> bool:
        """Whether the best is to be taken: beyond the noise, or within the latency where the given ones are not."""
        return self.best is not self.tried[0] and (self.gain is None or self.gain >= LEAST_GAIN)


def search(
    given: Settings,
    choices: Mapping[str, Sequence[int]],
    p99_ms: float,
    measure: Callable[[Settings], Sequence[Point]],
    again: int = 2,
) -> Outcome:
    """Change one setting at a time, each from the best so far.

    Args:
        given: settings to begin with.
        choices: values to try, by the settings' names, in order.
        p99_ms: the latency to keep.
        measure: serves a model with settings and measures all loads.
        again: rounds in which the given settings and the best are compared.
    """
    tried = [Tried(given, tuple(measure(given)))]
    best = tried[0]
    for name, values in choices.items():
        for value in values:
            settings = replace(best.settings, **{name: value})
            if any(one.settings == settings for one in tried):
                continue
            tried.append(Tried(settings, tuple(measure(settings))))
        best = max(tried, key=lambda one: one.worth(p99_ms))
    return Outcome(tuple(tried), best, _gain(tried[0], best, p99_ms, measure, again))


def _gain(
    given: Tried, best: Tried, p99_ms: float, measure: Callable[[Settings], Sequence[Point]], again: int
) -> float | None:
    if best is given or best.within(p99_ms) is None:
        return 1.0
    rates: dict[Settings, list[float]] = {given.settings: [], best.settings: []}
    for _ in range(again):
        for settings, values in rates.items():
            found = Tried(settings, tuple(measure(settings))).within(p99_ms)
            if found is not None:
                values.append(found.throughput)
    if not rates[best.settings]:
        return 0.0
    if not rates[given.settings]:
        return None
    return statistics.median(rates[best.settings]) / statistics.median(rates[given.settings])
