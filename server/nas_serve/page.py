"""The page of `nas-client page`, beside a server, for as long as it runs."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import ServerError

PORT = 8003
_END_S = 10.0  # to finish what it was asked


@contextmanager
def page(url: str, port: int, said: Callable[[str], None]) -> Iterator[None]:
    """Serve the page; it ends with the block, and with this process whatever becomes of it.

    Args:
        url: gRPC address of the server that the page asks.
        port: to listen on, on loopback; 0 takes a free one.
        said: is told what the page's process says, its address first.

    Raises:
        ServerError: it does not start.
    """
    command = [str(Path(sys.executable).with_name("nas-client")), "page", "--attached"]
    command += ["--url", url, "--protocol", "grpc", "--port", str(port)]
    try:  # not in the terminal's group: Ctrl-C ends it by its standard input, as everything else does
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
    except OSError as error:
        raise ServerError(f"cannot start the page: {error}") from None
    assert process.stdin is not None and process.stderr is not None
    try:
        first = process.stderr.readline().strip()
        if not first.startswith("http://"):
            raise ServerError(f"the page does not start: {first.removeprefix('error: ') or 'it says nothing'}")
        said(first)
        threading.Thread(target=_forward, args=(process, said), daemon=True).start()
        yield
    finally:
        process.stdin.close()
        try:
            process.wait(_END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _forward(process: subprocess.Popen[str], said: Callable[[str], None]) -> None:
    assert process.stderr is not None and process.stdin is not None
    for line in process.stderr:
        said(line.rstrip())
    if not process.stdin.closed:
        said("the page has ended; nas-client page starts it again")
