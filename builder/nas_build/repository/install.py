"""Install a served model into a Triton model repository, whole or not at all."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import nas_ensembles
from nas_ensembles import contract, integrity, known_answer
from nas_ensembles.integrity import CONFIG, MANIFEST
from nas_ensembles.known_answer import KnownAnswer

from ..errors import RepositoryError, reason
from . import model_card
from .configs import ServedModel, render

MACHINE = "machine.json"  # what depends on the machine that built it; no other file does
_STAGING_PREFIX = ".nas-build-"


def versions(repository: Path, name: str) -> list[int]:
    """Installed versions of a model, rising."""
    folder = repository / name
    found = [int(p.name) for p in folder.iterdir() if p.name.isdigit()] if folder.is_dir() else []
    return sorted(found)


def read_manifest(repository: Path, name: str) -> dict[str, Any] | None:
    """Manifest of the newest version, or None if there is none or a file it lists is gone or changed.

    A config.pbtxt may be changed: that is how instance counts and the like are set by hand.
    """
    try:
        integrity.check(repository, [name])
        text = (repository / name / str(versions(repository, name)[-1]) / MANIFEST).read_text(encoding="utf-8")
        manifest: dict[str, Any] = json.loads(text)
        whole = all((repository / file).exists() for file in manifest["files"])
    except (integrity.IntegrityError, OSError, ValueError, KeyError, TypeError, AttributeError, IndexError):
        return None
    return manifest if whole else None


def read_machine(repository: Path, name: str) -> dict[str, Any]:
    """What the newest version's build measured of its machine; empty if that file is gone."""
    try:
        text = (repository / name / str(versions(repository, name)[-1]) / MACHINE).read_text(encoding="utf-8")
        return dict(json.loads(text))
    except (OSError, ValueError, IndexError):
        return {}


def models(repository: Path) -> list[str]:
    """Names of the models that were built into a repository."""
    return sorted({path.parent.parent.name for path in repository.glob(f"*/*/{MANIFEST}")})


def install(
    repository: Path,
    model: ServedModel,
    engine_file: bytes,
    known: KnownAnswer,
    manifest: Mapping[str, Any],
    machine: Mapping[str, Any],
) -> int:
    """Write the five models beside their older versions.

    Everything is written and synced in a hidden staging folder, then renamed into place: composing models first, the
    ensembles last. On any failure the staging folder is removed and no version folder is left half-written.

    Args:
        repository: made if it is not there.
        model: what to serve.
        engine_file: bytes of the target's engine file.
        known: what the engine must answer.
        manifest: what the build knows; the installed files and their SHA-256 are added as "files".
        machine: what depends on this machine; it is in a file of its own.

    Returns:
        The version that was installed.

    Raises:
        RepositoryError: if the folder cannot be written.
    """
    with _repository_errors(repository), _staging(repository) as staging, _alone(repository):
        version = 1 + max((v for name in model.names for v in versions(repository, name)), default=0)
        configs = model.configs({"version": version, **known.to_dict()})
        folders = {name: staging / name / str(version) for name in configs}
        for name, folder in folders.items():
            folder.mkdir(parents=True)
            _write(staging / name / CONFIG, render(configs[name]).encode())
        for stage in ("preprocess", "postprocess"):
            _write_python_model(stage, folders[contract.stage_name(model.name, stage)])
        engine = folders[contract.stage_name(model.name, "engine")]
        _write(engine / model.target.engine_file, engine_file)
        _write(engine / known_answer.FILE, json.dumps(known.to_dict()).encode())
        _write(folders[model.name] / model_card.FILE, model_card.render(model, manifest).encode())
        files = {
            str(path.relative_to(staging)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(staging.rglob("*"))
            if path.is_file()
        }
        text = json.dumps(
            {**manifest, "version": version, "files": files}, indent=2, ensure_ascii=False, sort_keys=True
        )
        _write(folders[model.name] / MANIFEST, text.encode() + b"\n")
        _write(folders[model.name] / MACHINE, json.dumps(machine, indent=2).encode() + b"\n")
        for path in staging.rglob("*"):
            if path.is_dir():
                _sync(path)
        with contextlib.ExitStack() as undo:
            for name in configs:  # the ensemble is the last
                _move_into_place(staging / name, repository / name, str(version), undo)
            _sync(repository)
            undo.pop_all()
    return version


def _move_into_place(source: Path, target: Path, version: str, undo: contextlib.ExitStack) -> None:
    """Rename one model, or one version of it, from the staging folder into the repository."""
    if not target.exists():
        source.rename(target)
        undo.callback(shutil.rmtree, target, ignore_errors=True)
        return
    (source / version).rename(target / version)
    undo.callback(shutil.rmtree, target / version, ignore_errors=True)
    if (target / CONFIG).exists():
        undo.callback(_write, target / CONFIG, (target / CONFIG).read_bytes())
    (source / CONFIG).replace(target / CONFIG)
    _sync(target)


@contextlib.contextmanager
def _staging(repository: Path) -> Iterator[Path]:
    """A hidden folder on the repository's file system (renames need that), removed however the build ends.

    Beside the repository, because Triton takes every folder in it for a model, hidden ones too; inside only if the
    repository is a mount point or its parent cannot be written.
    """
    repository = repository.absolute()
    repository.mkdir(parents=True, exist_ok=True)
    beside = repository.parent.stat().st_dev == repository.stat().st_dev and os.access(repository.parent, os.W_OK)
    base = repository.parent if beside else repository
    for left in base.glob(f"{_STAGING_PREFIX}*"):
        pid = left.name.removeprefix(_STAGING_PREFIX).partition("-")[0]
        if pid.isdigit() and not Path(f"/proc/{pid}").exists():  # of a build that was killed
            shutil.rmtree(left, ignore_errors=True)
    staging = Path(tempfile.mkdtemp(prefix=f"{_STAGING_PREFIX}{os.getpid()}-", dir=base))
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)


@contextlib.contextmanager
def _alone(repository: Path) -> Iterator[None]:
    """No other build takes the same version meanwhile, where folders can be locked."""
    folder = os.open(repository, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


@contextlib.contextmanager
def _repository_errors(repository: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RepositoryError(
            f"{repository}: cannot write the model repository: {reason(error)}. Nothing was installed; free "
            "space or fix the folder's permissions, or name another.",
            options=("model_repository",),
        ) from error


def check_writable(repository: Path) -> None:
    """Fail before the work, not after it.

    Raises:
        RepositoryError: if nothing can be written into the folder.
    """
    with _repository_errors(repository), _staging(repository), tempfile.TemporaryFile(dir=repository):
        pass


def _write_python_model(stage: str, folder: Path) -> None:
    """model.py of a stage and the helpers it imports: the folder needs nothing of ours installed on the server."""
    package = Path(nas_ensembles.__file__).parent
    _write(folder / "model.py", (package / stage / "model.py").read_bytes())
    helpers = folder / package.name
    helpers.mkdir()
    for module in nas_ensembles.IN_MODELS:
        _write(helpers / f"{module}.py", (package / f"{module}.py").read_bytes())


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
