"""The page as a user starts it."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator

import pytest
from nas_serve import Server

from support.commands import CLIENT


@pytest.fixture(scope="module")
def page_url(server: Server) -> Iterator[str]:
    pytest.importorskip("starlette", reason="the extra page is not installed")
    command = [str(CLIENT), "page", "--port", "0", "--url", server.grpc_url]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=dict(os.environ)) as process:
        assert process.stderr is not None
        try:
            found = re.search(r"http://127\.0\.0\.1:\d+", process.stderr.readline())
            assert found is not None
            yield found[0]
        finally:
            process.send_signal(2)
            _, errors = process.communicate(timeout=300)
            assert "Traceback" not in errors and process.returncode == 0, errors
