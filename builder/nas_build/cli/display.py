"""What a build looks like: progress bars on a terminal, one line per finished step elsewhere."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from ..progress import BuildProgress
from .flags import with_flags
from .terminal import ERRORS


class Display:
    """Bars of all builds of one command.

    Args:
        quiet: show warnings only.
        verbose: show all that TensorRT says.
    """

    def __init__(self, *, quiet: bool, verbose: bool) -> None:
        self.verbose = verbose
        self.bars = Progress(
            TextColumn("{task.description:<24}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[said]:.60}", style="dim", markup=False),
            console=ERRORS,
            disable=quiet,
        )

    @contextlib.contextmanager
    def live(self) -> Iterator[None]:
        """Show the bars."""
        with self.bars:
            yield

    def model(self, title: str) -> BuildProgress:
        """Of the next build: its steps get bars of their own below the title."""
        if not self.bars.disable:
            self.bars.console.print(title, style="bold")
        return _Bars(self)

    def warn(self, message: str, *, options: tuple[str, ...] = ()) -> None:
        """Something the user should know."""
        self.bars.console.print(Text.assemble(("note: ", "yellow"), with_flags(message, options)))


class _Bars(BuildProgress):
    """Bars of one build."""

    def __init__(self, display: Display) -> None:
        super().__init__()
        self._display = display
        self._tasks: dict[str, TaskID] = {}

    def count(self, what: str, done: int, total: int) -> None:
        if what not in self._tasks:
            self._tasks[what] = self._display.bars.add_task(what, total=total, said="")
        self._current = self._tasks[what]
        self._display.bars.update(self._current, completed=done, total=total, said="")

    def warn(self, message: str, *, options: tuple[str, ...] = ()) -> None:
        self._display.warn(message, options=options)

    def log(self, level: str, line: str) -> None:
        """The last word beside the bar; all of it if verbose."""
        if self._display.verbose:
            ERRORS.print(line, style="red" if level == "error" else "dim")
        elif level == "info":
            self._display.bars.update(self._current, said=line)
