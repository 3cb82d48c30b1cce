"""Download files once, whole or not at all; those that are pinned by their hash, with resume."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import platformdirs
from filelock import FileLock

from .errors import DownloadError

_CHUNK = 1 << 18

Progress = Callable[[str, int, int], None]  # what, bytes or items done, total


@dataclass(frozen=True)
class Download:
    """A file that is the same wherever it comes from.

    Attributes:
        name: of the file in the cache.
        sha256: hexadecimal, pinned; None if the caller pins what is in it.
        urls: tried in order.
        headers: of each request; a redirect to another host does not get the Authorization.
    """

    name: str
    sha256: str | None
    urls: tuple[str, ...]
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)


def cache_folder() -> Path:
    """NAS_CACHE, or the user's cache folder for nas-triton."""
    return Path(os.environ.get("NAS_CACHE") or platformdirs.user_cache_path("nas-triton"))


def fetch(
    download: Download, folder: Path, before: Callable[[], None] = lambda: None, progress: Progress = lambda *_: None
) -> Path:
    """Download a file into a folder unless it is there.

    The bytes go to `NAME.part`; the file gets its name when it is whole and its hash is right. After a connection that
    broke, or Ctrl-C, the next URL or call resumes what is pinned and starts over with what is not.

    Raises:
        DownloadError: says what each URL answered, and how to bring the file by hand.
    """
    target = folder / download.name
    if target.is_file() and download.sha256 in (None, file_sha256(target)):
        return target
    before()
    reasons = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with alone(target):
            if target.is_file() and download.sha256 in (None, file_sha256(target)):
                return target
            for url in download.urls:
                reason = _try(url, download, target, progress)
                if reason is None:
                    return target
                reasons.append(f"{without_secrets(url)}: {reason}")
    except OSError as error:
        raise DownloadError(f"{folder}: cannot keep {download.name} there: {error}. Set NAS_CACHE.") from error
    raise DownloadError(
        f"{download.name} could not be downloaded:\n  "
        + "\n  ".join(reasons)
        + f"\nBring the file{_pin(download)} here by other means and put it at {target}."
    )


@contextlib.contextmanager
def alone(path: Path) -> Iterator[None]:
    """Of several processes one at a time; the next looks first whether the path is there."""
    with FileLock(f"{path}.lock") as lock:
        try:
            yield
        finally:
            Path(lock.lock_file).unlink(missing_ok=True)


def _pin(download: Download) -> str:
    return f" (SHA-256 {download.sha256})" if download.sha256 else ""


def without_secrets(url: str) -> str:
    """For messages: a query may hold a signature."""
    try:
        return str(httpx.URL(url).copy_with(userinfo=b"", query=None, fragment=None))
    except (httpx.InvalidURL, UnicodeError):
        return url


def _try(url: str, download: Download, target: Path, progress: Progress) -> str | None:
    """Receive the file; or say why not."""
    part = target.with_name(f"{target.name}.part")
    try:
        _receive(url, part, download, progress)
    except (httpx.HTTPError, httpx.InvalidURL, UnicodeError, ImportError) as error:  # a proxy may want a package
        _drop_unpinned(part, download)
        return _reason(error)
    except KeyboardInterrupt:
        _drop_unpinned(part, download)
        raise
    got = file_sha256(part)
    if download.sha256 in (None, got):
        part.replace(target)
        return None
    part.unlink()
    return f"SHA-256 {got}, expected {download.sha256}"


def _drop_unpinned(part: Path, download: Download) -> None:
    """What is pinned goes on where it stopped; the other may be another file by then."""
    if download.sha256 is None:
        part.unlink(missing_ok=True)


def _reason(error: Exception) -> str:
    """The status of the answer and what the host says of it, or why there is none."""
    if isinstance(error, httpx.HTTPStatusError):
        response = error.response
        said = response.headers.get("X-Error-Message")  # Hugging Face's
        return f"{response.status_code} {response.reason_phrase}" + (f": {said}" if said else "")
    return str(error) or type(error).__name__


def _receive(url: str, part: Path, download: Download, progress: Progress) -> None:
    """Append what is missing of `part`; start over where the server does not resume."""
    have = part.stat().st_size if part.exists() and download.sha256 else 0  # unpinned, it may have changed meanwhile
    # Compressed on its way it would be neither as long nor the same: what is received is written as it is.
    headers = {**download.headers, "Accept-Encoding": "identity", **({"Range": f"bytes={have}-"} if have else {})}
    with httpx.stream("GET", url, headers=headers, follow_redirects=True, timeout=httpx.Timeout(30.0)) as response:
        if response.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
            return  # nothing is missing; the hash decides
        response.raise_for_status()
        resumed = response.status_code == httpx.codes.PARTIAL_CONTENT
        done = have if resumed else 0
        total = done + int(response.headers.get("Content-Length", 0))
        with part.open("ab" if resumed else "wb") as file:
            for chunk in response.iter_raw(_CHUNK):
                file.write(chunk)
                done += len(chunk)
                progress(f"download {download.name}", done, max(done, total))


def file_sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
