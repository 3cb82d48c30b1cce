"""What a person should know of a built model, in Markdown beside its manifest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nas_ensembles import contract

from .configs import ServedModel

FILE = "README.md"
_SHOWN = 12  # classes


def render(model: ServedModel, manifest: Mapping[str, Any]) -> str:
    """The card: the same for the same manifest.

    Args:
        model: as it is served.
        manifest: what the build knows.
    """
    parameters, inputs = model.parameters, manifest.get("inputs", {})
    names = [name.replace("|", "\\|") for name in parameters.get(contract.CLASS_NAMES, ())]
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    variant, precision = (str(parameters.get(key, "?")) for key in (contract.VARIANT, contract.PRECISION))
    lines = [
        f"# {model.name}",
        "",
        f"YOLO-NAS {variant.upper()} in {precision} for {model.target.name}, built by nas-triton. More is in "
        "`manifest.json`; what depends on the machine that built it is in `machine.json`.",
        "",
        "| | |",
        "|---|---|",
        f"| classes | {len(names)}: {', '.join(names[:_SHOWN])}{more} |",
        *_checkpoint(inputs),
        f"| input | pictures, fitted into {model.letterbox.size_hw[1]} x {model.letterbox.size_hw[0]} pixels |",
        f"| default thresholds | score {model.thresholds.score:g}, IoU {model.thresholds.iou:g} |",
        *_measured(manifest),
        "",
        "The weights keep the licence of the checkpoint. Deci's official ones, and all that is fine-tuned from them, "
        "are for non-commercial use only.",
        "",
        f"    nas-client detect bus.jpg --model {model.name}",
        f"    nas-build report {model.name}",
        "",
    ]
    return "\n".join(lines)


def _checkpoint(inputs: Mapping[str, Any]) -> list[str]:
    if "checkpoint" not in inputs:
        return []
    return [f"| checkpoint | {inputs['checkpoint']}, SHA-256 {inputs['checkpoint_sha256']} |"]


def _measured(manifest: Mapping[str, Any]) -> list[str]:
    """How far it is from PyTorch, and what int8 costs."""
    rows = []
    if agreement := manifest.get("agreement"):
        rows.append(
            f"| against PyTorch | {agreement['detections_found']} of {agreement['detections']} objects found again in "
            f"{agreement['pictures']} pictures, scores within {agreement['max_score_difference']:g} |"
        )
    int8 = manifest.get("int8", {})
    if int8:
        rows.append(f"| calibrated on | {int8['calibration_pictures']} pictures |")
    if accuracy := int8.get("accuracy"):
        rows.append(
            f"| loss by int8 | {accuracy['loss']:g} mAP points, 95 % interval {accuracy['loss_low']:g} to "
            f"{accuracy['loss_high']:g}, on {int8['held_out_pictures']} pictures; the truth is {int8['truth']} |"
        )
    return rows
