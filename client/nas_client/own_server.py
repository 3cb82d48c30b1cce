"""A server that the client starts for itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from .errors import ModelUnavailable


def start(model_repository: str | Path, model: str) -> tuple[subprocess.Popen[str], str]:
    """nas-serve on free ports, ready.

    Args:
        model_repository: of it.
        model: that it serves.

    Returns:
        The process, which ends when its standard input is closed, as it is when this process ends, however it does;
        and its gRPC address.

    Raises:
        ModelUnavailable: it does not start; says its last words.
    """
    command = [str(Path(sys.executable).with_name("nas-serve")), "--model-repository", str(model_repository)]
    command += ["--model", model]
    command += [word for service in ("http", "grpc", "metrics") for word in (f"--{service}-port", "0")]
    # cat ends when this process does, and nas-serve with it.
    server = subprocess.Popen(
        [*command, "--", "cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    assert server.stderr is not None
    said = []
    for line in server.stderr:
        said.append(line.strip())
        _, found, after = line.partition("gRPC ")
        if found:
            return server, after.partition(",")[0]
    server.wait()
    raise ModelUnavailable(f"nas-serve does not start: {' '.join(said) or 'it says nothing'}")
