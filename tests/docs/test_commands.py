"""Commands in the documentation: each has the subcommands and options that it is written with."""

from __future__ import annotations

import functools
import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from support.samples import ROOT

PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "samples/README.md", ROOT / "compose.yaml"])
_COMMAND = re.compile(r"\b(nas-(?:build|client|serve)|run --rm build)(?![\w-])([^`\n|;&#)]*)")


@functools.cache
def app(name: str) -> Any:
    """Click's command."""
    module = {"nas-client": "nas_client.cli.main", "nas-serve": "nas_serve.cli"}.get(name, "nas_build.cli.main")
    return typer.main.get_command(importlib.import_module(module).app)


def commands(page: Path) -> Iterator[tuple[str, str]]:
    """Name and words of each, out of code blocks and inline code."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    code = re.findall(r"```.*?```", text, re.DOTALL) + re.findall(r"`([^`\n]+)`", text)
    for found in _COMMAND.finditer("\n".join(code) if page.suffix == ".md" else text):
        yield found[1], found[2]


def problem(name: str, words: str) -> str | None:
    """Of a command: an option that it has not."""
    command, inner = app(name), words.partition(" -- ")
    seen = inner[0].split()
    while (commands := getattr(command, "commands", {})) and (chosen := next((w for w in seen if w in commands), None)):
        for word in seen[: seen.index(chosen)]:
            if word.startswith("--") and word not in _options(command):
                return f"{word} before {chosen}"
        command, seen = commands[chosen], seen[seen.index(chosen) + 1 :]
    wrong = [word for word in seen if word.startswith("--") and word.partition("=")[0] not in _options(command)]
    return f"{name} {command.name}: no {', '.join(wrong)}" if wrong else None


def _options(command: Any) -> set[str]:
    names = {name for one in command.params for name in (*one.opts, *one.secondary_opts)}
    return names | {"--help", "--"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_option_is_one(page: Path) -> None:
    wrong = [f"{name}{words}: {said}" for name, words in commands(page) if (said := problem(name, words))]
    assert not wrong, "\n".join(wrong)


def test_a_wrong_option_is_noticed() -> None:
    assert problem("nas-client", "check --wait 60") == "nas-client check: no --wait"
    assert problem("nas-client", "--url HOST:8001 detect bus.jpg") == "--url before detect"
    assert problem("nas-build", "--weights demo") is None and problem("nas-client", "detect a.jpg --url b") is None
    assert sum(len(list(commands(page))) for page in PAGES) > 100
