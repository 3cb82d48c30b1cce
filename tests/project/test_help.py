"""The help of every command fits a terminal of 80 columns, and says nothing twice."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer.main

BIN = Path(sys.executable).parent
PROGRAMS = {"nas-build": "nas_build.cli.main", "nas-client": "nas_client.cli.main", "nas-serve": "nas_serve.cli"}


def commands() -> Iterator[list[str]]:
    for program, module in PROGRAMS.items():
        yield [program]
        command = typer.main.get_command(importlib.import_module(module).app)
        yield from ([program, name] for name in getattr(command, "commands", ()))


def help_of(command: list[str], columns: int) -> str:
    done = subprocess.run(
        [BIN / command[0], *command[1:], "--help"],
        env=os.environ | {"COLUMNS": str(columns)}, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("command", list(commands()), ids=" ".join)
def test_help_fits_and_is_whole(command: list[str]) -> None:
    text = help_of(command, 80)
    assert max(map(len, text.splitlines())) <= 80, text
    assert "…" not in text and "<bool>" not in text
    assert not [line for line in text.splitlines() if line.endswith("...") and not line.startswith("Usage")], text
    wide = help_of(command, 200)
    assert sorted(text.split()) == sorted(wide.split()) or len(text.split()) == len(wide.split())


def test_every_command_was_looked_at() -> None:
    assert len(list(commands())) >= 10
