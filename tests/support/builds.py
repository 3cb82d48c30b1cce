"""Builds and what they said."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nas_build.options import Options
from nas_build.pipeline import Result
from nas_build.progress import BuildProgress


class Heard(BuildProgress):
    """Keeps the warnings, and the options that they name."""

    def __init__(self) -> None:
        super().__init__()
        self.warnings: list[str] = []
        self.options: set[str] = set()

    def warn(self, message: str, *, options: tuple[str, ...] = ()) -> None:
        self.warnings.append(message)
        self.options.update(options)


@dataclass(frozen=True)
class Built:
    options: Options
    result: Result
    progress: Heard

    @property
    def folder(self) -> Path:
        return self.options.model_repository


def options(weights: Path, folder: Path, **changes: object) -> Options:
    """For int8, unless something else is asked for."""
    return Options(**{"weights": str(weights), "precision": "int8", "model_repository": folder, **changes})  # type: ignore[arg-type]
