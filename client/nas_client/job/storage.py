"""Folders and files, here or in an object store, by fsspec."""

from __future__ import annotations

from typing import Any, NamedTuple

import fsspec
import pyarrow.fs

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
        """The filesystem, for pyarrow and Ray."""
        return pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(self.filesystem))

    def read(self) -> bytes:
        """The whole file.

        Raises:
            OSError: if it cannot be read; says why.
        """
        try:
            return bytes(self.filesystem.cat_file(self.path))
        except OSError as error:
            raise OSError((error.strerror or str(error) or type(error).__name__).lower()) from None
