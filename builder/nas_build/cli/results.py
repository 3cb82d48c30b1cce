"""What nas-build prints when it is done."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nas_ensembles import contract
from rich.table import Column, Table

from ..pipeline import Result
from .terminal import OUT


def as_dict(result: Result) -> dict[str, object]:
    """For JSON."""
    manifest = result.manifest
    return {
        "name": result.name,
        "version": result.version,
        "built": result.built,
        "doubts": result.doubts,
        "seconds": result.seconds,
        "target": manifest["inputs"]["target"],
        "agreement": manifest["agreement"],
        "machine": result.machine,
        "plan": manifest.get(contract.PLAN),
        "int8": manifest.get("int8"),
        "files": manifest["files"],
    }


def print_table(results: list[Result], model_repository: Path = Path("model_repository")) -> None:
    """One row for each model."""
    table = Table(
        Column("model", no_wrap=True), "version", "state", "seconds", "max score diff", "detections found", "engine"
    )
    int8 = [result.name for result in results if "int8" in result.manifest]
    if int8:
        table.add_column("mAP loss", justify="right")
    for result in results:
        agreement = result.manifest["agreement"]
        table.add_row(
            result.name,
            str(result.version),
            ("built" if result.built else "up to date") + (", doubtful" if result.doubts else ""),
            f"{sum(result.seconds.values()):.1f}" if result.built else "",
            f"{agreement['max_score_difference']:.3g}",
            f"{agreement['detections_found']} of {agreement['detections']}",
            f"{result.machine['agreement']:.3f}" if "agreement" in result.machine else "",
            *([_loss(result.manifest.get("int8"))] if int8 else []),
        )
    OUT.print(table)
    for result in results:
        for doubt in () if result.built else result.doubts:  # a build has said so before
            OUT.print(f"{result.name} is doubtful: {doubt}")
    for name in int8:
        where = "" if model_repository == Path("model_repository") else f" --model-repository {model_repository}"
        OUT.print(f"What int8 does to each layer: nas-build report {name}{where}", soft_wrap=True)


def _loss(int8: dict[str, Any] | None) -> str:
    """Measured on held-out pictures, with its 95 % interval."""
    if not int8 or "accuracy" not in int8:
        return ""
    accuracy = int8["accuracy"]
    return f"{accuracy['loss']:+.2f} ({accuracy['loss_low']:+.2f} to {accuracy['loss_high']:+.2f})"
