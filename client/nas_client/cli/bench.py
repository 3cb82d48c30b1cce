"""nas-client bench: load on a served model, by Triton's perf_analyzer."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from nas_ensembles import contract, images
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ..bench import perf_analyzer, report, sweep
from ..bench.perf_analyzer import Load
from ..bench.sweep import ENSEMBLE, Change, Contender, Point
from ..errors import BenchError, ClientError
from ..media import sources
from ..output import formats
from .terminal import ERRORS, OUT, ProtocolOption, Timeout, Url, connect, exit_codes, writing


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
    window: Annotated[
        float,
        typer.Option(
            min=0.1, help="Seconds of a measurement window, or more if requests take long; a round takes three."
        ),
    ] = 1.0,
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
    """Measure throughput, latency, and where the time goes, under load.

    Examples: nas-client bench bus.jpg; nas-client bench pictures/ --concurrency 1,4,16 --stages --plot load.png;
    nas-client bench bus.jpg --compare yolo_nas_s_fp16 yolo_nas_s_int8;
    nas-client bench bus.jpg --json > today.json; nas-client bench bus.jpg --baseline today.json
    """
    if compare and (model or against):
        raise typer.BadParameter("takes no --model and no --against", param_hint="--compare")
    loads = loads_of(request_rate, "request_rate") if request_rate else loads_of(concurrency, "concurrency")
    with exit_codes():
        earlier = None if baseline is None else _Baseline.read(baseline)
        found = perf_analyzer.find(analyzer)
        pictures = [checked(one) for one in sources.expand(source)]
        asked = [ENSEMBLE, *(contract.STAGES if stages else ())]
        if stages and shared_memory != "none":
            asked.remove("preprocess")
            ERRORS.print(
                "preprocess is not loaded alone: perf_analyzer shares no memory with models of optional inputs"
            )
        with contextlib.ExitStack() as stack:
            contenders: list[Contender] = []
            for label, place, name in _places(url, against, compare, model):
                detector = stack.enter_context(connect(place, protocol, name, timeout))
                contender = Contender(label or detector.model.name, detector, pictures, asked, shared_memory, frames)
                stack.callback(contender.close)
                contenders.append(contender)
            about = report.about(found, contenders, pictures, shared_memory, frames)
            if earlier:
                earlier.check(contenders, loads, about)
            measured, stopped = _measure(found, contenders, loads, rounds, window)
        changes = earlier.changes(measured) if earlier else _ratios(measured, contenders)
        if measured:
            if as_json:
                plain = [sweep.to_dict(point) for point in measured]
                compared = [
                    {
                        "point": key,
                        **{c.metric: {"ratio": c.ratio, "noise": c.noise, "verdict": c.verdict} for c in one},
                    }
                    for key, one in changes.items()
                ]
                OUT.print_json(json.dumps({"about": about, "points": plain, "changes": compared}))
            else:
                against_what = f"against {baseline}" if baseline else "second against first"
                for part in report.tables(measured, about, changes, against_what):
                    OUT.print(part)
            with writing():
                if csv_file:
                    formats.write_atomic(csv_file, report.to_csv(measured).encode())
                if plot:
                    formats.write_atomic(plot, report.draw(measured))
        if stopped:
            raise stopped
    if baseline and any(change.verdict == "worse" for one in changes.values() for change in one):
        raise typer.Exit(1)


def _measure(
    analyzer: perf_analyzer.Analyzer,
    contenders: Sequence[Contender],
    loads: Sequence[Load],
    rounds: int,
    window_s: float,
) -> tuple[list[Point], BaseException | None]:
    """All points, or those before the error or Ctrl-C that ended it, and that."""
    measured: list[Point] = []
    total = len(loads) * len(contenders[0].stages) * len(contenders) * rounds
    columns = (TextColumn("{task.description:<40}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=ERRORS, disable=not ERRORS.is_terminal, transient=True) as bar:
        task = bar.add_task("bench", total=total)

        def advance(what: str) -> None:
            bar.update(task, advance=1, description=what)

        try:
            for point in sweep.sweep(analyzer, contenders, loads, rounds, window_s, advance):
                measured.append(point)
        except (ClientError, KeyboardInterrupt) as error:
            return measured, error
    return measured, None


def _places(
    url: str | None, against: str | None, compare: tuple[str, str] | None, model: str | None
) -> list[tuple[str | None, str | None, str | None]]:
    """Label, URL and model of each contender."""
    if compare:
        return [(name, url, name) for name in compare]
    if against:
        return [(url or os.environ.get("NAS_URL", "localhost"), url, model), (against, against, model)]
    return [(None, url, model)]


def loads_of(text: str, kind: Literal["concurrency", "request_rate"]) -> list[Load]:
    """Of an option: numbers with commas between."""
    option = f"--{kind.replace('_', '-')}"
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        raise typer.BadParameter(f"expected numbers with commas between, got {text!r}", param_hint=option) from None
    if any(value <= 0 or (kind == "concurrency" and value != int(value)) for value in values):
        raise typer.BadParameter(f"expected positive numbers, whole ones of requests at a time, got {text!r}")
    return [Load(kind, value) for value in values]


def checked(source: sources.Source) -> bytes:
    """A picture's bytes; one that cannot be decoded would be measured as a very quick request."""
    try:
        data = source.read()
        images.decode(data)
    except (OSError, ValueError) as error:
        raise BenchError(f"{source.name}: {error}") from None
    return data


def _key(target: str, stage: str, load: Load) -> str:
    return f"{target}, {stage}, {load.kind} {load}"


@dataclass(frozen=True)
class _Baseline:
    """An earlier result: its points by what was measured, and on what."""

    path: Path
    points: dict[str, Point]
    about: dict[str, Any]

    @classmethod
    def read(cls, path: Path) -> _Baseline:
        try:
            result = json.loads(path.read_text(encoding="utf-8"))
            points = [sweep.from_dict(plain) for plain in result["points"]]
            return cls(path, {_key(p.target, p.stage, p.load): p for p in points}, dict(result["about"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BenchError(f"{path}: is no result of nas-client bench --json: {error}") from None
        except BenchError as error:
            raise BenchError(f"{path}: {error}") from None

    def check(self, contenders: Sequence[Contender], loads: Sequence[Load], about: dict[str, Any]) -> None:
        """Before anything is measured: whether it can be compared, and what else is different."""
        asked = [_key(one.label, stage, load) for one in contenders for stage in one.stages for load in loads]
        if not set(asked) & set(self.points):
            raise BenchError(
                f"{self.path}: the baseline has none of these loads: {'; '.join(asked)}. "
                f"It has: {'; '.join(self.points)}"
            )
        for difference in report.differences(self.about, about):
            ERRORS.print(f"{self.path}: not the same as now: {difference}")

    def changes(self, measured: Sequence[Point]) -> dict[str, list[Change]]:
        named = {_key(point.target, point.stage, point.load): point for point in measured}
        return {key: sweep.compare(self.points[key], new) for key, new in named.items() if key in self.points}


def _ratios(measured: Sequence[Point], contenders: Sequence[Contender]) -> dict[str, list[Change]]:
    """Of the second contender against the first."""
    if len(contenders) < 2:
        return {}
    first, second = ([point for point in measured if point.target == contender.label] for contender in contenders)
    return {
        f"{new.stage}, {new.load.kind} {new.load}": sweep.compare(old, new)
        for old, new in zip(first, second, strict=False)  # Ctrl-C may come between the two
    }
