"""nas-build: the command line of the builder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from nas_ensembles import contract
from nas_ensembles.command_line import Command, application
from nas_ensembles.release import print_version
from nas_eval.downloadable import DOWNLOADABLE
from rich.table import Table

from .. import pipeline, targets
from ..errors import OptionError
from ..options import PRECISIONS, VARIANTS, CalibrationMethod, Options, PlanWay
from ..targets.tensorrt.servers import DEFAULT_SERVER
from .display import Display
from .export import export
from .flags import flag, options_from
from .report import report
from .results import as_dict, print_table
from .terminal import OUT, exit_codes

app = application()
app.command(cls=Command)(report)
app.command(cls=Command)(export)
if TYPE_CHECKING:
    _TargetName = str
else:
    _TargetName = Literal[targets.CHOICES]
_DEFAULTS = Options()


def _by_target(attribute: str) -> str:
    return ", ".join(f"{getattr(target, attribute)} for {name}" for name, target in targets.TARGETS.items())


_int8_option = partial(typer.Option, rich_help_panel="INT8")
_plan_option = partial(typer.Option, rich_help_panel="TensorRT")


@app.callback(invoke_without_command=True, no_args_is_help=True)
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
            help="coco (downloads the official file), demo (bundled), hf://OWNER/REPO/FILE@REVISION, https://..., or a "
            ".pth, .pt or .safetensors file; {variant} in it stands for s, m, l."
        ),
    ] = "coco",
    sha256: Annotated[str | None, typer.Option(help="What the weights' file has to be.", show_default=False)] = None,
    target: Annotated[
        _TargetName,
        typer.Option(
            help="What runs the engine; auto is tensorrt where a GPU is and a plan can be built, else openvino."
        ),
    ] = targets.AUTO,
    model_repository: Annotated[Path, typer.Option(help="Triton model repository.")] = _DEFAULTS.model_repository,
    name: Annotated[str | None, typer.Option(help="Default: yolo_nas_VARIANT_PRECISION.", show_default=False)] = None,
    calibration: Annotated[
        Path | None,
        _int8_option(
            help="Pictures like those the model will see: a folder, or a data set (YAML, or coco8, which is "
            "downloaded), whose train calibrates and val measures. Default: the bundled samples.",
            show_default=False,
        ),
    ] = None,
    calibration_pictures: Annotated[
        int, _int8_option(min=1, help="At most this many, evenly spread.")
    ] = _DEFAULTS.int8.calibration_pictures,
    calibration_method: Annotated[
        CalibrationMethod,
        _int8_option(
            metavar="METHOD",
            help="How ranges are chosen: max (all), mse (least squared error), entropy (least information lost), "
            "percentile-99.99, percentile-99.999, percentile-99.9999, or auto: what disturbs held-out pictures least.",
        ),
    ] = _DEFAULTS.int8.calibration_method,
    validation: Annotated[
        Path | None,
        _int8_option(
            help="Labelled pictures to measure the loss on: data set YAML, COCO JSON, or a name that is downloaded: "
            f"{', '.join(DOWNLOADABLE)}. Default: val of a calibration data set; else a quarter of the pictures, with "
            "what float32 finds in them for the truth.",
            show_default=False,
        ),
    ] = None,
    validation_images: Annotated[
        Path | None, _int8_option(help="Folder of the pictures of a COCO JSON.", show_default=False)
    ] = None,
    validation_pictures: Annotated[
        int, _int8_option(min=1, help="At most this many, evenly spread.")
    ] = _DEFAULTS.int8.validation_pictures,
    int8_budget: Annotated[
        float | None,
        _int8_option(
            min=0,
            help="Most mAP points to lose against float32: the convolutions that hurt most for their work stay fp16 "
            "until the measured loss is within it. Default: all are int8.",
            show_default=False,
        ),
    ] = None,
    max_batch_size: Annotated[int, typer.Option(min=1, max=256)] = _DEFAULTS.max_batch_size,
    max_pixels: Annotated[int, typer.Option(min=1, help="Larger pictures are refused.")] = _DEFAULTS.max_pixels,
    scaled_decoding: Annotated[
        bool,
        typer.Option(
            "--scaled-decoding",
            help="Decode JPEGs of twice the canvas and more to a half, a quarter or an eighth: quicker, boxes and "
            "scores move a little.",
        ),
    ] = False,
    class_names: Annotated[
        Path | None, typer.Option(help="File with one name per line. Default: the checkpoint's.", show_default=False)
    ] = None,
    processing: Annotated[
        Literal["checkpoint", "coco"], typer.Option(help="Whose preprocessing to compile into the model.")
    ] = "checkpoint",
    instances: Annotated[
        int | None,
        typer.Option(
            min=1,
            help=f"Engines that run side by side, on each GPU. Default: {_by_target('engine_instances')}.",
            show_default=False,
        ),
    ] = None,
    queue_delay_us: Annotated[
        int | None,
        typer.Option(
            min=0,
            help=f"How long the engine waits for a batch to fill. Default: {_by_target('queue_delay_us')}.",
            show_default=False,
        ),
    ] = None,
    sign: Annotated[
        Path | None,
        typer.Option(help="Private key (PEM, elliptic curve), for nas-serve --verify.", show_default=False),
    ] = None,
    plan_with: Annotated[
        PlanWay,
        _plan_option(
            help="What builds the plan: trtexec on this machine, the tensorrt package, or trtexec in a container of "
            "the server's image."
        ),
    ] = "auto",
    server: Annotated[
        str,
        _plan_option(help="Triton release or image that will load the plan: its TensorRT must be the one that builds."),
    ] = DEFAULT_SERVER,
    opt_batch_size: Annotated[
        int | None,
        _plan_option(min=1, help="Kernels are chosen for this batch size. Default: the largest.", show_default=False),
    ] = None,
    optimization_level: Annotated[
        int, _plan_option(min=0, max=5, help="How long TensorRT looks for fast kernels.")
    ] = 3,
    workspace_mib: Annotated[
        int | None,
        _plan_option(min=1, help="Most GPU memory a kernel may use. Default: all there is.", show_default=False),
    ] = None,
    hardware_compatible: Annotated[
        bool,
        _plan_option(
            "--hardware-compatible",
            help="A plan for Ampere and newer GPUs, not only this one's kind. Costs speed: kernels of newer "
            "architectures are not used.",
        ),
    ] = False,
    version_compatible: Annotated[
        bool,
        _plan_option(
            "--version-compatible",
            help="A plan for later TensorRT releases of the same major version too. Costs speed and size, and the "
            "server must allow the runtime inside it: --backend-config=tensorrt,version-compatible=true.",
        ),
    ] = False,
    compute_capability: Annotated[
        str | None,
        typer.Option(
            rich_help_panel="TensorRT for RTX",
            help="Of the only kind of GPU that will run the engine, e.g. 7.5 (Turing). Default: all from Ampere on.",
            show_default=False,
        ),
    ] = None,
    verbose: Annotated[bool, typer.Option("--verbose", help="Print all that TensorRT says.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Build even if up to date.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print results as JSON.")] = False,
) -> None:
    """Build YOLO-NAS checkpoints into a Triton model repository.

    Examples: nas-build --weights demo --precision int8;
    nas-build --variant all --precision all;
    nas-build --weights best.pth --precision int8 --calibration pictures/
    """
    given = dict(locals())  # the parameters, by their names
    if ctx.invoked_subcommand is not None:
        return
    variants = VARIANTS if variant == "all" else (variant or ("s" if weights in ("coco", "demo") else None),)
    precisions = PRECISIONS if precision == "all" else (precision,)
    if name and len(variants) * len(precisions) > 1:
        raise typer.BadParameter("names one model; give one variant and one precision with it", param_hint="--name")
    if variant == "all" and weights not in ("coco", "demo") and "{variant}" not in weights:
        raise typer.BadParameter("one file holds one variant; write {variant} in the path", param_hint="--weights")
    wanted = [_options({**given, "variant": v, "precision": p}) for v in variants for p in precisions]
    display = Display(quiet=as_json, verbose=verbose)
    with exit_codes(), display.live():
        found = targets.find(wanted[0], display.warn)
        results = [pipeline.build(options, display.model(_title(options)), found) for options in wanted]
    if as_json:
        OUT.print_json(json.dumps([as_dict(result) for result in results]))
        return
    print_table(results, model_repository)
    OUT.print(f"Serve it with: {found.serve_hint(model_repository)}")


def _options(parameters: Mapping[str, Any]) -> Options:
    """Of one build."""
    try:
        return options_from(parameters)
    except OptionError as error:
        raise typer.BadParameter(str(error), param_hint=", ".join(map(flag, error.options))) from None


def _title(options: Options) -> str:
    if options.name is None and options.variant is not None:
        return contract.model_name(options.variant, options.precision)
    return options.name or f"{options.weights} {options.precision}"


@app.command(cls=Command)
def info(
    num_classes: Annotated[int, typer.Option(min=1)] = 80,
    size: Annotated[int, typer.Option(min=32, help="Side of the square canvas, a multiple of 32.")] = 640,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Print layers, parameters and multiply-accumulates of the variants."""
    if size % 32:
        raise typer.BadParameter(f"must be a multiple of 32, got {size}", param_hint="--size")
    with exit_codes():
        from ..yolo_nas import network
        from ..yolo_nas.summary import summarize

        summaries = [summarize(network.build(variant, num_classes), size) for variant in VARIANTS]
    if as_json:
        OUT.print_json(json.dumps([asdict(summary) for summary in summaries]))
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
    OUT.print(table)


def main() -> None:
    """Entry point."""
    app()
