"""nas-client tune: the settings of a model that answer most pictures within a latency."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from ..bench import perf_analyzer, report, sweep
from ..bench.sweep import Contender, Point
from ..errors import ModelUnavailable
from ..media import sources
from ..output import formats
from ..tune import search, served
from ..tune.search import Outcome
from ..tune.settings import Settings, copied, models
from .bench import checked, loads_of
from .terminal import ERRORS, OUT, Url, connect, exit_codes, writing

_TIMEOUT_S = 60.0


def tune(
    source: Annotated[list[str], typer.Argument(help="Pictures to send in turn: files, folders, globs, URLs.")],
    p99: Annotated[str, typer.Option("--p99", help="99 of 100 requests are to be answered within this: 20ms, 0.5s.")],
    model_repository: Annotated[Path, typer.Option(help="Has the model; its configs are changed at the end.")] = Path(
        "model_repository"
    ),
    model: Annotated[
        str | None, typer.Option(help="Needed when the repository has several.", show_default=False)
    ] = None,
    batch: Annotated[
        str | None, typer.Option(help="Largest batches to try. Default: 1, half, and what it has.", show_default=False)
    ] = None,
    queue_delay_us: Annotated[str, typer.Option(help="How long the engine waits for a batch to fill.")] = "0,500,2000",
    instances: Annotated[str, typer.Option(help="Of the engine.")] = "1,2",
    concurrency: Annotated[str, typer.Option(help="Requests at a time: numbers with commas between.")] = "1,2,4,8,16",
    serve: Annotated[
        str | None,
        typer.Option(
            help="Command that serves MODEL_REPOSITORY at --url until it is interrupted. Default: nas-serve.",
            show_default=False,
        ),
    ] = None,
    url: Url = None,
    window: Annotated[float, typer.Option(min=0.1, help="Seconds of a measurement window; three are taken.")] = 0.8,
    analyzer: Annotated[
        str | None, typer.Option("--perf-analyzer", help="The binary, or container.", show_default=False)
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Change nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
    plot: Annotated[
        Path | None, typer.Option(help="Write a picture of latency over throughput there.", show_default=False)
    ] = None,
) -> None:
    """Find settings that answer most pictures within a latency.

    Batch, delay and instances are tried, each on a server of its own with a copy of the model; the best is compared
    with what was there once more, in turn, and written into the model's configs if it is better.

    Examples: nas-client tune pictures/ --p99 100ms; nas-client tune pictures/ --p99 20ms --serve 'docker compose up'
    """
    p99_ms = _milliseconds(p99)
    loads = loads_of(concurrency, "concurrency")
    if url and not serve:
        raise typer.BadParameter("goes with --serve: nas-serve is started on a port of its own", param_hint="--url")
    choices = {
        "max_batch_size": _numbers(batch, "--batch") if batch else [],
        "queue_delay_us": _numbers(queue_delay_us, "--queue-delay-us", least=0),
        "instances": _numbers(instances, "--instances"),
    }
    with exit_codes(), contextlib.ExitStack() as stack:
        found = perf_analyzer.find(analyzer)
        pictures = [checked(one) for one in sources.expand(source)]
        name = model or _only_model(model_repository)
        given = Settings.read(model_repository, name)
        choices["max_batch_size"] = choices["max_batch_size"] or [1, max(1, given.max_batch_size // 2)]
        repository = stack.enter_context(copied(model_repository, name))
        columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
        bar = stack.enter_context(
            Progress(*columns, console=ERRORS, disable=not ERRORS.is_terminal, transient=True, redirect_stdout=False)
        )
        task = bar.add_task("tune", total=None)

        def measure(settings: Settings) -> list[Point]:
            bar.update(task, description=f"{settings}: starts")
            settings.write(repository, name)
            server = served.by_command(serve, repository, url) if serve else served.by_nas_serve(repository, name)
            with server as (place, ended):
                detector = served.ready(lambda: connect(place, None, name, _TIMEOUT_S), settings, ended)
                with contextlib.closing(Contender(str(settings), detector, pictures)) as contender:
                    bar.update(task, description=f"{settings}: measured")
                    return list(sweep.sweep(found, [contender], loads, 1, window))

        outcome = search.search(given, choices, p99_ms, measure)
        written = outcome.better and not dry_run
        if written:
            outcome.best.settings.write(model_repository, name)
        points = [point for one in outcome.tried for point in one.points]
        if as_json:
            OUT.print_json(json.dumps(_plain(outcome, name, p99_ms, written)))
        else:
            OUT.print(_table(outcome, p99_ms))
            OUT.print(_verdict(outcome, p99_ms, dry_run), soft_wrap=True)
        if plot:
            with writing():
                formats.write_atomic(plot, report.draw(points))


def _milliseconds(text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(ms|s)?", text.strip())
    if match is None or not float(match[1]):
        raise typer.BadParameter(f"expected a time as 20ms or 0.5s, got {text!r}", param_hint="--p99")
    return float(match[1]) * (1000 if match[2] == "s" else 1)


def _numbers(text: str, option: str, least: int = 1) -> Sequence[int]:
    try:
        values = list(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError:
        values = []
    if not values or min(values) < least:
        expected = f"expected whole numbers from {least} with commas between"
        raise typer.BadParameter(f"{expected}, got {text!r}", param_hint=option)
    return values


def _only_model(repository: Path) -> str:
    names = models(repository)
    if len(names) != 1:
        has = f"has {', '.join(names)}: name one with --model" if names else "has no model that nas-build has built"
        raise ModelUnavailable(f"{repository} {has}")
    return names[0]


def _table(outcome: Outcome, p99_ms: float) -> Table:
    table = Table("settings", "pictures/s", "at a time", "p99, ms", title=f"p99 within {p99_ms:g} ms")
    for one in outcome.tried:
        point = one.within(p99_ms)
        nearest = point or min(one.points, key=lambda p: p.p99_ms)
        mark = (" (given)" if one is outcome.tried[0] else "") + (" (best)" if one is outcome.best else "")
        rate = f"{point.throughput:.1f}" if point else "-"
        table.add_row(f"{one.settings}{mark}", rate, str(nearest.load), f"{nearest.p99_ms:.1f}")
    return table


def _verdict(outcome: Outcome, p99_ms: float, dry_run: bool) -> str:
    given, best = outcome.tried[0].settings, outcome.best.settings
    if outcome.best.within(p99_ms) is None:
        return f"Nothing is within {p99_ms:g} ms, not even one request at a time. Nothing was changed."
    if not outcome.better:
        return f"Nothing is better than what it has, beyond the noise: {given}. Nothing was changed."
    gain = (
        f"{outcome.gain:.2f} times as many pictures" if outcome.gain else f"within {p99_ms:g} ms, as it was not before"
    )
    done = "Nothing was changed, as --dry-run says" if dry_run else "Written; a server that runs has to start again"
    return f"{best} instead of {given}: {gain}, measured again in turn. {done}."


def _plain(outcome: Outcome, name: str, p99_ms: float, written: bool) -> dict[str, object]:
    return {
        "model": name,
        "p99_ms": p99_ms,
        "given": asdict(outcome.tried[0].settings),
        "best": asdict(outcome.best.settings),
        "gain": outcome.gain,
        "written": written,
        "tried": [
            {"settings": asdict(one.settings), "points": [sweep.to_dict(point) for point in one.points]}
            for one in outcome.tried
        ],
    }
