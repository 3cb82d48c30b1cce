"""Folders and files, here or in an object store, by fsspec."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any, NamedTuple

import fsspec
import pyarrow.fs
from fsspec.implementations.local import LocalFileSystem

from ..errors import JobError


class Place(NamedTuple):
    """A file or folder.

    Attributes:
        filesystem: fsspec's.
        path: in it.
    """

    filesystem: Any
    path: str

    @classmethod
    def of(cls, url: str) -> Place:
        """A path, or a URL that fsspec knows: s3://, gs://, https://.

        Raises:
            JobError: nothing opens such a URL here.
        """
        try:
            filesystem, path = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise JobError(f"{url}: {error}; install what opens it, as pip install s3fs") from None
        return cls(filesystem, path.rstrip("/"))

    def __truediv__(self, name: str) -> Place:
        return Place(self.filesystem, f"{self.path}/{name}")

    def __str__(self) -> str:
        return str(self.filesystem.unstrip_protocol(self.path))

    @property
    def arrow(self) -> Any:
        """The filesystem, for pyarrow and Ray; whoever looks sees none of its files before it is whole."""
        local = isinstance(self.filesystem, LocalFileSystem)
        return pyarrow.fs.PyFileSystem((_WholeFiles if local else pyarrow.fs.FSSpecHandler)(self.filesystem))

    @contextlib.contextmanager
    def written(self) -> Iterator[Any]:
        """A binary file that takes this one's place at the end, and never if something is raised before."""
        part = Place(self.filesystem, _part(self.path))
        try:
            with self.filesystem.open(part.path, "wb") as file:
                yield file
            self.filesystem.mv(part.path, self.path)
        except BaseException:
            part.remove()
            raise

    def remove(self) -> None:
        """Without a word if it is not there."""
        with contextlib.suppress(OSError):
            self.filesystem.rm(self.path)

    def remove_parts(self) -> None:
        """What writers that were killed have left in this folder."""
        for path in self.filesystem.glob(_part(f"{self.path}/*")):
            Place(self.filesystem, path).remove()

    def read(self) -> bytes:
        """The whole file.

        Raises:
            OSError: if it cannot be read; says why.
        """
        try:
            return bytes(self.filesystem.cat_file(self.path))
        except OSError as error:
            raise OSError((error.strerror or str(error) or type(error).__name__).lower()) from None


def _part(path: str) -> str:
    """Where the file is until it is whole; readers of data sets skip names that begin with a dot."""
    folder, _, name = path.rpartition("/")
    return f"{folder}/.{name}.part"


class _WholeFiles(pyarrow.fs.FSSpecHandler):  # type: ignore[misc]
    """A file of this machine appears when it is closed, as an object of a store does."""

    def open_output_stream(self, path: str, metadata: Any) -> Any:
        return pyarrow.PythonFile(_WholeFile(path), mode="w")


class _WholeFile:
    """No file object by inheritance: those close, and so would appear, when their process merely ends."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._file = open(_part(path), "wb")  # noqa: SIM115 - closed by whoever writes
        self._failed = False

    @property
    def closed(self) -> bool:
        return self._file.closed

    def write(self, data: Any) -> int:
        try:
            return self._file.write(data)
        except OSError:  # whoever writes may close it all the same
            self._failed = True
            raise

    def flush(self) -> None:
        self._file.flush()

    def tell(self) -> int:
        return self._file.tell()

    def close(self) -> None:
        if not self.closed:
            self._file.close()
            if not self._failed:
                os.replace(self._file.name, self._path)
