"""nas-build export: a checkpoint as a file of another runtime."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.table import Table

from ..errors import OptionError
from ..exports import FORMATS
from ..exports.options import ExportOptions, parse_batch, parse_size
from .display import Display
from .flags import flag
from .terminal import OUT, exit_codes

if TYPE_CHECKING:
    from ..exports.run import ExportResult

    _FormatName = str
else:
    _FormatName = Literal[tuple(FORMATS)]
_FORMATS = "; ".join(f"{name}: {row.description}" for name, row in FORMATS.items())


def export(
    format: Annotated[_FormatName, typer.Option(help=f"{_FORMATS}.", show_default=False)],
    checkpoint: Annotated[
        str | None,
        typer.Argument(help="A .pth, .pt or .safetensors file, or what --weights takes.", show_default=False),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="File. Default: CHECKPOINT_FORMAT.onnx here.", show_default=False)
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(
            help="Canvas in pixels, multiples of 32: 640, or 384x640 (height x width). Default: the checkpoint's; "
            "frigate: 320.",
            show_default=False,
        ),
    ] = None,
    batch: Annotated[
        str | None,
        typer.Option(
            help="Pictures at once: a number, or dynamic. Default: 1; deepstream: dynamic.", show_default=False
        ),
    ] = None,
    score_threshold: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Default: the checkpoint's; frigate: 0.4.", show_default=False),
    ] = None,
    iou_threshold: Annotated[
        float | None, typer.Option(min=0, max=1, help="Default: the checkpoint's.", show_default=False)
    ] = None,
    max_detections: Annotated[
        int | None, typer.Option(min=1, max=300, help="In a picture. Default: 300.", show_default=False)
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(help="coco, demo, hf://..., https://... or a file, as of nas-build.", show_default=False),
    ] = None,
    variant: Annotated[
        Literal["s", "m", "l"] | None, typer.Option(help="Of the official weights.", show_default=False)
    ] = None,
    sha256: Annotated[str | None, typer.Option(help="What the weights' file has to be.", show_default=False)] = None,
    class_names: Annotated[
        Path | None, typer.Option(help="File with one name per line. Default: the checkpoint's.", show_default=False)
    ] = None,
    processing: Annotated[
        Literal["checkpoint", "coco"], typer.Option(help="Whose preprocessing to compile into the graph.")
    ] = "checkpoint",
    force: Annotated[bool, typer.Option("--force", help="Write over files that are there.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Export a checkpoint for another runtime.

    It is compared with PyTorch before it is written.

    Examples: nas-build export best.pth --format frigate; nas-build export demo --format onnx --size 320
    """
    if (checkpoint is None) == (weights is None):
        raise typer.BadParameter("give one checkpoint", param_hint="CHECKPOINT or --weights")
    try:
        options = ExportOptions(
            weights=checkpoint or weights or "",
            format=format,
            output=output,
            size_hw=parse_size(size) if size else None,
            batch=parse_batch(batch) if batch else None,
            score_threshold=score_threshold,
            iou_threshold=iou_threshold,
            max_detections=max_detections,
            variant=variant,
            sha256=sha256,
            class_names=class_names,
            processing=processing,
            force=force,
        )
    except OptionError as error:
        raise typer.BadParameter(str(error), param_hint=", ".join(map(flag, error.options))) from None
    display = Display(quiet=as_json, verbose=False)
    with exit_codes(), display.live():
        from ..exports import run

        result = run.export(options, display.model(f"{options.weights} {format}"))
    if as_json:
        OUT.print_json(json.dumps(_as_dict(result)))
        return
    _print(result)


def _as_dict(result: ExportResult) -> dict[str, Any]:
    return {**asdict(result), "files": [str(file) for file in result.files]}


def _print(result: ExportResult) -> None:
    agreement = result.agreement
    table = Table("input", "outputs", "detections", "max score diff", "max box diff")
    table.add_row(
        _lines(result.inputs),
        _lines(result.outputs),
        f"{agreement.detections}, as PyTorch's",
        f"{agreement.max_score_difference:.1e}",
        f"{agreement.max_box_difference_px:.1e} px",
    )
    OUT.print(table)
    OUT.print(f"Compared on {agreement.pictures} pictures, by {agreement.by}")
    OUT.print(f"Written: {', '.join(map(str, result.files))}", soft_wrap=True)
    if result.notes:
        OUT.print(f"\n{result.notes}", end="", soft_wrap=True)


def _lines(tensors: dict[str, str]) -> str:
    return "\n".join(f"{name}: {described}" for name, described in tensors.items())
