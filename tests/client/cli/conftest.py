"""nas-client as a user runs it."""

from __future__ import annotations

from pathlib import Path

import pytest
from nas_serve import Server

from support.commands import Run


@pytest.fixture
def run(server: Server, tmp_path: Path) -> Run:
    return Run(server, tmp_path)
