"""A model repository of nothing but what is served: links into the one that was built."""

from __future__ import annotations

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
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir()
    for name in models or names(repository):
        if polled:
            (folder / name).symlink_to(repository / name)
        else:
            _link_files(repository / name, folder / name)


def _link_files(source: Path, folder: Path) -> None:
    """In folders of our own, which can be written to and taken away."""
    folder.mkdir()
    for path in source.resolve().iterdir():
        if path.name == "__pycache__":
            continue
        if path.is_dir():
            _link_files(path, folder / path.name)
        else:
            (folder / path.name).symlink_to(path)
