"""nas-client: its commands. Only the `cli` modules and `terminal` print."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from collections.abc import Collection, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import cv2
import typer
from nas_ensembles import contract, images
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column, Table

from . import cli_bench, cli_val, formats, sources
from .detector import Outcome
from .draw import annotate
from .errors import ClientError
from .sources import Source
from .terminal import ERRORS, OUT, ProtocolOption, Timeout, Url, connect, exit_codes, print_error

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True)
app.command()(cli_val.val)
app.command("bench")(cli_bench.bench_command)


@app.command()
def detect(
    source: Annotated[
        list[str], typer.Argument(help="Pictures: files, folders, globs, URLs, or - for standard input.")
    ],
    url: Url = None,
    protocol: ProtocolOption = None,
    model: Annotated[str | None, typer.Option(help="Needed when the server has several.", show_default=False)] = None,
    score_threshold: Annotated[
        float | None, typer.Option(min=0, max=1, help="Default: the model's.", show_default=False)
    ] = None,
    iou_threshold: Annotated[
        float | None, typer.Option(min=0, max=1, help="Default: the model's.", show_default=False)
    ] = None,
    max_detections: Annotated[
        int | None, typer.Option(min=1, max=contract.DETECTIONS, help="Per picture.", show_default=False)
    ] = None,
    format: Annotated[formats.Format, typer.Option(help="What to print.")] = "table",
    output: Annotated[
        Path | None,
        typer.Option(help="Write there instead of printing; for yolo a folder of label files.", show_default=False),
    ] = None,
    save: Annotated[Path | None, typer.Option(help="Folder for annotated pictures.", show_default=False)] = None,
    in_flight: Annotated[int, typer.Option(min=1, max=64, help="Requests at a time.")] = 4,
    timeout: Timeout = 60.0,
) -> None:
    """Detect objects in pictures.

    Examples: nas-client detect bus.jpg; nas-client detect pictures/ --save out/ --format jsonl;
    cat bus.jpg | nas-client detect -
    """
    listed = sources.expand(source)
    found: list[formats.Found] = []
    failed = 0
    with exit_codes(), connect(url, protocol, model, timeout) as detector:
        class_names = detector.class_names  # and one clear error if there is no such server or model
        outcomes = detector.detect_many(
            listed,
            Source.read,
            in_flight=in_flight,
            score_threshold=score_threshold,
            iou_threshold=iou_threshold,
            max_detections=max_detections,
        )
        names = _Names()
        try:
            for outcome in _progress(outcomes, len(listed)):
                try:
                    found.append(_finish(outcome, save, names))
                except (ClientError, OSError, ValueError) as error:
                    failed += 1
                    print_error(f"{outcome.item.name}: {error}")
        finally:
            _write(found, format, output, class_names)  # what was answered, also on Ctrl-C
    if failed:
        ERRORS.print(f"{failed} of {len(listed)} pictures failed")
        raise typer.Exit(1)


@app.command()
def models(
    url: Url = None,
    protocol: ProtocolOption = None,
    timeout: Timeout = 60.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON, with all parameters.")] = False,
) -> None:
    """List what the server has, its state and its parameters."""
    with exit_codes(), connect(url, protocol, None, timeout) as detector:
        listed = detector.models()
    if as_json:
        OUT.print_json(json.dumps([asdict(model) for model in listed]))
        return
    table = Table(Column("model", no_wrap=True), "version", "state", "kind", "batch", "parameters")
    for model in listed:
        text = model.reason or "\n".join(
            f"{key}: {_short(key, value)}" for key, value in sorted(model.parameters.items())
        )
        batch = str(model.max_batch_size) if model.state == "READY" else ""
        table.add_row(model.name, model.version, model.state, model.platform, batch, text)
        table.add_section()
    OUT.print(table)


def _short(key: str, value: Any) -> str:
    """A parameter's value in a few words."""
    if key == contract.CLASS_NAMES:
        return f"{len(value)}: {', '.join(value[:3])}, ..."
    if isinstance(value, dict):
        return ", ".join(f"{name} {_short(name, part)}" for name, part in value.items())
    text = "x".join(map(str, value)) if isinstance(value, list) else str(value)
    return f"{text[:12]}..." if key == contract.CHECKPOINT_SHA256 else text


def _progress(outcomes: Iterator[Outcome[Source]], total: int) -> Iterator[Outcome[Source]]:
    """A bar on a terminal when there is more than one picture."""
    columns = (TextColumn("detect"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    shown = total > 1 and ERRORS.is_terminal
    with contextlib.closing(outcomes), Progress(*columns, console=ERRORS, disable=not shown, transient=True) as bar:  # type: ignore[type-var]
        task = bar.add_task("detect", total=total)
        for outcome in outcomes:
            bar.advance(task)
            yield outcome


class _Names:
    """File names for what is saved; a name that was used gets a number."""

    def __init__(self) -> None:
        self._used: set[str] = set()

    def take(self, file_name: str, suffixes: Collection[str], default: str) -> str:
        path = Path(file_name)
        suffix = path.suffix if path.suffix.lower() in suffixes else default
        name, number = f"{path.stem}{suffix}", 2
        while name in self._used:
            name, number = f"{path.stem}_{number}{suffix}", number + 1
        self._used.add(name)
        return name


def _finish(outcome: Outcome[Source], save: Path | None, names: _Names) -> formats.Found:
    """The result of a picture that was answered, drawn and saved if asked for; raises its error otherwise."""
    if outcome.error is not None or outcome.detections is None:
        raise outcome.error or ClientError("no answer")
    image = images.decode(outcome.data)
    if save is not None:
        target = save / names.take(outcome.item.file_name, images.SUFFIXES, ".jpg")
        drawn = annotate(image, outcome.detections)
        formats.write_atomic(target, cv2.imencode(target.suffix, drawn[..., ::-1])[1].tobytes())
    return formats.Found(outcome.item, (image.shape[1], image.shape[0]), outcome.detections)


def _write(
    found: list[formats.Found], format: formats.Format, output: Path | None, class_names: tuple[str, ...]
) -> None:
    if format == "table":
        console = OUT
        if output is not None:
            console = Console(file=io.StringIO(), width=120, markup=False, emoji=False)
        if found:
            console.print(_table(found))
        if output is not None:
            formats.write_atomic(output, console.file.getvalue().encode())  # type: ignore[attr-defined]
        return
    if format == "yolo" and output is not None:
        names = _Names()
        for one in found:
            lines = formats.yolo_lines(one)
            name = names.take(Path(one.source.file_name).stem, {".txt"}, ".txt")
            formats.write_atomic(output / name, "".join(f"{line}\n" for line in lines).encode())
        return
    text = formats.WRITERS[format](found, class_names)
    if output is not None:
        formats.write_atomic(output, f"{text}\n".encode())
    elif text:
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()


def _table(found: list[formats.Found]) -> Table:
    table = Table(Column("picture", overflow="fold"), "object", "score", "left", "top", "right", "bottom")
    for column in table.columns[2:]:
        column.justify = "right"
    for one in found:
        plain = one.detections.to_dict()
        picture = one.source.name
        for box, score, name in zip(plain["boxes_xyxy"], plain["scores"], plain["names"], strict=True):
            table.add_row(picture, name, f"{score:.2f}", *(f"{value:.0f}" for value in box))
            picture = ""
        if not len(one.detections):
            table.add_row(picture, "nothing found", *[""] * 5, style="dim")
        table.add_section()
    return table


def main() -> None:
    """Entry point."""
    app()
