from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize("package", ["nas_client", "nas_client.cli.main", "nas_serve.cli", "nas_build.cli.main"])
def test_commands_do_not_import_pytorch(package: str) -> None:
    code = f"import {package}, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
