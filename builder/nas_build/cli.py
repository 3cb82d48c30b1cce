"""nas-build: the only module of the builder that prints."""

from __future__ import annotations

import contextlib
import json
import signal
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer
from nas_ensembles import contract
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Column, Table
from rich.text import Text

from . import build as building
from .errors import BuildError
from .variants import PRECISIONS, VARIANTS

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich")
# Names and paths are printed as they are, never read as markup.
_errors = Console(stderr=True, soft_wrap=True, highlight=False, markup=False, emoji=False)
_out = Console(highlight=False, markup=False, emoji=False, width=None if sys.stdout.isatty() else 120)


class _Display:
    """Progress bars on a terminal, one line per finished step elsewhere."""

    def __init__(self, quiet: bool) -> None:
        self._bars = Progress(
            TextColumn("{task.description:<24}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=_errors,
            disable=quiet,
        )
        self._tasks: dict[str, TaskID] = {}

    def start(self, name: str) -> None:
        """Begin a model: its steps get bars of their own."""
        self._tasks.clear()
        if not self._bars.disable:
            self._bars.console.print(name, style="bold")

    def progress(self, what: str, done: int, total: int) -> None:
        """A step advanced."""
        if what not in self._tasks:
            self._tasks[what] = self._bars.add_task(what, total=total)
        self._bars.update(self._tasks[what], completed=done, total=total)

    def warn(self, message: str) -> None:
        """Something the user should know, once each."""
        self._bars.console.print(Text.assemble(("note: ", "yellow"), message))

    @contextlib.contextmanager
    def live(self) -> Iterator[None]:
        """Show the bars."""
        with self._bars:
            yield


@contextlib.contextmanager
def _exit_codes() -> Iterator[None]:
    """Library errors become one message and exit code 1; Ctrl-C and SIGTERM clean up and become 130."""
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        yield
    except BuildError as error:
        _errors.print(Text.assemble(("error: ", "red"), str(error)))
        raise typer.Exit(1) from None
    except ModuleNotFoundError as error:
        message = f"{error.name} is not installed; nas-build needs it: pip install 'nas-triton[build]'"
        _errors.print(Text.assemble(("error: ", "red"), message))
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        _errors.print("interrupted; nothing half-written is left")
        raise typer.Exit(130) from None


@app.callback(invoke_without_command=True)
def build(
    ctx: typer.Context,
    variant: Annotated[
        Literal["s", "m", "l", "all"] | None,
        typer.Option(help="Default: s, or what the checkpoint file holds.", show_default=False),
    ] = None,
    precision: Annotated[Literal["fp16", "int8", "all"], typer.Option()] = "fp16",
    weights: Annotated[
        str,
        typer.Option(
            help="coco (downloads the official file), demo (bundled), or a .pth, .pt or .safetensors file; "
            "{variant} in a path stands for s, m, l."
        ),
    ] = "coco",
    target: Annotated[
        Literal["auto", "openvino"], typer.Option(help="What the engine file is for; auto is openvino without a GPU.")
    ] = "auto",
    model_repository: Annotated[Path, typer.Option(help="Triton model repository.")] = Path("model_repository"),
    name: Annotated[str | None, typer.Option(help="Default: yolo_nas_VARIANT_PRECISION.", show_default=False)] = None,
    calibration: Annotated[
        Path | None, typer.Option(help="Folder of pictures for int8. Default: the bundled samples.", show_default=False)
    ] = None,
    calibration_pictures: Annotated[int, typer.Option(min=1, help="At most this many, evenly spread.")] = 64,
    max_batch_size: Annotated[int, typer.Option(min=1, max=256)] = contract.DEFAULT_MAX_BATCH_SIZE,
    max_pixels: Annotated[int, typer.Option(min=1, help="Larger pictures are refused.")] = contract.DEFAULT_MAX_PIXELS,
    class_names: Annotated[
        Path | None, typer.Option(help="File with one name per line. Default: the checkpoint's.", show_default=False)
    ] = None,
    processing: Annotated[
        Literal["checkpoint", "coco"], typer.Option(help="Whose preprocessing to compile into the model.")
    ] = "checkpoint",
    force: Annotated[bool, typer.Option("--force", help="Build even if up to date.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print results as JSON.")] = False,
) -> None:
    """Build YOLO-NAS checkpoints into a Triton model repository.

    Examples: [bold]nas-build --weights demo --precision int8[/bold];
    [bold]nas-build --variant all --precision all[/bold];
    [bold]nas-build --weights best.pth --precision int8 --calibration pictures/[/bold]
    """
    if ctx.invoked_subcommand is not None:
        return
    variants = VARIANTS if variant == "all" else (variant or ("s" if weights in ("coco", "demo") else None),)
    precisions = PRECISIONS if precision == "all" else (precision,)
    if name and len(variants) * len(precisions) > 1:
        raise typer.BadParameter("names one model; give one variant and one precision with it", param_hint="--name")
    if name and not name.replace("_", "").replace("-", "").replace(".", "").isalnum():
        raise typer.BadParameter("letters, digits, '.', '_' and '-' only", param_hint="--name")
    if variant == "all" and weights not in ("coco", "demo") and "{variant}" not in weights:
        raise typer.BadParameter("one file holds one variant; write {variant} in the path", param_hint="--weights")
    display = _Display(quiet=as_json)
    reporter = building.Reporter(display.progress, display.warn)
    results = []
    with _exit_codes(), display.live():
        for one_variant in variants:
            for one_precision in precisions:
                options = building.Options(
                    weights=weights,
                    variant=one_variant,
                    precision=one_precision,
                    target="openvino",
                    name=name,
                    model_repository=model_repository,
                    calibration=calibration,
                    calibration_pictures=calibration_pictures,
                    max_batch_size=max_batch_size,
                    max_pixels=max_pixels,
                    class_names=class_names,
                    processing=processing,
                    force=force,
                )
                display.start(
                    f"{name or weights} {one_precision}"
                    if one_variant is None
                    else name or contract.model_name(one_variant, one_precision)
                )
                results.append(building.build(options, reporter))
    if as_json:
        _out.print_json(json.dumps([_summary(result) for result in results]))
    else:
        _print_results(results, model_repository)


def _summary(result: building.Result) -> dict[str, object]:
    manifest = result.manifest
    return {
        "name": result.name,
        "version": result.version,
        "built": result.built,
        "seconds": result.seconds,
        "agreement": manifest["agreement"],
        "files": manifest["files"],
    }


def _print_results(results: list[building.Result], model_repository: Path) -> None:
    table = Table(Column("model", no_wrap=True), "version", "state", "seconds", "max score diff", "detections found")
    for result in results:
        agreement = result.manifest["agreement"]
        table.add_row(
            result.name,
            str(result.version),
            "built" if result.built else "up to date",
            f"{sum(result.seconds.values()):.1f}" if result.built else "",
            f"{agreement['max_score_difference']:.3g}",
            f"{agreement['detections_found']} of {agreement['detections']}",
        )
    _out.print(table)
    _out.print(f"Serve it with: nas-serve --model-repository {model_repository}")


@app.command()
def info(
    num_classes: Annotated[int, typer.Option(min=1)] = 80,
    size: Annotated[int, typer.Option(min=32, help="Side of the square canvas, a multiple of 32.")] = 640,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Print layers, parameters and multiply-accumulates of the variants."""
    if size % 32:
        raise typer.BadParameter(f"must be a multiple of 32, got {size}", param_hint="--size")
    with _exit_codes():
        from . import network
        from .summary import summarize

        summaries = [summarize(network.build(variant, num_classes), size) for variant in VARIANTS]
    if as_json:
        _out.print_json(json.dumps([asdict(summary) for summary in summaries]))
        return
    table = Table("variant", "layers", "parameters", "fused parameters", "GMACs")
    for summary in summaries:
        table.add_row(
            summary.variant.upper(),
            str(summary.layers),
            f"{summary.parameters / 1e6:.2f} M",
            f"{summary.fused_parameters / 1e6:.2f} M",
            f"{summary.gmacs:.1f}",
        )
    _out.print(table)


def main() -> None:
    """Entry point."""
    app()
