"""Pods, queues and the autoscaler under a day's traffic: how many are wanted, and how late answers are.

    python benchmarks/simulate.py --json benchmarks/simulate.json --plot docs/simulate.png

What a batch takes was measured (benchmarks/batching.json); traffic, starting times and failures are assumptions, and
options. Nobody is refused here, as a server with deadlines would: who waits too long is counted as late.
"""

from __future__ import annotations

import argparse
import json
import math
from collections import deque
from collections.abc import Generator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import simpy
import yaml
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

ROOT = Path(__file__).parents[1]
CHART = yaml.safe_load((ROOT / "deploy/helm/nas-triton/values.yaml").read_text())["autoscaling"]
CHART |= yaml.safe_load((ROOT / "deploy/helm/nas-triton/values-cpu.yaml").read_text())["autoscaling"]
SYNC_S, WINDOW_S, TOLERANCE = 15.0, 60.0, 0.1  # of the horizontal pod autoscaler, and of the rule that it reads


@dataclass(frozen=True)
class Service:
    """What a pod takes.

    Attributes:
        batch_ms: of the engine, for batches of 1 to the largest.
        rest_ms: of the other stages, of one request.
    """

    batch_ms: tuple[float, ...]
    rest_ms: float

    @classmethod
    def measured(cls, path: Path, largest: int = 8) -> Service:
        """From benchmarks/batching.json, the default settings: between measured batches it is interpolated."""
        points = [one for one in json.loads(path.read_text())["points"] if one["target"] == "default"]
        points = sorted((one for one in points if one["stage"] == "ensemble"), key=lambda one: one["batch"])
        batches = [one["batch"] for one in points]
        engine = np.interp(range(1, largest + 1), batches, [one["where"]["engine"] for one in points])
        where = points[0]["where"]
        return cls(tuple(map(float, engine)), where["network"] + where["preprocess"] + where["postprocess"])

    @property
    def per_s(self) -> float:
        """Requests a second of one pod that has enough of them."""
        return 1000 * len(self.batch_ms) / self.batch_ms[-1]


@dataclass(frozen=True)
class Scaling:
    """The chart's `autoscaling`; with equal limits nothing scales.

    Attributes:
        start_s: from a new pod's beginning to its first answer.
    """

    minimum: int
    maximum: int
    queue_ms: float
    down_s: float = 300.0
    start_s: float = 60.0


@dataclass
class Pod:
    """One engine with its queue: arrival times."""

    ready: float
    queue: deque[float] = field(default_factory=deque)
    waits: deque[tuple[float, float, int]] = field(default_factory=deque)  # when, sum of waits in ms, requests
    lost: bool = False
    ending: bool = False
    wake: Any = None


@dataclass(frozen=True)
class Outcome:
    """Of a run: latencies in ms of every request, pod-hours, and pods over time."""

    latency_ms: NDArray[np.float64]
    pod_hours: float
    times_s: list[float]
    pods: list[int]

    def summary(self) -> dict[str, float]:
        """Percentiles in ms, the share in percent that took more than a second, and pod-hours."""
        p50, p99, p999 = (round(float(value), 1) for value in np.percentile(self.latency_ms, [50, 99, 99.9]))
        late = 100 * float((self.latency_ms > 1000).mean())
        hours = round(self.pod_hours, 1)
        return {"p50_ms": p50, "p99_ms": p99, "p999_ms": p999, "late_percent": round(late, 3), "pod_hours": hours}


def traffic(hours: float, mean_per_s: float, bursts: int, seed: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """A day: quiet at night, twice the mean at its height, and bursts of five minutes of twice what there is.

    Returns:
        Arrivals in seconds, sorted; and requests a second, of each second.
    """
    random = np.random.default_rng(seed)
    seconds = np.arange(round(hours * 3600))
    rate = mean_per_s * (1 - 0.9 * np.cos(2 * np.pi * seconds / 86400))
    for start in random.integers(0, max(1, len(seconds) - 300), bursts):
        rate[start : start + 300] *= 2
    counts = random.poisson(rate)
    arrivals = np.repeat(seconds, counts) + random.random(counts.sum())
    arrivals.sort()
    return arrivals, rate


def run(service: Service, scaling: Scaling, arrivals: NDArray[np.float64], losses: int = 0, seed: int = 0) -> Outcome:
    """Simulate; requests go to ready pods in turn.

    Args:
        service: of each pod.
        scaling: how many.
        arrivals: in seconds, sorted.
        losses: how often the node of a pod is lost; its requests are asked again after half a second.
        seed: of the losses.
    """
    world = simpy.Environment()
    end = float(arrivals[-1]) + 1
    pods = [Pod(0.0) for _ in range(scaling.minimum)]
    latency: list[float] = []
    times, counts = [0.0], [len(pods)]
    hours = 0.0
    turn = 0

    def engine(pod: Pod) -> Generator[Any, Any, None]:
        if pod.ready > world.now:
            yield world.timeout(pod.ready - world.now)
        while not pod.lost:
            if not pod.queue:
                if pod.ending:
                    return
                pod.wake = world.event()
                yield pod.wake
                continue
            batch = [pod.queue.popleft() for _ in range(min(len(pod.queue), len(service.batch_ms)))]
            started = world.now
            pod.waits.append((started, 1000 * sum(started - arrived for arrived in batch), len(batch)))
            yield world.timeout(service.batch_ms[len(batch) - 1] / 1000)
            if pod.lost:
                world.process(again(batch))
                return
            latency.extend(1000 * (world.now - arrived) + service.rest_ms for arrived in batch)

    def give(arrived: float) -> None:
        nonlocal turn
        able = [pod for pod in pods if pod.ready <= world.now and not pod.ending]
        if not able:  # clients ask again
            world.process(again([arrived]))
            return
        turn += 1
        pod = able[turn % len(able)]
        pod.queue.append(arrived)
        rouse(pod)

    def rouse(pod: Pod) -> None:
        if pod.wake is not None and not pod.wake.triggered:
            pod.wake.succeed()

    def again(batch: list[float]) -> Generator[Any, Any, None]:
        yield world.timeout(0.5)
        for arrived in batch:
            give(arrived)

    def clients() -> Generator[Any, Any, None]:
        for arrived in arrivals:
            yield world.timeout(max(0.0, float(arrived) - world.now))
            give(float(arrived))

    def start(delay: float) -> None:
        pod = Pod(world.now + delay)
        pods.append(pod)
        world.process(engine(pod))

    def autoscaler() -> Generator[Any, Any, None]:
        nonlocal hours
        recommended: deque[tuple[float, int]] = deque()
        last_down = last_up = -math.inf
        while True:
            yield world.timeout(SYNC_S)
            hours += len(pods) * SYNC_S / 3600
            times.append(world.now)
            counts.append(len(pods))
            means = []
            for pod in pods:
                while pod.waits and pod.waits[0][0] < world.now - WINDOW_S:
                    pod.waits.popleft()
                if pod.ready <= world.now:
                    means.append(sum(one[1] for one in pod.waits) / max(1, sum(one[2] for one in pod.waits)))
            ratio = float(np.mean(means)) / scaling.queue_ms if means else 1.0
            wanted = len(pods) if abs(ratio - 1) <= TOLERANCE else math.ceil(len(means) * ratio)
            recommended.append((world.now, min(max(wanted, scaling.minimum), scaling.maximum)))
            while recommended[0][0] < world.now - scaling.down_s:
                recommended.popleft()
            goal = recommended[-1][1]
            if goal > len(pods) and world.now - last_up >= 60:  # at most twice as many a minute
                last_up = world.now
                for _ in range(min(goal, 2 * len(pods)) - len(pods)):
                    start(scaling.start_s)
            elif max(count for _, count in recommended) < len(pods) and world.now - last_down >= 60:  # one a minute
                last_down = world.now
                gone = pods.pop()
                gone.ending = True
                rouse(gone)

    def failures() -> Generator[Any, Any, None]:
        for when in sorted(np.random.default_rng(seed).uniform(0, end, losses)):
            yield world.timeout(max(0.0, when - world.now))
            gone = pods.pop(0)
            gone.lost = True
            world.process(again(list(gone.queue)))
            gone.queue.clear()
            rouse(gone)
            start(scaling.start_s)

    for pod in pods:
        world.process(engine(pod))
    world.process(clients())
    world.process(autoscaler())
    world.process(failures())
    world.run(until=end)
    while len(latency) < len(arrivals):
        world.run(until=world.now + 1)
    return Outcome(np.array(latency), hours, times, counts)


def plot(path: Path, rows: list[dict[str, Any]], rate: NDArray[np.float64], shown: Outcome, per_s: float) -> None:
    """Lateness over cost, and the chart's default over the day."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4.5), layout="constrained")
    cost, day = figure.subplots(ncols=2)
    for kind, marker in (("fixed", "o"), ("scaled", "s")):
        chosen = [row for row in rows if row["kind"] == kind]
        cost.plot([row["pod_hours"] for row in chosen], [row["p99_ms"] for row in chosen], marker, label=kind)
        for row in chosen:
            cost.annotate(f" {row['name']}", (row["pod_hours"], row["p99_ms"]), fontsize=8)
    cost.set(xlabel="pod-hours", ylabel="p99, ms", yscale="log", title="What answers in time costs")
    cost.legend()
    minutes = rate[: len(rate) // 60 * 60].reshape(-1, 60).mean(axis=1)
    day.plot(
        np.arange(len(minutes)) / 60, minutes / per_s, label="requests a second, in those of a busy pod", linewidth=0.8
    )
    day.step(np.array(shown.times_s) / 3600, shown.pods, label="pods of the chart's default", where="post")
    day.set(xlabel="hour", ylabel="pods", title="A day")
    day.legend(loc="upper left")
    figure.savefig(path, dpi=110)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hours", type=float, default=24)
    parser.add_argument("--mean", type=float, default=60, help="requests a second, over the day")
    parser.add_argument("--bursts", type=int, default=12)
    parser.add_argument("--losses", type=int, default=3, help="of nodes")
    parser.add_argument("--start", type=float, default=60, help="seconds until a new pod answers")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    given = parser.parse_args()
    service = Service.measured(ROOT / "benchmarks/batching.json")
    arrivals, rate = traffic(given.hours, given.mean, given.bursts, given.seed)
    chart = Scaling(
        CHART["minReplicas"], CHART["maxReplicas"], CHART["queueMilliseconds"], CHART["scaleDownSeconds"], given.start
    )
    peak = math.ceil(rate.max() / service.per_s)
    kinds = [
        ("fixed", f"{count} pods", replace(chart, minimum=count, maximum=count)) for count in range(peak - 2, peak + 3)
    ]
    kinds += [("scaled", f"{ms:g} ms", replace(chart, queue_ms=ms)) for ms in (10, chart.queue_ms, 50, 100)]
    rows, shown = [], None
    for kind, name, scaling in track(kinds, "simulate", console=Console(stderr=True)):
        if scaling.minimum < 1:
            continue
        outcome = run(service, scaling, arrivals, given.losses, given.seed)
        rows.append({"kind": kind, "name": name, **asdict(scaling), **outcome.summary()})
        if scaling == chart:
            shown = outcome
    table = Table("pods", "p50_ms", "p99_ms", "p999_ms", "late_percent", "pod_hours")
    for row in rows:
        table.add_row(f"{row['kind']}, {row['name']}", *(str(row[str(column.header)]) for column in table.columns[1:]))
    Console().print(table)
    result = {
        "requests": len(arrivals),
        "mean_per_s": given.mean,
        "peak_per_s": round(float(rate.max()), 1),
        "pod_per_s": round(service.per_s, 1),
        "assumed": {"start_s": given.start, "bursts": given.bursts, "losses": given.losses, "hours": given.hours},
        "rows": rows,
    }
    if given.json:
        given.json.write_text(json.dumps(result, indent=2) + "\n")
    if given.plot and shown is not None:
        plot(given.plot, rows, rate, shown, service.per_s)


if __name__ == "__main__":
    main()
