"""nas-serve: the only module of the server that prints."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from pathlib import Path
from typing import Annotated

import typer
from nas_ensembles.command_line import Command, application
from nas_ensembles.release import print_version
from rich.console import Console
from rich.text import Text

from .compose_files import write_compose
from .embedded import HOST, Server
from .errors import ServerError
from .page import PORT as PAGE_PORT
from .page import page
from .supervision.ports import DEFAULT_PORTS

app = application()
_console = Console(stderr=True, soft_wrap=True, highlight=False, markup=False, emoji=False)


@app.command(cls=Command)
def serve(
    command: Annotated[
        list[str] | None,
        typer.Argument(help="After --: run this against the server, then stop it; NAS_URL names the server."),
    ] = None,
    model_repository: Annotated[Path, typer.Option(help="Triton model repository.")] = Path("model_repository"),
    model: Annotated[list[str] | None, typer.Option(help="Load only this model; may be repeated.")] = None,
    host: Annotated[
        str,
        typer.Option(help="Address to listen on. Leave it: this Triton predates security fixes. For containers."),
    ] = HOST,
    http_port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = DEFAULT_PORTS["http"],
    grpc_port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = DEFAULT_PORTS["grpc"],
    metrics_port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = DEFAULT_PORTS["metrics"],
    with_page: Annotated[
        bool, typer.Option("--page", help="Also serve a page to try models with, in the browser, on loopback.")
    ] = False,
    page_port: Annotated[int, typer.Option(min=0, max=65535, help="Of the page; 0 takes a free one.")] = PAGE_PORT,
    log: Annotated[Path | None, typer.Option(help="Keep the server's log here.", show_default=False)] = None,
    poll: Annotated[int, typer.Option(min=0, help="Look for new versions every so many seconds; 0 never.")] = 0,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds to become ready.")] = 120.0,
    verify: Annotated[
        Path | None,
        typer.Option(
            help="Public key (PEM): serve only what nas-build --sign has signed.",
            envvar="NAS_VERIFY_KEY",
            show_default=False,
        ),
    ] = None,
    open_shared_memory: Annotated[
        bool,
        typer.Option("--open-shared-memory", help="To clients without the admin key too: perf_analyzer gives none."),
    ] = False,
    cors_origin: Annotated[
        list[str] | None,
        typer.Option(
            help="Whose pages may ask from a browser, as https://example.com, or *; may be repeated.",
            envvar="NAS_CORS_ORIGINS",
            show_default=False,
        ),
    ] = None,
    verbose: Annotated[int, typer.Option(min=0, help="Triton's verbose log level.")] = 0,
    compose: Annotated[
        Path | None,
        typer.Option(
            "--write-compose",
            metavar="FOLDER",
            help="Write compose.yaml and what its images are built from into a new folder, and serve nothing.",
            show_default=False,
        ),
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", callback=print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Serve a model repository with a real Triton on this machine, loopback only, no GPU and no Docker needed.

    nas-serve runs until Ctrl-C. nas-serve -- nas-client detect bus.jpg runs one command against it and stops.
    """
    if compose is not None:
        _write_compose(compose)
        return
    unused = [name for name in ("NAS_TLS_CERT", "NAS_TLS_CLIENT_CA", "NAS_ADMIN_KEY_FILE") if os.environ.get(name)]
    if unused:
        raise typer.BadParameter(f"{', '.join(unused)} is for docker/serve.sh; nas-serve does not know it")
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    server = Server(
        model_repository,
        models=model or (),
        host=host,
        http_port=http_port,
        grpc_port=grpc_port,
        metrics_port=metrics_port,
        log=log,
        poll_s=poll,
        timeout_s=timeout,
        verbose=verbose,
        verify=verify,
        open_shared_memory=open_shared_memory,
        cors_origins=cors_origin or (),
        said=_console.print,
    )
    code = 0
    try:
        with contextlib.ExitStack() as stack:
            status = stack.enter_context(_console.status(f"starting Triton on {model_repository}"))
            stack.callback(server.stop)
            server.start(lambda waited: status.update(f"starting Triton on {model_repository}: {waited:.0f} s"))
            status.stop()
            if host != HOST:
                _console.print(
                    Text.assemble(("note: ", "yellow"), f"listening on {host}; keep this Triton off networks.")
                )
            _console.print(f"Triton is ready: gRPC {server.grpc_url}, HTTP {server.http_url}, {server.metrics_url}")
            if with_page:
                stack.enter_context(page(server.grpc_url, page_port, _console.print))
            if command:
                code = _run(command, server)
            else:
                _console.print("Ctrl-C stops it.")
                server.wait()
    except ServerError as error:
        _console.print(Text.assemble(("error: ", "red"), str(error)))
        code = 1
    except KeyboardInterrupt:
        _console.print("stopped")
        code = 130 if command else 0
    raise typer.Exit(code)


def _write_compose(folder: Path) -> None:
    try:
        written = write_compose(folder)
    except ServerError as error:
        _console.print(Text.assemble(("error: ", "red"), str(error)))
        raise typer.Exit(1) from None
    _console.print(
        f"{written} is written. Next, in {folder}: docker compose up (on a GPU), or docker compose --profile cpu up;\n"
        "it serves what nas-build --model-repository model_repository, or docker compose run --rm build, puts there."
    )


def _run(command: list[str], server: Server) -> int:
    """Run the command with NAS_URL and NAS_HTTP_URL set; returns its exit code."""
    environment = os.environ | {"NAS_URL": server.grpc_url, "NAS_HTTP_URL": server.http_url}
    try:
        return subprocess.run(command, env=environment, check=False).returncode
    except OSError as error:
        raise ServerError(f"cannot run {command[0]}: {error.strerror}") from None


def main() -> None:
    """Entry point."""
    app()
