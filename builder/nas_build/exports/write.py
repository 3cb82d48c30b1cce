"""Write an export's files, all or none."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from ..errors import ExportError, reason

_STAGING_PREFIX = ".nas-build-"


def require_free(files: Mapping[Path, bytes | None], force: bool) -> None:
    """Fail before the work, not after it.

    Args:
        files: of one folder, with what will be in them, as far as it is known: one that holds just that may be there.
        force: whatever is there may be replaced.

    Raises:
        ExportError: if the folder is not there or cannot be written, or a file is there and may not be replaced.
    """
    folder = next(iter(files)).parent
    if not folder.is_dir():
        raise ExportError(f"{folder}: no such folder. Make it, or name another.", options=("output",))
    for path, data in files.items():
        if path.is_dir():
            raise ExportError(f"{path}: is a folder; expected a file.", options=("output",))
        if path.exists() and not force and (data is None or path.read_bytes() != data):
            raise ExportError(f"{path}: is there already.", options=("force", "output"))
    with _errors(folder), tempfile.TemporaryFile(dir=folder):
        pass


def install(files: Mapping[Path, bytes]) -> None:
    """Write files of one folder beside their places, then rename them; the last is the one that counts.

    Raises:
        ExportError: if they cannot be written; none of them was.
    """
    (folder,) = {path.parent for path in files}
    with _errors(folder), contextlib.ExitStack() as stack:
        staging = Path(tempfile.mkdtemp(prefix=f"{_STAGING_PREFIX}{os.getpid()}-", dir=folder))
        stack.callback(shutil.rmtree, staging, ignore_errors=True)
        for path, data in files.items():
            with (staging / path.name).open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        with contextlib.ExitStack() as undo:
            for path in files:
                if path.exists():
                    shutil.copy2(path, staging / f"{path.name}.before")
                    undo.callback(os.replace, staging / f"{path.name}.before", path)
                else:
                    undo.callback(path.unlink, missing_ok=True)
                os.replace(staging / path.name, path)
            undo.pop_all()


@contextlib.contextmanager
def _errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ExportError(
            f"{folder}: cannot be written: {reason(error)}. Nothing was written; free space or fix the "
            "folder's permissions, or name another.",
            options=("output",),
        ) from error
