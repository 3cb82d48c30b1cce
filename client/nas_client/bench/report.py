"""What nas-client bench shows of its measurements: tables, CSV, a plot, and what they were measured on."""

from __future__ import annotations

import csv
import hashlib
import io
import os
import platform
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from nas_ensembles import contract
from rich.table import Column, Table

from .perf_analyzer import Analyzer
from .sweep import ENSEMBLE, WHERE, Change, Contender, Point

_NUMBERS = ("throughput", "p50_ms", "p95_ms", "p99_ms")


def about(
    analyzer: Analyzer, contenders: Sequence[Contender], pictures: Sequence[bytes], shared_memory: str, frames: bool
) -> dict[str, Any]:
    """What a result needs to be compared with another one."""
    models = {}
    for contender in contenders:
        model, transport = contender.detector.model, contender.detector.transport
        keys = (contract.VARIANT, contract.PRECISION, contract.TARGET, contract.CHECKPOINT_SHA256)
        models[contender.label] = {
            "model": model.name,
            "server": str(transport.address),
            "triton": transport.server_version(),
            **{key: model.parameters.get(key) for key in keys},
        }
    return {
        "machine": {"cpu": cpu_name(), "cores": len(os.sched_getaffinity(0)), "system": platform.platform()},
        "versions": {name: metadata.version(name) for name in ("nas-triton", "tritonclient")}
        | {"perf_analyzer": analyzer.version},
        "commit": _commit(),
        "pictures": len(pictures),
        "pictures_sha256": hashlib.sha256(b"".join(pictures)).hexdigest(),
        "shared_memory": shared_memory,
        "frames": frames,
        "targets": models,
    }


def cpu_name() -> str:
    """As the system says."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def _commit() -> str | None:
    """Of the checkout this runs from; None where it is installed, be it inside another project's checkout."""
    here = Path(__file__)

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(here.parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", here.name)
        return git("describe", "--always", "--dirty", "--abbrev=12")
    except (OSError, subprocess.CalledProcessError):
        return None


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What else two measurements differ in, as `about` says: "cores 4 -> 2". Servers and commits may."""

    def flat(one: Mapping[str, Any]) -> dict[str, Any]:
        known = {**one.get("machine", {}), **one.get("versions", {})}
        known |= {key: one.get(key) for key in ("shared_memory", "frames", "pictures", "pictures_sha256")}
        for label, served in one.get("targets", {}).items():
            known |= {f"{label}'s {key}": served.get(key) for key in ("triton", "precision", "checkpoint_sha256")}
        return known

    before, now = flat(old), flat(new)
    return [f"{key} {before[key]} -> {now[key]}" for key in now if key in before and before[key] != now[key]]


def tables(
    measured: Sequence[Point], measured_on: Mapping[str, Any], changes: Mapping[str, Sequence[Change]], against: str
) -> Iterator[str | Table]:
    """A line on what it was measured, and tables, for a console.

    Args:
        measured: points.
        measured_on: from `about`.
        changes: of a point, by its name; may be none.
        against: what they are changes of.
    """
    machine, versions = measured_on["machine"], measured_on["versions"]
    servers = ", ".join(sorted({one["triton"] for one in measured_on["targets"].values()}))
    yield f"{machine['cpu']}, {machine['cores']} cores; Triton {servers}, perf_analyzer {versions['perf_analyzer']}"
    table = Table(Column("model", overflow="fold"), "load")
    for title in ("per s", "p50 ms", "p95 ms", "p99 ms", "±%", "network", "queue", "pre", "engine", "post", "batch"):
        table.add_column(title, justify="right")
    for point in measured:
        table.add_row(
            point.target if point.stage == ENSEMBLE else f"  {point.stage} alone",
            str(point.load),
            *(f"{getattr(point, number):.1f}" for number in _NUMBERS),
            f"{max(point.spread['throughput'], point.spread['p50_ms']) * 50:.0f}" if point.rounds > 1 else "",
            *(f"{point.where[place]:.1f}" if place in point.where else "" for place in WHERE),
            f"{point.batch:.1f}" if point.batch else "",
        )
    yield table
    if changes:
        table = Table(against, *(Column(title, justify="right") for title in ("throughput", "p50", "p95")))
        for key, one in changes.items():
            table.add_row(key, *(_verdict(change) for change in one))
        yield table


def _verdict(change: Change) -> str:
    return f"{change.ratio:.2f} x {change.verdict} (±{change.noise:.0%})"


def to_csv(measured: Sequence[Point]) -> str:
    """A line for each point, after one of titles."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    places = [f"{place}_ms" for place in WHERE]
    writer.writerow(["target", "stage", "load", "value", *_NUMBERS, "mean_ms", *places, "batch"])
    for point in measured:
        numbers = [f"{getattr(point, number):.3f}" for number in (*_NUMBERS, "mean_ms")]
        where = [f"{point.where[place]:.3f}" if place in point.where else "" for place in WHERE]
        batch = f"{point.batch:.3f}" if point.batch else ""
        writer.writerow([point.target, point.stage, point.load.kind, f"{point.load.value:g}", *numbers, *where, batch])
    return text.getvalue()


def draw(measured: Sequence[Point]) -> bytes:
    """Latency over throughput, a line for each contender and stage, as PNG."""
    from matplotlib.figure import Figure  # with the `bench` extra only

    figure = Figure(figsize=(7, 5), layout="constrained")
    axes = figure.add_subplot()
    for series in dict.fromkeys((point.target, point.stage) for point in measured):
        points = [point for point in measured if (point.target, point.stage) == series]
        label = series[0] if series[1] == ENSEMBLE else f"{series[0]}, {series[1]} alone"
        throughput = [point.throughput for point in points]
        (line,) = axes.plot(throughput, [point.p50_ms for point in points], marker="o", label=f"{label}, p50")
        axes.plot(
            throughput, [point.p95_ms for point in points], ls="--", color=line.get_color(), label=f"{label}, p95"
        )
        for point in points:
            axes.annotate(f" {point.load}", (point.throughput, point.p50_ms))
    axes.set(xlabel="pictures per second", ylabel="latency, ms")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(title=f"at each point: {measured[0].load.kind.replace('_', ' ')}")
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=120)
    return image.getvalue()
