"""Machines with an NVIDIA GPU, as far as programs on PATH can say so."""

from __future__ import annotations

from pathlib import Path


def write_script(path: Path, text: str) -> None:
    """A program."""
    path.write_text(text)
    path.chmod(0o755)
