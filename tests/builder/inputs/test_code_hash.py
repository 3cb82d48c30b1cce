from __future__ import annotations

import ast
import shutil
from pathlib import Path

import nas_build
import pytest
from nas_build.inputs import code_hash

TEXT = '''"""Module."""

LIMIT = 1  # of something


def f(x: str) -> str:
    """Say."""
    # why
    return f"{x} # {LIMIT}"
'''
BUILDER = Path(nas_build.__file__).parent


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("Module.", "Another."),
        ("Say.", "Say\n\n    more."),
        ("# why", "# because"),
        ("    # why\n", ""),
        ("  # of", "  # o"),
    ],
)
def test_comments_and_docstrings_decide_nothing(before: str, after: str) -> None:
    assert code_hash.code(TEXT.replace(before, after)) == code_hash.code(TEXT)


@pytest.mark.parametrize(("before", "after"), [("= 1", "= 2"), ("} #", "} $"), ("(x: str)", "(x: bytes)")])
def test_code_decides(before: str, after: str) -> None:
    assert code_hash.code(TEXT.replace(before, after)) != code_hash.code(TEXT)


@pytest.fixture
def builder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the builder's code that can be changed."""
    folder = tmp_path / "nas_build"
    shutil.copytree(BUILDER, folder, ignore=shutil.ignore_patterns("__pycache__", "samples"))
    moved = {path: folder / path.relative_to(BUILDER) for path in code_hash._DECIDE_NOTHING if BUILDER in path.parents}
    monkeypatch.setattr(
        code_hash, "_DECIDE_NOTHING", tuple(moved.get(path, path) for path in code_hash._DECIDE_NOTHING)
    )
    monkeypatch.setattr(code_hash, "_BUILDER", folder)
    return folder


def change(path: Path, before: str, after: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert before in text
    path.write_text(text.replace(before, after), encoding="utf-8")


def test_a_help_text_leaves_models_up_to_date(builder: Path) -> None:
    before = code_hash.sha256()
    change(builder / "cli/main.py", "Larger pictures are refused.", "No larger ones.")
    change(builder / "graph/export.py", "# of 3 MB each", "# of three")
    change(builder / "graph/export.py", '"""Write the engine\'s graph', '"""The graph')
    change(builder / "progress.py", "round(", "float(")
    assert code_hash.sha256() == before
    change(builder / "graph/export.py", "OPSET = 19", "OPSET = 20")
    assert code_hash.sha256() != before


def test_a_new_module_counts(builder: Path) -> None:
    before = code_hash.sha256()
    (builder / "int8/new.py").write_text("X = 1\n")
    assert code_hash.sha256() != before


def test_what_is_left_out_exists_and_decides_nothing() -> None:
    """Nothing that counts imports a value from what does not, but how builds speak and hashes of files."""
    assert all(path.exists() for path in code_hash._DECIDE_NOTHING)
    harmless = {"progress", "downloads"}
    for path in code_hash.code_files():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[-1] not in harmless:
                assert "cli" not in {*(node.module or "").split("."), *(alias.name for alias in node.names)}
