"""nas-client check."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer
from rich.table import Column, Table

from ..detection.check import Check
from ..detection.check import check as check_model
from ..errors import ModelUnavailable
from .terminal import ERRORS, OUT, ProtocolOption, Timeout, Url, connect, exit_codes, print_error


def check(
    model: Annotated[
        list[str] | None, typer.Argument(help="Models to check. Default: all that detect.", show_default=False)
    ] = None,
    url: Url = None,
    protocol: ProtocolOption = None,
    timeout: Timeout = 60.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Ask served models for an answer that is known.

    The first thing to run on a new machine: each model carries a picture and what its graph answers, computed exactly
    when it was built. Exit code 1 if an engine answers something else, or not at all.
    """
    with exit_codes(), connect(url, protocol, None, timeout) as detector:
        names = model or [found.name for found in detector.models() if found.detects]
        if not names:
            raise ModelUnavailable(
                f"{detector.transport.address} has no YOLO-NAS model that is ready: `nas-client models` says why, "
                "nas-build builds one."
            )
        checks = []
        with ERRORS.status("asking") as status:
            for name in names:
                status.update(f"asking {name}")
                checks.append(check_model(detector, name))
        if as_json:
            OUT.print_json(json.dumps([asdict(one) for one in checks]))
        else:
            OUT.print(_table(checks))
        for one in checks:
            if one.problem:
                print_error(one.problem)
        if any(one.problem for one in checks):
            raise typer.Exit(1)


def _table(checks: list[Check]) -> Table:
    table = Table(Column("model", no_wrap=True), "answer", "agreement", "engine ms", "picture ms", "device", "engine")
    for one in checks:
        table.add_row(
            one.model,
            "wrong" if one.problem else "right",
            "" if one.agreement is None else f"{one.agreement:.3f}",
            "" if one.engine_ms is None else f"{one.engine_ms:.1f}",
            "" if one.picture_ms is None else f"{one.picture_ms:.1f}",
            one.device or "",
            "\n".join(f"{key}: {value}" for key, value in {**(one.engine or {}), "triton": one.triton}.items()),
        )
    return table
