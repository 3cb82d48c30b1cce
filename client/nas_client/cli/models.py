"""nas-client models: what a server has."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import Annotated, Any

import typer
from nas_ensembles import contract
from nas_ensembles.letterbox import LetterboxSpec
from rich.table import Column, Table

from ..detection.check import engine_info
from ..detection.detector import Detector
from ..detection.models import Model
from ..errors import ClientError
from .terminal import OUT, ProtocolOption, Timeout, Url, connect, exit_codes


def models(
    url: Url = None,
    protocol: ProtocolOption = None,
    timeout: Timeout = 60.0,
    every: Annotated[
        bool, typer.Option("--all", help="Also what they are made of, and models of others, with all parameters.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON, with all parameters.")] = False,
) -> None:
    """List the models that detect, and what is not ready."""
    with exit_codes(), connect(url, protocol, None, timeout) as detector:
        listed = [_with_engine(detector, model) for model in detector.models()]
    if as_json:
        OUT.print_json(json.dumps([asdict(model) for model in listed]))
        return
    if not every:
        _print_short([model for model in listed if model.detects or model.state != "READY"])
        return
    table = Table(Column("model", overflow="fold"), "version", "state", "kind", "batch", "parameters")
    for model in listed:
        text = model.reason or "\n".join(
            f"{key}: {_short(key, value)}" for key, value in sorted(model.parameters.items())
        )
        batch = str(model.max_batch_size) if model.state == "READY" else ""
        table.add_row(model.name, model.version, model.state, model.platform, batch, text)
        table.add_section()
    OUT.print(table)


def _print_short(listed: list[Model]) -> None:
    columns = ("version", "state", "precision", "canvas", "classes", "engine")
    table = Table(Column("model", overflow="fold"), *columns)
    for model in listed:
        if not model.detects:
            table.add_row(model.name, model.version, model.state, *[""] * 3, model.reason)
            continue
        known = model.parameters
        height, width = LetterboxSpec.from_dict(known[contract.LETTERBOX]).size_hw
        engine = known.get("engine", {}).get("path") or known.get(contract.TARGET, "")
        table.add_row(
            *(model.name, model.version, model.state, str(known.get(contract.PRECISION, "")), f"{width}x{height}"),
            *(str(len(known[contract.CLASS_NAMES])), str(engine)),
        )
    OUT.print(table)
    if not listed:
        OUT.print("no model that detects; nas-build --weights demo makes one")


def _with_engine(detector: Detector, model: Model) -> Model:
    """What computes the model, beside its parameters: that is known only where it runs."""
    if not model.detects:
        return model
    try:
        engine = contract.stage_name(model.name, "engine")
        info = engine_info(detector.transport, detector.transport.model_config(engine))
    except ClientError as error:
        info = {"error": str(error)}
    return replace(model, parameters={**model.parameters, "engine": info}) if info else model


def _short(key: str, value: Any) -> str:
    """A parameter's value in a few words."""
    if key == contract.CLASS_NAMES:
        return f"{len(value)}: {', '.join(value[:3])}, ..."
    if key == contract.KNOWN_ANSWER:
        return f"of version {value['version']}"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_short(name, part)}" for name, part in value.items())
    text = "x".join(map(str, value)) if isinstance(value, list) else str(value)
    return f"{text[:12]}..." if key == contract.CHECKPOINT_SHA256 else text
