"""nas-client bench: load on a served model, by Triton's perf_analyzer."""

from __future__ import annotations

import csv
import io
import json
import os
import platform
import subprocess
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from nas_ensembles import contract, images
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column, Table

from . import bench, formats, perf_analyzer, sources
from .bench import ENSEMBLE, WHERE, Change, Point, Target
from .errors import BenchError
from .perf_analyzer import Load
from .terminal import ERRORS, OUT, ProtocolOption, Timeout, Url, connect, exit_codes

_NUMBERS = ("throughput", "p50_ms", "p95_ms", "p99_ms")
_VERDICTS = {"better": "green", "worse": "red", "same": ""}


def bench_command(
    source: Annotated[
        list[str], typer.Argument(help="Pictures to send in turn: files, folders, globs, URLs, or - for one on stdin.")
    ],
    url: Url = None,
    protocol: ProtocolOption = None,
    model: Annotated[str | None, typer.Option(help="Needed when the server has several.", show_default=False)] = None,
    concurrency: Annotated[str, typer.Option(help="Requests at a time: numbers with commas between.")] = "1,2,4,8",
    request_rate: Annotated[
        str | None, typer.Option(help="Requests per second instead: numbers with commas between.", show_default=False)
    ] = None,
    stages: Annotated[
        bool, typer.Option("--stages", help="Also load preprocess, engine and postprocess, each alone.")
    ] = False,
    compare: Annotated[
        tuple[str, str] | None, typer.Option(help="Two models, in turn, as ratios.", show_default=False)
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(help="URL of another server with the same model, in turn, as ratios.", show_default=False),
    ] = None,
    frames: Annotated[
        bool, typer.Option("--frames", help="Send the pictures decoded, as frames of a video or camera.")
    ] = False,
    shared_memory: Annotated[
        Literal["none", "system", "cuda"], typer.Option(help="How tensors travel; the server must be on this machine.")
    ] = "none",
    rounds: Annotated[int, typer.Option(min=1, help="Of each load; medians count, their spread is the noise.")] = 3,
    window: Annotated[float, typer.Option(min=0.1, help="Seconds of a measurement window; a round takes three.")] = 1.0,
    analyzer: Annotated[
        str | None,
        typer.Option(
            "--perf-analyzer",
            help="The binary, or container. Default: PATH, the tritonclient wheel, NVIDIA's SDK image.",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON; kept in a file it is a baseline.")] = False,
    csv_file: Annotated[Path | None, typer.Option("--csv", help="Write the table there.", show_default=False)] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Write a picture of latency over throughput there.", show_default=False)
    ] = None,
    baseline: Annotated[
        Path | None,
        typer.Option(help="JSON of an earlier run: tells what has changed from noise; worse is exit code 1."),
    ] = None,
    timeout: Timeout = 60.0,
) -> None:
    """Measure throughput and latency under load, and where the time goes.

    Examples: nas-client bench bus.jpg; nas-client bench pictures/ --concurrency 1,4,16 --stages --plot load.png;
    nas-client bench bus.jpg --compare yolo_nas_s_fp16 yolo_nas_s_int8;
    nas-client bench bus.jpg --json > today.json; nas-client bench bus.jpg --baseline today.json
    """
    if compare and (model or against):
        raise typer.BadParameter("takes no --model and no --against", param_hint="--compare")
    loads = _loads(request_rate, "request_rate") if request_rate else _loads(concurrency, "concurrency")
    measured: list[Point] = []
    with exit_codes():
        earlier = _read(baseline) if baseline else {}
        found = perf_analyzer.find(analyzer)
        pictures = [_checked(one) for one in sources.expand(source)]
        asked = [ENSEMBLE, *(contract.STAGES if stages else ())]
        if stages and shared_memory != "none":
            asked.remove("preprocess")
            ERRORS.print(
                "preprocess is not loaded alone: perf_analyzer shares no memory with models of optional inputs"
            )
        targets: list[Target] = []
        with bench.closing(targets):
            for label, place, name in _places(url, against, compare, model):
                detector = connect(place, protocol, name, timeout)
                targets.append(Target(label or detector.model.name, detector, pictures, asked, shared_memory, frames))
            total = len(loads) * len(asked) * len(targets) * rounds
            columns = (TextColumn("{task.description:<40}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            with Progress(*columns, console=ERRORS, disable=not ERRORS.is_terminal, transient=True) as bar:
                task = bar.add_task("bench", total=total)

                def advance(what: str) -> None:
                    bar.update(task, advance=1, description=what)

                for point in bench.sweep(found, targets, loads, rounds, window, advance):
                    measured.append(point)
            about = _about(found, targets, shared_memory, frames)
        changes = _changes(measured, earlier) if baseline else _ratios(measured, targets)
        if csv_file:
            formats.write_atomic(csv_file, _csv(measured).encode())
        if plot:
            formats.write_atomic(plot, _draw(measured))
        if as_json:
            plain = [bench.to_dict(point) for point in measured]
            compared = [
                {"point": key, **{c.metric: {"ratio": c.ratio, "noise": c.noise, "verdict": c.verdict} for c in one}}
                for key, one in changes.items()
            ]
            OUT.print_json(json.dumps({"about": about, "points": plain, "changes": compared}))
        else:
            _print(measured, about, changes, f"against {baseline}" if baseline else "second against first")
    if baseline and any(change.verdict == "worse" for one in changes.values() for change in one):
        raise typer.Exit(1)


def _places(
    url: str | None, against: str | None, compare: tuple[str, str] | None, model: str | None
) -> list[tuple[str | None, str | None, str | None]]:
    """Label, URL and model of each target."""
    if compare:
        return [(name, url, name) for name in compare]
    if against:
        return [(url or os.environ.get("NAS_URL", "localhost"), url, model), (against, against, model)]
    return [(None, url, model)]


def _loads(text: str, kind: Literal["concurrency", "request_rate"]) -> list[Load]:
    option = f"--{kind.replace('_', '-')}"
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        raise typer.BadParameter(f"expected numbers with commas between, got {text!r}", param_hint=option) from None
    if any(value <= 0 or (kind == "concurrency" and value != int(value)) for value in values):
        raise typer.BadParameter(f"expected positive numbers, whole ones of requests at a time, got {text!r}")
    return [Load(kind, value) for value in values]


def _checked(source: sources.Source) -> bytes:
    """A picture's bytes; one that cannot be decoded would be measured as a very quick request."""
    try:
        data = source.read()
        images.decode(data)
    except (OSError, ValueError) as error:
        raise BenchError(f"{source.name}: {error}") from None
    return data


def _about(
    found: perf_analyzer.Analyzer, targets: Sequence[Target], shared_memory: str, frames: bool
) -> dict[str, Any]:
    """What a result needs to be compared with another one."""
    models = {}
    for target in targets:
        model, transport = target.detector.model, target.detector.transport
        keys = (contract.VARIANT, contract.PRECISION, contract.TARGET, contract.CHECKPOINT_SHA256)
        models[target.label] = {
            "model": model.name,
            "server": str(transport.address),
            "triton": transport.server_version(),
            **{key: model.parameters.get(key) for key in keys},
        }
    return {
        "machine": {"cpu": _cpu(), "cores": len(os.sched_getaffinity(0)), "system": platform.platform()},
        "versions": {name: metadata.version(name) for name in ("nas-triton", "tritonclient")}
        | {"perf_analyzer": found.version},
        "commit": _commit(),
        "shared_memory": shared_memory,
        "frames": frames,
        "targets": models,
    }


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def _commit() -> str | None:
    """Of the checkout this runs from; None where it is installed."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() or None


def _key(point: Point) -> str:
    return f"{point.target}, {point.stage}, {point.load.kind} {point.load}"


def _read(path: Path) -> dict[str, Point]:
    try:
        points = json.loads(path.read_text(encoding="utf-8"))["points"]
        return {_key(point): point for point in map(bench.from_dict, points)}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BenchError(f"{path}: is no result of nas-client bench --json: {error}") from None
    except BenchError as error:
        raise BenchError(f"{path}: {error}") from None


def _changes(measured: Sequence[Point], earlier: dict[str, Point]) -> dict[str, list[Change]]:
    found = {_key(new): bench.compare(earlier[_key(new)], new) for new in measured if _key(new) in earlier}
    if not found:
        raise BenchError(
            f"the baseline has none of these loads: {', '.join(map(_key, measured))}. It has: {', '.join(earlier)}"
        )
    return found


def _ratios(measured: Sequence[Point], targets: Sequence[Target]) -> dict[str, list[Change]]:
    """Of the second target against the first."""
    if len(targets) < 2:
        return {}
    first, second = ([point for point in measured if point.target == target.label] for target in targets)
    return {
        f"{new.stage}, {new.load.kind} {new.load}": bench.compare(old, new)
        for old, new in zip(first, second, strict=True)
    }


def _print(measured: Sequence[Point], about: dict[str, Any], changes: dict[str, list[Change]], against: str) -> None:
    machine, versions = about["machine"], about["versions"]
    servers = ", ".join(sorted({one["triton"] for one in about["targets"].values()}))
    OUT.print(
        f"{machine['cpu']}, {machine['cores']} cores; Triton {servers}, perf_analyzer {versions['perf_analyzer']}"
    )
    table = Table(Column("model", overflow="fold"), "load")
    for title in ("per s", "p50 ms", "p95 ms", "p99 ms", "±%", "network", "queue", "pre", "engine", "post", "batch"):
        table.add_column(title, justify="right")
    for point in measured:
        table.add_row(
            point.target if point.stage == ENSEMBLE else f"  {point.stage} alone",
            str(point.load),
            *(f"{getattr(point, number):.1f}" for number in _NUMBERS),
            f"{max(point.spread['throughput'], point.spread['p50_ms']) * 50:.0f}",
            *(f"{point.where[place]:.1f}" if place in point.where else "" for place in WHERE),
            f"{point.batch:.1f}" if point.batch else "",
        )
    OUT.print(table)
    if changes:
        table = Table(against, *(Column(title, justify="right") for title in ("throughput", "p50", "p95")))
        for key, one in changes.items():
            table.add_row(key, *(_verdict(change) for change in one))
        OUT.print(table)


def _verdict(change: Change) -> str:
    return f"{change.ratio:.2f} x {change.verdict} (±{change.noise:.0%})"


def _csv(measured: Sequence[Point]) -> str:
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


def _draw(measured: Sequence[Point]) -> bytes:
    """Latency over throughput, a line for each target and stage, as PNG."""
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
