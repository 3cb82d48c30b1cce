"""nas-client: its commands. Only the `cli` modules and `terminal` print."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from nas_ensembles.release import print_version

from . import bench, check, detect, models, val
from .terminal import OutputFailed, end_output, writing

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True)
app.command()(detect.detect)
app.command()(val.val)
app.command("bench")(bench.bench_command)
app.command()(check.check)
app.command()(models.models)


@app.callback()
def nas_client(
    version: Annotated[
        bool, typer.Option("--version", callback=print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Detect, measure and validate with YOLO-NAS models that Triton serves."""


def main() -> None:
    """Entry point."""
    try:
        with writing():  # errors of other files have been told of before they get here
            app()
    except OutputFailed as error:
        sys.exit(end_output(error))
