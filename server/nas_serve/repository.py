"""The models of a repository that are served: their names, and a view of nothing but them."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from nas_ensembles import contract

from .errors import ServerError


def names(repository: Path) -> list[str]:
    """Of all models in it, sorted."""
    return sorted(path.parent.name for path in repository.glob("*/config.pbtxt"))


def with_parts(repository: Path, chosen: Sequence[str]) -> list[str]:
    """The chosen models, and what they are made of; none if none were chosen, which means all.

    Raises:
        ServerError: one is not there.
    """
    wanted = list(dict.fromkeys(chosen))
    for name in wanted:
        config = repository / name / "config.pbtxt"
        if not config.exists():
            there = ", ".join(names(repository))
            raise ServerError(f"{repository}: no model {name} in it; it has: {there}.")
        parts = _steps(config)
        if name in chosen and (repository / contract.frames_name(name)).is_dir():
            parts.insert(0, contract.frames_name(name))
        wanted += [part for part in parts if part not in wanted]
    return wanted


def link(repository: Path, models: Sequence[str], folder: Path, *, polled: bool) -> None:
    """A model repository of nothing but these models: links to the files.

    Python writes its bytecode there and not beside the models, and takes none from there.

    Args:
        repository: where they lie.
        models: their names, with those of their parts.
        folder: to make.
        polled: their versions come and go, so whole folders are linked.
    """
    folder.mkdir()
    for name in models:
        source, without = repository / name, shutil.ignore_patterns("__pycache__")
        if polled:
            (folder / name).symlink_to(source)
        else:
            shutil.copytree(source.resolve(), folder / name, ignore=without, copy_function=os.symlink)


def _steps(config: Path) -> list[str]:
    """Models that an ensemble is made of; none of what is no ensemble or cannot be read: Triton names what is wrong."""
    # Slow to import, and the supervisor, which imports this package, does without.
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2

    with contextlib.suppress(text_format.ParseError, UnicodeDecodeError):
        parsed = text_format.Parse(config.read_text(encoding="utf-8"), model_config_pb2.ModelConfig())
        return [step.model_name for step in parsed.ensemble_scheduling.step]
    return []
