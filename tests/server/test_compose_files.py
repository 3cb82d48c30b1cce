"""nas-serve --write-compose: what users without a checkout get."""

from __future__ import annotations

import filecmp
import os
import subprocess
import sys
from pathlib import Path

import pytest
from nas_serve.compose_files import write_compose
from nas_serve.errors import ServerError

from support.samples import ROOT


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, "-c", "from nas_serve.cli import main; main()", *map(str, arguments)]
    return subprocess.run(program, capture_output=True, text=True, timeout=300, check=False)


def test_every_file_that_an_image_wants_is_there(tmp_path: Path) -> None:
    done = command("--write-compose", tmp_path / "new/folder")
    assert done.returncode == 0 and "docker compose up" in done.stderr
    folder = tmp_path / "new/folder"
    assert list((folder / "model_repository").iterdir()) == []
    wanted = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    tracked = subprocess.run(
        ["git", "ls-files", "compose.yaml", ".env", ".dockerignore", "docker", *wanted],
        capture_output=True, text=True, check=False, cwd=ROOT,
    ).stdout.split()  # fmt: skip
    if not tracked:
        pytest.skip("not a git checkout")
    tracked = [name for name in tracked if not name.startswith("samples/")]  # a distribution of their own
    assert filecmp.cmpfiles(ROOT, folder, tracked, shallow=False)[1:] == ([], [])
    assert not list(folder.rglob("__pycache__"))
    assert oct((folder / "compose.yaml").stat().st_mode)[-3:] == oct(0o666 & ~_umask())[-3:]


def test_nothing_is_written_over(tmp_path: Path) -> None:
    (tmp_path / "compose.yaml").write_text("mine")
    done = command("--write-compose", tmp_path)
    assert done.returncode == 1 and "is not empty: name a new folder" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["compose.yaml"]


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    assert write_compose(tmp_path).read_bytes() == (ROOT / "compose.yaml").read_bytes()


def test_what_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ServerError, match=r"file: "):
        write_compose(tmp_path / "file" / "folder")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
