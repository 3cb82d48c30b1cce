"""The key to a server's administrative APIs, for clients of the same user on the same machine.

`nas-serve` closes shared memory, traces and log settings to requests without it, and leaves it where only this user can
read it. Other servers: NAS_ADMIN_KEY.
"""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

HTTP_HEADER = "admin-key"
GRPC_HEADER = "triton-grpc-protocol-admin-key"
VARIABLE = "NAS_ADMIN_KEY"


def folder() -> Path:
    """Of this user's keys: $XDG_RUNTIME_DIR/nas-triton if that is this user's, else /tmp/nas-triton-UID."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and os.path.isdir(runtime) and os.stat(runtime).st_uid == os.getuid():
        return Path(runtime) / "nas-triton"
    return Path(tempfile.gettempdir()) / f"nas-triton-{os.getuid()}"


def write(port: int, key: str) -> Path:
    """Leave the key of the server on a port of this machine.

    Raises:
        OSError: if it cannot be written, or somebody else owns the folder.
    """
    folder().mkdir(mode=0o700, exist_ok=True)
    _must_be_ours(folder())
    path = folder() / f"{port}.key"
    path.unlink(missing_ok=True)  # of a server that is gone
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(key)
    return path


def find(port: int | None) -> str | None:
    """NAS_ADMIN_KEY, else what a server of this user on this port of this machine left; None if there is none."""
    if os.environ.get(VARIABLE):
        return os.environ[VARIABLE]
    if port is None:
        return None
    try:
        _must_be_ours(folder())
        return (folder() / f"{port}.key").read_text(encoding="ascii").strip() or None
    except (OSError, UnicodeDecodeError):
        return None


def _must_be_ours(path: Path) -> None:
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise PermissionError(f"{path} must be a folder of this user's, closed to others; remove it")
