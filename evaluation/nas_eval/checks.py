"""What the readers of all formats ask of a data set: its files come from anywhere."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

_LISTED = 3  # examples in a message
_SURROGATE = re.compile("[\ud800-\udfff]")


def is_text(value: Any) -> bool:
    """Whether it is a string that can be written, without halves of surrogate pairs."""
    return type(value) is str and not _SURROGATE.search(value)


def inside(folder: Path, names: Iterable[str]) -> list[Path | None]:
    """Files that are named relative to a folder; None for those whose names lead out of it.

    Symbolic links are not looked at: whoever may make them in the folder may choose what is in it.
    """
    root = os.path.join(os.path.abspath(folder), "")
    whole = (os.path.normpath(os.path.join(root, name)) for name in names)
    return [folder / one[len(root) :] if one.startswith(root) else None for one in whole]


def some(names: Sequence[str]) -> str:
    """The first names, and how many more there are, for a message."""
    rest = len(names) - _LISTED
    return ", ".join(names[:_LISTED]) + (f" and {rest} more" if rest > 0 else "")
