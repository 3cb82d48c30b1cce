"""What the supervisor tells: lines to who started it, files to probes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path


def say(word: str, text: str = "") -> None:
    """One line on standard output.

    They are: `ready`, `restarting CAUSE`, `wrong MODEL`, `note TEXT`, `waiting TEXT`, `reloading`,
    `gave-up CAUSE`.
    """
    with contextlib.suppress(BrokenPipeError):
        print(f"{word} {text}".strip().replace("\n", " "), flush=True)


@dataclass
class Troubles:
    """With files, such as on a full disk: what is there to help is told of and does without."""

    _told: set[str] = field(default_factory=set)

    @contextlib.contextmanager
    def noted(self, what: str) -> Iterator[None]:
        """Goes on after an OSError; says so once until it works again."""
        try:
            yield
        except OSError as error:
            if what not in self._told:
                self._told.add(what)
                say("note", f"{what}: {error}")
        else:
            self._told.discard(what)


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
