"""Where weights come from: the demo checkpoint, the official COCO files, or a file of the user's."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import httpx
import platformdirs

from .errors import CheckpointError, DownloadError
from .variants import VARIANTS, Variant

LICENCE_NOTICE = (
    "The official YOLO-NAS weights are Deci's: non-commercial use only, no redistribution, no managed service for "
    "third parties; fine-tuned weights inherit these terms. You accept them by using the file."
)
# Samples ship inside the wheel, and lie at the top of a checkout.
_SAMPLES = (Path(__file__).parent / "samples", Path(__file__).parents[2] / "samples")
_DEMO = "yolo_nas_s_demo.safetensors"
_HOSTS = (
    "https://d2gjn4b69gu75n.cloudfront.net/models",
    "https://sghub.deci.ai/models",
    "https://sg-hub-nv.s3.amazonaws.com/models",
)
_CHUNK = 1 << 18

Progress = Callable[[str, int, int], None]  # what, bytes or items done, total


@dataclass(frozen=True)
class Download:
    """A file that is the same wherever it comes from.

    Attributes:
        name: of the file in the cache.
        sha256: hexadecimal, pinned.
        urls: tried in order.
    """

    name: str
    sha256: str
    urls: tuple[str, ...]


def _official(variant: Variant, sha256: str) -> Download:
    name = f"yolo_nas_{variant}_coco.pth"
    return Download(name, sha256, tuple(f"{host}/{name}" for host in _HOSTS))


OFFICIAL: dict[Variant, Download] = {
    "s": _official("s", "c1b1d9148ab8ae5d5984699547e850955ff9efccaf568c67b3d605acb4bfe1cb"),
    "m": _official("m", "b194fc7fa196f76161c6356558bedf04fb99a62325a74a36a4bec3ca8ba48250"),
    "l": _official("l", "91a06beaa1ce1a651d6691e3198061da996eafc8890503238dedacbd4c392a32"),
}


def cache_folder() -> Path:
    """NAS_CACHE, or the user's cache folder for nas-triton."""
    return Path(os.environ.get("NAS_CACHE") or platformdirs.user_cache_path("nas-triton"))


def samples_folder() -> Path:
    """The bundled pictures and the demo checkpoint."""
    for folder in _SAMPLES:
        if folder.is_dir():
            return folder
    raise CheckpointError(f"the bundled samples are missing; looked in {' and '.join(map(str, _SAMPLES))}.")


def resolve(
    weights: str,
    variant: Variant | None,
    notice: Callable[[str], None],
    progress: Progress,
) -> Path:
    """The checkpoint file that `--weights` means.

    Args:
        weights: "coco", "demo", or a path, in which {variant} stands for the variant's letter.
        variant: "s" if None, where it matters.
        notice: called with the licence notice before a download begins.
        progress: called as bytes arrive.

    Raises:
        CheckpointError: if there is no such checkpoint.
        DownloadError: if the official file cannot be had.
    """
    if weights == "demo":
        if variant not in (None, "s"):
            raise CheckpointError(
                f"the demo checkpoint is YOLO-NAS S; there is none for {str(variant).upper()}. "
                "Use --weights coco or a checkpoint of your own."
            )
        return samples_folder() / _DEMO
    if weights == "coco":
        return fetch(OFFICIAL[variant or "s"], cache_folder(), lambda: notice(LICENCE_NOTICE), progress)
    path = Path(weights.replace("{variant}", variant or "s")).expanduser()
    if not path.is_file():
        raise CheckpointError(
            f"{path}: no such file. Expected --weights coco, demo, or a checkpoint "
            f"(.pth, .pt, .safetensors; {{variant}} in the path stands for {', '.join(VARIANTS)})."
        )
    return path


def fetch(
    download: Download, folder: Path, before: Callable[[], None] = lambda: None, progress: Progress = lambda *_: None
) -> Path:
    """Download a file into a folder unless it is there.

    The bytes go to `NAME.part`, which a later call resumes; the file gets its name when its hash is right.

    Raises:
        DownloadError: says what each URL answered, and how to bring the file by hand.
    """
    target = folder / download.name
    if target.is_file() and file_sha256(target) == download.sha256:
        return target
    before()
    reasons = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for url in download.urls:
            part = folder / f"{download.name}.part"
            try:
                _receive(url, part, download.name, progress)
            except httpx.HTTPError as error:
                reasons.append(f"{url}: {error or type(error).__name__}")
                continue
            if (got := file_sha256(part)) == download.sha256:
                part.replace(target)
                return target
            part.unlink()
            reasons.append(f"{url}: SHA-256 {got}, expected {download.sha256}")
    except OSError as error:
        raise DownloadError(f"{folder}: cannot keep {download.name} there: {error}. Set NAS_CACHE.") from error
    raise DownloadError(
        f"{download.name} could not be downloaded:\n  "
        + "\n  ".join(reasons)
        + f"\nBring the file (SHA-256 {download.sha256}) here by other means and put it at {target}, "
        "or give its path with --weights; --weights demo needs no download."
    )


def _receive(url: str, part: Path, name: str, progress: Progress) -> None:
    """Append what is missing of `part`; start over where the server does not resume."""
    have = part.stat().st_size if part.exists() else 0
    headers = {"Range": f"bytes={have}-"} if have else {}
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
                progress(f"download {name}", done, total)


def file_sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
