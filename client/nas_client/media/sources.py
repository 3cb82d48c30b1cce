"""What `nas-client detect SOURCE...` may name: files, folders, globs, URLs, streams, cameras, standard input."""

from __future__ import annotations

import glob
import mimetypes
import os
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import SplitResult, urlsplit

import httpx
from nas_ensembles import images

STDIN = "-"
_UNREGISTERED = frozenset({".avif", ".heic", ".heif", ".jxl"})  # of pictures, where Python does not know them yet
MAX_BYTES = 256 * 2**20  # of a picture that comes from elsewhere


@dataclass(frozen=True)
class Source:
    """One picture or video, not read yet.

    Attributes:
        name: as reported: a path, a URL or "-".
        file_name: for what is saved for it, with its suffix or none.
        relative: path in the folder that was named, else the file name.
    """

    name: str
    file_name: str
    relative: str = ""

    def __post_init__(self) -> None:
        if not self.relative:
            object.__setattr__(self, "relative", self.file_name)

    def check_name(self) -> None:
        """Raises OSError for a name that no result file can have in it: text is UTF-8."""
        try:
            self.name.encode()
        except UnicodeEncodeError:
            raise OSError("its name is not UTF-8 text; rename it") from None

    def read(self) -> bytes:
        """The encoded picture.

        Raises:
            OSError: if it cannot be read or downloaded; says why.
        """
        self.check_name()
        if self.name == STDIN:
            return _limited([sys.stdin.buffer.read(MAX_BYTES + 1)])
        if _is_url(self.name):
            return download(self.name)
        path = Path(self.name)
        try:
            return path.read_bytes()
        except IsADirectoryError:
            raise OSError(f"a folder without pictures ({', '.join(sorted(images.SUFFIXES))})") from None
        except OSError as error:
            raise OSError((error.strerror or str(error)).lower()) from None


def download(url: str) -> bytes:
    """An encoded picture, of at most `MAX_BYTES`.

    Raises:
        OSError: if it cannot be had; says why.
    """
    try:
        with httpx.stream("GET", url, follow_redirects=True, timeout=30.0) as response:
            return _limited(response.raise_for_status().iter_bytes())
    except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:
        raise OSError(f"cannot download: {error or type(error).__name__}") from None


def _limited(parts: Iterable[bytes]) -> bytes:
    data = bytearray()
    for part in parts:
        data += part
        if len(data) > MAX_BYTES:
            raise OSError(f"more than {MAX_BYTES // 2**20} MiB, which is no picture; nothing more was read")
    return bytes(data)


def expand(
    names: Iterable[str],
    suffixes: Collection[str] = images.SUFFIXES,
    left_out: Callable[[str, Counter[str]], None] = lambda *_: None,
) -> list[Source]:
    """Sources in the order given: a glob becomes its files and a folder those with the suffixes, sorted.

    A name that matches nothing stays, so that reading it reports the error beside the results of the others.

    Args:
        names: as they were given.
        suffixes: of files to take in folders.
        left_out: told of a folder how many pictures and videos of which other suffix are in it, if any.
    """
    sources: list[Source] = []
    for name in names:
        if name == STDIN:
            sources.append(Source(name, "stdin"))
        elif "://" in name:
            sources.append(Source(name, PurePosixPath(split_url(name).path).name or "download"))
        else:
            folder = Path(os.path.expanduser(name))
            sources += [
                Source(str(path), path.name, str(path.relative_to(folder)) if folder in path.parents else "")
                for path in _paths(name, suffixes, left_out)
            ]
    return sources


def originals(sources: Iterable[Source]) -> frozenset[str]:
    """Real paths of those that are files here: nothing may be written there."""
    return frozenset(os.path.realpath(source.name) for source in sources if os.path.isfile(source.name))


def split_url(name: str) -> SplitResult:
    """Parts of a URL or of a file's name. One that is malformed is all path: whoever opens it says what is wrong."""
    try:
        return urlsplit(name)
    except ValueError:
        scheme, separator, rest = name.partition("://")
        return SplitResult(scheme.lower(), "", rest, "", "") if separator else SplitResult("", "", name, "", "")


def _paths(name: str, suffixes: Collection[str], left_out: Callable[[str, Counter[str]], None]) -> list[Path]:
    path = Path(os.path.expanduser(name))
    if os.path.isdir(path):  # unlike Path's, False for a name that no file can have
        files = sorted(one for one in path.rglob("*") if one.is_file())
        others = Counter(one.suffix.lower() for one in files if one.suffix.lower() not in suffixes)
        if visual := Counter({suffix: count for suffix, count in others.items() if _is_visual(suffix)}):
            left_out(name, visual)
        return [one for one in files if one.suffix.lower() in suffixes] or [path]
    if not os.path.exists(path) and glob.has_magic(name):
        return [Path(p) for p in sorted(glob.glob(str(path), recursive=True)) if os.path.isfile(p)] or [path]
    return [path]


def _is_visual(suffix: str) -> bool:
    kind, _ = mimetypes.guess_type(f"x{suffix}")
    return suffix in _UNREGISTERED or (kind or "").startswith(("image/", "video/"))


def _is_url(name: str) -> bool:
    return name.startswith(("http://", "https://"))
