"""Pages of the site that are no files here, and links that lead out of this folder."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

_ROOT = Path(__file__).parents[1]
_SOURCE = "https://github.com/nas-triton/nas-triton/blob/main"
_RAW = "https://raw.githubusercontent.com/nas-triton/nas-triton/main"
_OF_THE_TOP = {"index.md": "README.md", "security.md": "SECURITY.md", "contributing.md": "CONTRIBUTING.md"}
_OF_THE_TOP |= {"changelog.md": "CHANGELOG.md"}
_COMMANDS = {"nas-build": "nas_build.cli.main", "nas-client": "nas_client.cli.main", "nas-serve": "nas_serve.cli"}
_API = """# Python API

What the three packages promise; [by example](python-api.md).

## Detect

::: nas_client.Detector
::: nas_client.AsyncDetector
::: nas_client.Detections
::: nas_client.Detected
::: nas_client.Failed
::: nas_client.Model
::: nas_client.Credentials
::: nas_client.errors

## Build

::: nas_build.build
::: nas_build.Options
::: nas_build.Int8Options
::: nas_build.TensorRTOptions
::: nas_build.TensorRTRTXOptions
::: nas_build.pipeline.Result
::: nas_build.progress.BuildProgress
::: nas_build.errors

## Serve

::: nas_serve.Server
::: nas_serve.ServerError
"""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds pages made of files at the top, of the commands' help and of docstrings."""
    made = {page: _from_the_top((_ROOT / name).read_text(encoding="utf-8")) for page, name in _OF_THE_TOP.items()}
    made["cli.md"] = "# Commands\n\n" + "\n".join(_help(name, module) for name, module in _COMMANDS.items())
    made["api.md"] = _API
    for name, content in made.items():
        files.append(File.generated(config, name, content=content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links out of docs lead to the repository."""
    markdown = re.sub(r"\]\(\.\./README\.md(#[^)]*)?\)", r"](index.md\1)", markdown)
    markdown = re.sub(r"\]\(\.\./SECURITY\.md\)", "](security.md)", markdown)
    markdown = re.sub(r"\]\(\.\./([^)]+\.png)\)", rf"]({_RAW}/\1)", markdown)
    return re.sub(r"\]\(\.\./([^)]+)\)", rf"]({_SOURCE}/\1)", markdown)


def _from_the_top(text: str) -> str:
    """Links of a file at the top, as a page has them."""
    pages = {name: page for page, name in _OF_THE_TOP.items()}

    def moved(match: re.Match[str]) -> str:
        target, _, anchor = match[1].partition("#")
        if target.startswith(("http", "mailto:")) or not target:
            return match[0]
        name = pages.get(target) or (
            target.removeprefix("docs/") if target.startswith("docs/") else f"{_SOURCE}/{target}"
        )
        return f"]({name}{'#' + anchor if anchor else ''})"

    return re.sub(r"\]\(([^)]+)\)", moved, text).replace('src="docs/', 'src="')


def _help(name: str, module: str) -> str:
    """A command's reference, one level deeper than a page's title."""
    command: list[Any] = [sys.executable, "-m", "typer", module, "utils", "docs", "--name", name]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=_ROOT)
    return re.sub(r"^#", "##", done.stdout, flags=re.MULTILINE)
