"""Hash of the code that decides what a build writes: a changed exporter makes other files, a changed help text none."""

from __future__ import annotations

import ast
import hashlib
import io
import tokenize
from pathlib import Path

import nas_ensembles
import nas_eval

_BUILDER = Path(__file__).parents[1]
_EVALUATION = Path(nas_eval.__file__).parent
# Left out, so that a new module counts until it is named here.
_DECIDE_NOTHING = (
    _BUILDER / "__init__.py",
    _BUILDER / "cli",
    _BUILDER / "exports",
    _BUILDER / "progress.py",
    _EVALUATION / "__init__.py",
    _EVALUATION / "downloads.py",
)


def sha256() -> str:
    """Of the builder's and the evaluation's code, and of the ensembles' files, which are installed as they are."""
    digest = hashlib.sha256()
    for path in code_files():
        digest.update(code(path.read_text(encoding="utf-8")).encode())
    for path in sorted(Path(nas_ensembles.__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def code_files() -> list[Path]:
    """Whose code counts."""
    paths = [*sorted(_BUILDER.rglob("*.py")), *sorted(_EVALUATION.rglob("*.py"))]
    return [path for path in paths if not {path, *path.parents} & set(_DECIDE_NOTHING)]


def code(text: str) -> str:
    """A source without its comments, docstrings and empty lines.

    As text: the syntax tree's own notation is another with each Python release.
    """
    lines = text.splitlines()
    for node in ast.walk(ast.parse(text)):
        documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        if documented and ast.get_docstring(node, clean=False) is not None:  # type: ignore[arg-type]
            first, last = node.body[0].lineno, node.body[0].end_lineno  # type: ignore[attr-defined]
            lines[first - 1 : last] = [""] * (last - first + 1)
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]
    return "\n".join(line.rstrip() for line in lines if line.strip())
