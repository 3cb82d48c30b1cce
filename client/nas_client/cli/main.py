"""nas-client: its commands. Only the `cli` modules and `terminal` print."""

from __future__ import annotations

import typer

from . import bench, check, detect, models, val

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True)
app.command()(detect.detect)
app.command()(val.val)
app.command("bench")(bench.bench_command)
app.command()(check.check)
app.command()(models.models)


def main() -> None:
    """Entry point."""
    app()
