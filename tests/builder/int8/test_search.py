from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
from nas_build.int8.search import Search
from nas_build.options import RANGE_METHODS
from nas_build.progress import BuildProgress

LOSSES = {f"conv{i}": float(i) for i in range(20)}  # of each convolution while it is int8


@dataclass
class Sum:
    """Graphs are what is int8 in them; each convolution adds its own loss."""

    macs: dict[str, int]

    @property
    def observed(self) -> dict[str, Any]:
        return {name: SimpleNamespace(macs=macs) for name, macs in self.macs.items()}

    def grids(self, method: str) -> dict[str, Any]:
        return {f"{method}{name}": None for name in self.macs}

    def graph(self, grids: dict[str, Any], kept: Collection[str] = ()) -> set[str]:
        return set(grids) - set(kept)

    def accuracy(self, graph: set[str]) -> Any:
        return SimpleNamespace(loss=sum(LOSSES[name] for name in graph))

    def disturbance(self, graph: set[str]) -> float:
        return sum(LOSSES.get(name, len(name)) for name in graph)


def search(macs: dict[str, int]) -> Search:
    model: Any = Sum(macs)
    return Search(model, model, BuildProgress())


@pytest.mark.parametrize("budget", [0.0, 1.0, 20.0, 100.0, 189.0])
def test_no_more_is_kept_than_the_budget_needs(budget: float) -> None:
    trial = search(dict.fromkeys(LOSSES, 100))
    grids: Any = dict.fromkeys(LOSSES)
    gains = trial.gains(grids, sum(LOSSES.values()))
    assert gains == LOSSES
    kept = trial.within(budget, grids, gains)
    left = sum(LOSSES.values()) - sum(LOSSES[name] for name in kept)
    assert left <= budget < left + LOSSES[kept[-1]] or (budget == 0 and left == 0)


def test_work_counts_and_no_convolution_is_free() -> None:
    """For the same gain the cheaper one stays in half precision, but a tiny one does not come before all others."""
    macs = {"conv18": 100, "conv19": 1000, "conv1": 1}
    trial, grids = search(macs), dict.fromkeys(macs)
    assert list(trial.within(19.5, grids, {"conv18": 18, "conv19": 19, "conv1": 1})) == ["conv18", "conv19"]  # type: ignore[arg-type]


def test_the_method_that_disturbs_least() -> None:
    trial = search({"x": 1})
    method, disturbances = trial.method("auto")
    assert tuple(disturbances) == RANGE_METHODS and disturbances[method] == min(disturbances.values())
    assert trial.method("percentile-99.99")[0] == "percentile-99.99"
    assert trial.progress.seconds.keys() == {"choose ranges"}
