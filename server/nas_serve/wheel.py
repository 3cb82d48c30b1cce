"""What the embedded server is put together from: the wheel's Triton, a shared libpython, and backends."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import sysconfig
from pathlib import Path

from nas_ensembles import cores, known_answer

from .errors import ServerError


def find() -> Path:
    """Folder of the pytriton package; it is not imported, which would cost seconds."""
    spec = importlib.util.find_spec("pytriton")
    if spec is None or spec.origin is None:
        raise ServerError("the embedded server needs nvidia-pytriton: pip install 'nas-triton[serve]'")
    folder = Path(spec.origin).parent
    if not (folder / "tritonserver" / "bin" / "tritonserver").exists():
        raise ServerError(f"{folder}: no tritonserver in it; it is for x86-64 Linux only. Reinstall nvidia-pytriton.")
    return folder


def libpython() -> Path:
    """Folder of the shared libpython that Triton's Python stub links to."""
    name = f"libpython{sys.version_info.major}.{sys.version_info.minor}.so.1.0"
    candidates = [Path(str(sysconfig.get_config_var("LIBDIR"))), Path(sys.base_prefix) / "lib"]
    multiarch = sysconfig.get_config_var("MULTIARCH")
    if multiarch:
        candidates += [Path("/usr/lib") / str(multiarch), Path("/lib") / str(multiarch)]
    for folder in candidates:
        if os.path.exists(folder / name):  # false, unlike Path.exists, where it may not look
            return folder
    raise ServerError(
        f"{name} not found in {', '.join(dict.fromkeys(map(str, candidates)))}; Triton's Python models need it. "
        f"On Debian and Ubuntu: apt install libpython{sys.version_info.major}.{sys.version_info.minor}; "
        "with pyenv: reinstall this Python with PYTHON_CONFIGURE_OPTS=--enable-shared."
    )


def assemble_backends(wheel: Path, target: Path) -> Path:
    """A backend folder: the wheel's Python backend with the stub of this Python, and our openvino backend."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = wheel / "tritonserver" / "python_backend_stubs" / version / "triton_python_backend_stub"
    if not stub.exists():
        raise ServerError(f"nvidia-pytriton has no Python backend for Python {version}; use Python 3.10 to 3.13.")
    shutil.copytree(wheel / "tritonserver" / "backends", target, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy2(stub, target / "python" / stub.name)
    shutil.copytree(Path(__file__).parent / "backends", target, dirs_exist_ok=True)
    for module in (cores, known_answer):
        shutil.copy2(str(module.__file__), target / "openvino")
    return target
