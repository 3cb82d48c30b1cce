"""Where commands run: an empty folder of this machine, or of a container (`container`)."""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from ...errors import PlanError


class Executor(Protocol):
    """An empty working folder, commands in it, files into it and out of it."""

    def run(self, command: Sequence[str]) -> Generator[str, None, None]:
        """Lines of a command's output as they come. Raises PlanError if it cannot be started or fails."""

    def put(self, name: str, data: bytes) -> None:
        """Write a file."""

    def get(self, name: str) -> bytes:
        """Read a file; empty if there is none."""


class CommandError(PlanError):
    """A command ended with an error; `lines` are what it printed."""

    def __init__(self, command: Sequence[str], code: int, lines: Sequence[str]) -> None:
        super().__init__(f"{command[0]} ended with exit code {code}: {' '.join(lines[-3:]) or 'it printed nothing'}")
        self.lines = list(lines)


@contextlib.contextmanager
def local() -> Iterator[Executor]:
    """A temporary folder of this machine."""
    with tempfile.TemporaryDirectory(prefix="nas-build-") as folder:
        yield _Local(Path(folder))


class _Local:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def run(self, command: Sequence[str]) -> Generator[str, None, None]:
        lines = []
        try:
            process = subprocess.Popen(
                command, cwd=self._folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
            )
        except OSError as error:
            raise PlanError(f"{command[0]} cannot be started: {error.strerror}") from None
        with process:
            try:
                assert process.stdout is not None
                for line in process.stdout:
                    lines.append(line.rstrip())
                    yield lines[-1]
            except BaseException:
                process.kill()
                raise
        if process.returncode:
            raise CommandError(command, process.returncode, lines)

    def put(self, name: str, data: bytes) -> None:
        (self._folder / name).write_bytes(data)

    def get(self, name: str) -> bytes:
        path = self._folder / name
        return path.read_bytes() if path.exists() else b""
