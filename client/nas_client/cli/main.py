"""nas-client: its commands. Only the `cli` modules and `terminal` print."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from nas_ensembles.command_line import Command, application
from nas_ensembles.release import print_version

from . import bench, check, detect, job, models, page, tune, val
from .terminal import OutputFailed, end_output, writing

app = application(no_args_is_help=True)
app.command(cls=Command)(detect.detect)
app.command(cls=Command)(val.val)
app.command("bench", cls=Command)(bench.bench_command)
app.command(cls=Command)(check.check)
app.command(cls=Command)(models.models)
app.command(cls=Command)(page.page)
app.command(cls=Command)(job.job)
app.command(cls=Command)(tune.tune)


@app.callback()
def nas_client(
    version: Annotated[
        bool, typer.Option("--version", callback=print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Detect, measure and validate with YOLO-NAS models that Triton serves.

    A server's --url is host:port for gRPC, or begins with grpc://, grpcs://, http:// or https://. Without it NAS_URL is
    asked, then localhost:8001; with --protocol http NAS_HTTP_URL, then localhost:8000. NAS_TOKEN is a gateway's token.
    """


def main() -> None:
    """Entry point."""
    try:
        with writing():  # errors of other files have been told of before they get here
            app()
    except OutputFailed as error:
        sys.exit(end_output(error))
