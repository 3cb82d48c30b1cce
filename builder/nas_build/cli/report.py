"""nas-build report: what a build measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Column, Table

from ..errors import RepositoryError
from ..repository import install
from .terminal import OUT, exit_codes

_COLUMNS = ("low", "high", "input_snr_db", "weight_snr_db", "gain")

_ACTIVATIONS = {
    "int8": "symmetric, as TensorRT wants them",
    "uint8": "with a zero point where a tensor can be negative, as OpenVINO wants them",
}


def report(
    name: Annotated[str, typer.Argument(help="Model in the repository, e.g. yolo_nas_s_int8.")],
    model_repository: Annotated[Path, typer.Option(help="Triton model repository.")] = Path("model_repository"),
    worst: Annotated[
        int | None,
        typer.Option(min=1, help="Only so many convolutions, noisiest first. Default: all.", show_default=False),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Print what a build measured.

    Agreement with PyTorch; for int8 the accuracy before and after, and each layer.
    """
    with exit_codes():
        manifest = install.read_manifest(model_repository, name)
        if manifest is None:
            built = ", ".join(install.models(model_repository)) or "none"
            raise RepositoryError(
                f"{model_repository}: no model {name}, or its files were changed; it has: {built}. "
                "Build it with nas-build, or name another repository.",
                options=("model_repository",),
            )
        machine = install.read_machine(model_repository, name)
    layers = manifest.get("layers", {})
    if worst:
        noisiest = sorted(layers, key=lambda layer: _snr_db(layers[layer]))[:worst]
        layers = {layer: layers[layer] for layer in noisiest}
    if as_json:
        chosen = {key: manifest[key] for key in ("version", "inputs", "agreement", "int8") if key in manifest}
        OUT.print_json(json.dumps({"name": name, **chosen, "machine": machine, "layers": layers}))
        return
    inputs, agreement = manifest["inputs"], manifest["agreement"]
    OUT.print(f"{name}, version {manifest['version']}: {inputs['checkpoint']}, {inputs['precision']}", style="bold")
    OUT.print(
        f"The graph against PyTorch on {agreement['pictures']} pictures: {agreement['detections_found']} of "
        f"{agreement['detections']} clear detections, largest score difference {agreement['max_score_difference']:g}, "
        f"correlation of the class logits at least {agreement['logit_correlation']:g}"
    )
    if "agreement" in machine:
        OUT.print(
            f"The engine on the machine that built it ({machine['cpu']}) gave {machine['agreement']:.3f} of the known "
            "answer; `nas-client check` asks where it is served"
        )
    if "int8" in manifest:
        _print_int8(manifest["int8"], machine, len(manifest["layers"]))
        OUT.print(_table(layers))


def _print_int8(int8: dict[str, Any], machine: dict[str, Any], layers: int) -> None:
    OUT.print(f"Activations: {int8['activations']}, {_ACTIVATIONS[int8['activations']]}; weights: int8 per channel")
    disturbance = ", ".join(f"{method} {value:.3f}" for method, value in int8["disturbance"].items())
    OUT.print(f"Ranges: {int8['method']}, on {int8['calibration_pictures']} pictures. Disturbance: {disturbance}")
    truth = "labels" if int8["truth"] == "labels" else "what float32 finds is the truth"
    data = f"{int8['held_out_pictures']} held-out pictures with {int8['objects']} objects ({truth})"
    if "accuracy" not in int8:
        OUT.print(f"The loss is not known: float32 finds nothing in {data}")
        return
    accuracy, before = int8["accuracy"], int8["all_int8"]
    OUT.print(
        f"mAP 50-95 on {data}: float32 {accuracy['map_50_95_float32']:.2f}, int8 {accuracy['map_50_95']:.2f}, "
        f"loss {accuracy['loss']:+.2f} (95 % interval {accuracy['loss_low']:+.2f} to {accuracy['loss_high']:+.2f})"
    )
    if int8["kept_fp16"]:
        OUT.print(
            f"For the budget of {int8['budget']:g}, {len(int8['kept_fp16'])} of {layers} convolutions stay fp16 "
            f"({int8['kept_macs']:.1%} of the work): all in int8 lose {before['loss']:+.2f}"
            + (
                f"; it takes {machine['latency_ratio']:.2f} x as long in OpenVINO on the machine that built it"
                if "latency_ratio" in machine
                else ""
            )
        )


def _table(layers: dict[str, dict[str, Any]]) -> Table:
    table = Table(Column("convolution", no_wrap=True), "precision", Column("activations", no_wrap=True))
    for title in ("from", "to", "input SNR dB", "weight SNR dB", "gain"):
        table.add_column(title, justify="right")
    for layer, measured in layers.items():
        table.add_row(
            layer,
            measured["precision"],
            _activations(measured),
            *(f"{measured[key]:.4g}" if key in measured else "" for key in _COLUMNS),
        )
    return table


def _activations(layer: dict[str, Any]) -> str:
    """`uint8`, or `uint8 - 65` with its zero point."""
    zero_point = layer.get("zero_point")
    return str(layer.get("activations", "")) + (f" - {zero_point}" if zero_point else "")


def _snr_db(layer: dict[str, Any]) -> float:
    """Of the noisier of input and weights."""
    return min(float(layer.get(key, "inf")) for key in ("input_snr_db", "weight_snr_db"))
