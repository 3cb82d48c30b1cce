"""A model repository of nothing but what is served: links into the one that was built."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path


def names(repository: Path) -> list[str]:
    """Of all models in it, sorted."""
    return sorted(path.parent.name for path in repository.glob("*/config.pbtxt"))


def link(repository: Path, models: Sequence[str], folder: Path, *, polled: bool) -> None:
    """Make the view, in place of the one that was there.

    Python writes its bytecode there and not beside the models, and takes none from there.

    Args:
        repository: where they lie.
        models: their names, with those of their parts; all if empty.
        folder: to make.
        polled: their versions come and go, so whole folders are linked.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name in models or names(repository):
        source, without = repository / name, shutil.ignore_patterns("__pycache__")
        if polled:
            (folder / name).symlink_to(source)
        else:
            shutil.copytree(source.resolve(), folder / name, ignore=without, copy_function=os.symlink)
