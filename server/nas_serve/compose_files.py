"""compose.yaml, and what its images are built from, for users without a checkout."""

from __future__ import annotations

import shutil
import tempfile
from importlib.util import find_spec
from pathlib import Path

from .errors import ServerError

# Of this project, and where its pyproject.toml has them.
_PACKAGES = {
    "nas_build": "builder",
    "nas_ensembles": "ensembles",
    "nas_eval": "evaluation",
    "nas_serve": "server",
    "nas_client": "client",
}
_FILES = ("compose.yaml", ".env", ".dockerignore", "docker", "pyproject.toml", "README.md", "LICENSE")


def write_compose(folder: Path) -> Path:
    """Writes compose.yaml and all that its images are built from: this package as it is installed.

    Args:
        folder: is made; a present one must be empty. On an error nothing is left in it.

    Returns:
        The compose file. Its folder `model_repository` is there, so that Docker does not make it as root.

    Raises:
        ServerError: if the folder has something in it or cannot be written.
    """
    if folder.is_dir() and any(folder.iterdir()):
        raise ServerError(f"{folder} is not empty: name a new folder for compose.yaml and what belongs to it")
    package = Path(__file__).parent
    files = package / "compose"  # in a wheel
    if not files.is_dir():
        files = package.parents[1]  # in a checkout
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as made:
            whole = Path(made) / folder.name
            whole.mkdir(mode=0o755)
            for name in _FILES:
                _copy(files / name, whole / name)
            for name, root in _PACKAGES.items():
                _copy(_installed(name), whole / root / name)
            shutil.rmtree(whole / "server/nas_serve/compose", ignore_errors=True)  # a wheel's, the same files again
            (whole / "model_repository").mkdir()
            whole.replace(folder)
    except OSError as error:
        raise ServerError(f"{error.filename or folder}: {error.strerror}") from None
    return folder / "compose.yaml"


def _installed(package: str) -> Path:
    found = find_spec(package)
    if found is None or found.origin is None:
        raise ServerError(f"{package} is not installed, though this project's wheel has it: install nas-triton again")
    return Path(found.origin).parent


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
