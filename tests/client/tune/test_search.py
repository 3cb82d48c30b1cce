"""The search where the best is known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from nas_client.bench.perf_analyzer import Load
from nas_client.bench.sweep import Point
from nas_client.tune.search import Outcome, search
from nas_client.tune.settings import Settings

GIVEN = Settings(max_batch_size=8, queue_delay_us=0, instances=1)
CHOICES = {"max_batch_size": [1, 4, 8], "queue_delay_us": [0, 500, 2000], "instances": [1, 2]}


def point(settings: Settings, in_flight: int, throughput: float, p99_ms: float) -> Point:
    times: dict[str, Any] = dict.fromkeys(("p50_ms", "p95_ms", "mean_ms"), p99_ms / 2)
    load = Load("concurrency", in_flight)
    return Point(
        str(settings), "ensemble", load, throughput, **times, p99_ms=p99_ms, where={}, batch=None, spread={}, rounds=1
    )


def machine(settings: Settings) -> list[Point]:
    """One that likes batches of 4 and two instances; delays cost latency, and so do requests beside each other."""
    rate = {1: 50.0, 4: 90.0, 8: 80.0}[settings.max_batch_size] * (1.2 if settings.instances == 2 else 1.0)
    latency = 10.0 + settings.queue_delay_us / 100
    return [point(settings, n, rate * n / (n + 1), latency + 5 * n) for n in (1, 2, 8)]


def found(p99_ms: float, measure: Callable[[Settings], list[Point]] = machine) -> Outcome:
    return search(GIVEN, CHOICES, p99_ms, measure)


def test_the_best_is_found_and_nothing_is_tried_twice() -> None:
    asked = []

    def measure(settings: Settings) -> list[Point]:
        asked.append(settings)
        return machine(settings)

    outcome = found(60.0, measure)
    assert outcome.best.settings == Settings(4, 0, 2) and outcome.better
    assert outcome.gain == pytest.approx(90 * 1.2 / 80)
    assert outcome.tried[0].settings == GIVEN and len({one.settings for one in outcome.tried}) == len(outcome.tried)
    assert asked[len(outcome.tried) :] == [GIVEN, outcome.best.settings] * 2  # the comparison, in turn


def test_only_loads_within_the_latency_count() -> None:
    outcome = found(21.0)
    best = outcome.best.within(21.0)
    assert best is not None and best.load.value == 2 and best.p99_ms == 20.0


def test_what_is_within_the_latency_is_better_than_what_is_quick() -> None:
    given = Settings(8, 2000, 1)  # at least 35 ms
    outcome = search(given, CHOICES, 30.0, machine)
    assert outcome.better and outcome.gain is None and outcome.best.settings.queue_delay_us < 2000


def test_nothing_is_within_the_latency() -> None:
    outcome = found(5.0)
    assert outcome.best.within(5.0) is None and not outcome.better


def test_a_gain_that_is_noise_changes_nothing() -> None:
    times = 0

    def lucky_once(settings: Settings) -> list[Point]:
        nonlocal times
        times += 1
        return [point(settings, 1, 100.0 + (settings.instances == 2 and times < 8), 10.0)]

    assert not found(60.0, lucky_once).better


def test_what_was_within_the_latency_by_chance_is_not_taken() -> None:
    seen: set[Settings] = set()

    def quick_once(settings: Settings) -> list[Point]:
        again = settings in seen
        seen.add(settings)
        quick = settings == GIVEN or (settings.max_batch_size == 4 and not again)
        return [point(settings, 1, 50.0 if settings == GIVEN else 90.0, 10.0 if quick else 100.0)]

    outcome = found(20.0, quick_once)
    assert outcome.best.settings.max_batch_size == 4 and outcome.gain == 0.0 and not outcome.better
