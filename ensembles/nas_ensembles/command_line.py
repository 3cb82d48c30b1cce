"""What the programs have in common on a command line: help as plain text, in sections, that fits any terminal."""

from __future__ import annotations

import inspect
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

_EXAMPLES = "Examples:"


class Command(TyperCommand):
    """A command whose options are listed under their `rich_help_panel`, and examples a line each."""

    def format_help_text(self, ctx: Any, formatter: Any) -> None:
        """Paragraphs; one that begins with "Examples:" has them between semicolons."""
        _write_text(self.help or "", formatter)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """As click writes them: what does not fit is wrapped, and nothing is cut off."""
        _write_sections(self.get_params(ctx), ctx, formatter)


class Group(TyperGroup):
    """Likewise, with commands below."""

    def format_help_text(self, ctx: Any, formatter: Any) -> None:
        """As of `Command`."""
        _write_text(self.help or "", formatter)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """As of `Command`, and then the commands."""
        _write_sections(self.get_params(ctx), ctx, formatter)
        self.format_commands(ctx, formatter)


def application(**options: Any) -> typer.Typer:
    """A program; its commands are added with `cls=Command`."""
    return typer.Typer(
        cls=Group, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None, **options
    )


def _write_sections(parameters: list[Any], ctx: Any, formatter: Any) -> None:
    sections: dict[str, list[tuple[str, str]]] = {}
    for parameter in parameters:
        title = "Arguments" if parameter.param_type_name == "argument" else parameter.rich_help_panel or "Options"
        if record := parameter.get_help_record(ctx):
            sections.setdefault(title, []).append(record)
    for title, records in sections.items():
        with formatter.section(title):
            formatter.write_dl(records)


def _write_text(text: str, formatter: Any) -> None:
    for paragraph in inspect.cleandoc(text).split("\n\n"):
        words = " ".join(paragraph.split())
        formatter.write_paragraph()
        with formatter.indentation():
            if not words.startswith(_EXAMPLES):
                formatter.write_text(words)
                continue
            formatter.write_text(_EXAMPLES)
            with formatter.indentation():
                for example in words.removeprefix(_EXAMPLES).split(";"):
                    formatter.write_text(example.strip())
