"""The simulation where the answer is known."""

from __future__ import annotations

import importlib.util
import sys
from typing import Any

import numpy as np
import pytest

from support.samples import ROOT

pytest.importorskip("simpy", reason="simpy is not installed")


@pytest.fixture(scope="module")
def simulate() -> Any:
    spec = importlib.util.spec_from_file_location("simulate", ROOT / "benchmarks/simulate.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["simulate"] = module
    spec.loader.exec_module(module)
    return module


def poisson(per_s: float, seconds: float) -> Any:
    random = np.random.default_rng(1)
    return np.sort(random.uniform(0, seconds, random.poisson(per_s * seconds)))


@pytest.mark.parametrize("load", [0.3, 0.6, 0.8])
def test_one_pod_without_batches_is_an_md1_queue(load: float, simulate: Any) -> None:
    """Pollaczek and Khinchine: the mean wait is load / (2 (1 - load)) of the service time."""
    service = simulate.Service((20.0,), 0.0)
    outcome = simulate.run(service, simulate.Scaling(1, 1, 1e9), poisson(50 * load, 4000))
    assert outcome.latency_ms.mean() - 20 == pytest.approx(20 * load / (2 * (1 - load)), rel=0.08)


def test_batches_raise_what_a_pod_can_take(simulate: Any) -> None:
    arrivals = poisson(80, 300)
    alone = simulate.run(simulate.Service((20.0,), 0.0), simulate.Scaling(1, 1, 1e9), arrivals)
    batched = simulate.run(simulate.Service((20.0, 24.0, 28.0, 32.0), 0.0), simulate.Scaling(1, 1, 1e9), arrivals)
    assert alone.latency_ms.max() > 60_000 and batched.latency_ms.max() < 500  # of 50 and of 125 a second


def test_the_autoscaler_follows_the_traffic_and_goes_back(simulate: Any) -> None:
    service = simulate.Service((20.0,), 0.0)
    rush = poisson(120, 900)
    arrivals = np.concatenate([rush, 900 + poisson(10, 1800)])
    outcome = simulate.run(service, simulate.Scaling(1, 8, 20.0), arrivals)
    assert 3 <= max(outcome.pods) <= 8 and outcome.pods[-1] <= 2
    assert len(outcome.latency_ms) == len(arrivals)
    fixed = simulate.run(service, simulate.Scaling(8, 8, 20.0), arrivals)
    assert outcome.pod_hours < 0.6 * fixed.pod_hours


def test_requests_of_a_lost_node_are_answered_by_others(simulate: Any) -> None:
    service = simulate.Service((20.0,), 0.0)
    arrivals = poisson(60, 600)
    outcome = simulate.run(service, simulate.Scaling(2, 2, 1e9), arrivals, losses=5)
    assert len(outcome.latency_ms) == len(arrivals) and outcome.latency_ms.max() > 500


def test_what_was_measured_is_taken(simulate: Any) -> None:
    service = simulate.Service.measured(ROOT / "benchmarks/batching.json")
    assert len(service.batch_ms) == 8 and service.batch_ms[7] > service.batch_ms[0] > 5
    assert 10 < service.per_s < 1000 and 0 < service.rest_ms < 50
