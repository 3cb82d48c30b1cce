"""Commands as a user runs them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from nas_serve import Server

CLIENT = Path(sys.executable).parent / "nas-client"


class Run:
    def __init__(self, server: Server, folder: Path) -> None:
        self.environment = os.environ | {"NAS_URL": server.grpc_url, "NAS_HTTP_URL": server.http_url}
        self.folder = folder

    def __call__(self, *arguments: object, code: int = 0, stdin: bytes | None = None) -> tuple[str, str]:
        result = subprocess.run(
            [str(CLIENT), *map(str, arguments)],
            capture_output=True,
            input=stdin,
            env=self.environment,
            cwd=self.folder,
            timeout=300,
            check=False,
        )
        out, errors = result.stdout.decode(), result.stderr.decode()
        assert result.returncode == code, errors
        assert "Traceback" not in errors
        return out, " ".join(errors.split())
