"""What the supervisor tells: lines to who started it, files to probes."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path


def say(word: str, text: str = "") -> None:
    """One line on standard output.

    They are: `ready`, `restarting CAUSE`, `wrong MODEL`, `note TEXT`, `waiting TEXT`, `reloading`,
    `gave-up CAUSE`.
    """
    with contextlib.suppress(BrokenPipeError):
        print(f"{word} {text}".strip().replace("\n", " "), flush=True)


@dataclass(frozen=True)
class Probes:
    """Files `live`, touched while the supervisor runs, and `ready`, while the server answers.

    Attributes:
        folder: of the files; None for no files.
    """

    folder: str | None

    def show(self, name: str) -> None:
        """It is so now."""
        if self.folder is not None:
            (Path(self.folder) / name).touch()

    def hide(self, name: str) -> None:
        """It is not so any more."""
        if self.folder is not None:
            (Path(self.folder) / name).unlink(missing_ok=True)
