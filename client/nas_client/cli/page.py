"""nas-client page: a page in the browser to try models with."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from typing import Annotated

import typer

from ..errors import ClientError
from .terminal import ERRORS, ProtocolOption, Timeout, Url, connect, exit_codes, print_error


def page(
    url: Url = None,
    protocol: ProtocolOption = None,
    host: Annotated[str, typer.Option(help="Address to listen on; others than loopback show it to a network.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8003,
    timeout: Timeout = 60.0,
    attached: Annotated[bool, typer.Option(hidden=True, help="End when standard input does.")] = False,
) -> None:
    """Serve a page to try models with, in the browser.

    Examples: nas-client page; nas-client page --url grpcs://detect.example.com:8443
    """
    try:
        import uvicorn

        from ..page.app import Page, application
    except ModuleNotFoundError as error:
        print_error(f"{error.name} is not installed: pip install 'nas-triton[page]'")
        raise typer.Exit(1) from None
    with exit_codes():
        answers = Page(lambda name: connect(url, protocol, name, timeout), url)
        with _listening(host, port) as listener:
            shown = f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"
            end = "" if attached else " Ctrl-C stops it."
            try:
                names = ", ".join(model["name"] for model in answers.models()) or "no model yet"
                ERRORS.print(f"{shown} shows {names}.{end}")
            except ClientError as error:  # it may come
                ERRORS.print(f"{shown} waits for a server.{end} {error}")
            if attached:
                threading.Thread(target=_end_with_standard_input, daemon=True).start()
            server = uvicorn.Server(uvicorn.Config(application(answers, host), log_level="warning", access_log=False))
            try:
                server.run(sockets=[listener])
            except KeyboardInterrupt:
                ERRORS.print("stopped")
            finally:
                answers.close()


def _listening(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        print_error(f"cannot listen on {host}:{port}: {error.strerror or error}; --port 0 takes a free one")
        raise typer.Exit(1) from None


def _end_with_standard_input() -> None:
    while sys.stdin.buffer.read(4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
