"""What `nas-client detect SOURCE...` may name: files, folders, globs, URLs, streams, cameras, standard input."""

from __future__ import annotations

import glob
import sys
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

import httpx
from nas_ensembles import images

STDIN = "-"


@dataclass(frozen=True)
class Source:
    """One picture or video, not read yet.

    Attributes:
        name: as reported: a path, a URL or "-".
        file_name: for what is saved for it, with its suffix or none.
    """

    name: str
    file_name: str

    def read(self) -> bytes:
        """The encoded picture.

        Raises:
            OSError: if it cannot be read or downloaded; says why.
        """
        if self.name == STDIN:
            return sys.stdin.buffer.read()
        if _is_url(self.name):
            try:
                return httpx.get(self.name, follow_redirects=True, timeout=30.0).raise_for_status().content
            except httpx.HTTPError as error:
                raise OSError(f"cannot download: {error or type(error).__name__}") from None
        path = Path(self.name)
        try:
            return path.read_bytes()
        except IsADirectoryError:
            raise OSError(f"a folder without pictures ({', '.join(sorted(images.SUFFIXES))})") from None
        except OSError as error:
            raise OSError((error.strerror or str(error)).lower()) from None


def expand(names: Iterable[str], suffixes: Collection[str] = images.SUFFIXES) -> list[Source]:
    """Sources in the order given: a glob becomes its files and a folder those with the suffixes, sorted.

    A name that matches nothing stays, so that reading it reports the error beside the results of the others.
    """
    sources: list[Source] = []
    for name in names:
        if name == STDIN:
            sources.append(Source(name, "stdin"))
        elif "://" in name:
            sources.append(Source(name, PurePosixPath(urlsplit(name).path).name or "download"))
        else:
            sources += [Source(str(path), path.name) for path in _paths(name, suffixes)]
    return sources


def _paths(name: str, suffixes: Collection[str]) -> list[Path]:
    path = Path(name).expanduser()
    if path.is_dir():
        return sorted(p for p in path.rglob("*") if p.suffix.lower() in suffixes and p.is_file()) or [path]
    if not path.exists() and glob.has_magic(name):
        return [Path(p) for p in sorted(glob.glob(str(path), recursive=True)) if Path(p).is_file()] or [path]
    return [path]


def _is_url(name: str) -> bool:
    return name.startswith(("http://", "https://"))
