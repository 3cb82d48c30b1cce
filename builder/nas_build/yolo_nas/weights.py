"""Where weights come from: the demo checkpoint, the official COCO files, a URL, Hugging Face, or a file."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import quote, urlsplit

from nas_eval import errors as eval_errors
from nas_eval.downloads import Download, cache_folder, fetch, file_sha256, without_secrets

from ..errors import CheckpointError, DownloadError
from ..inputs import bundled
from ..options import VARIANTS, Variant
from ..progress import BuildProgress

LICENCE_NOTICE = (
    "The official YOLO-NAS weights are Deci's: non-commercial use only, no redistribution, no managed service for "
    "third parties; fine-tuned weights inherit these terms. You accept them by using the file."
)
MIRROR_VARIABLE = "NAS_WEIGHTS_URL"
# The official files and their hashes, and where they are or were, tried in this order.
OFFICIAL_SHA256: dict[Variant, str] = {
    "s": "c1b1d9148ab8ae5d5984699547e850955ff9efccaf568c67b3d605acb4bfe1cb",
    "m": "b194fc7fa196f76161c6356558bedf04fb99a62325a74a36a4bec3ca8ba48250",
    "l": "91a06beaa1ce1a651d6691e3198061da996eafc8890503238dedacbd4c392a32",
}
OFFICIAL_HOSTS = (
    "https://d2gjn4b69gu75n.cloudfront.net/models",
    "https://sg-hub-nv.s3.amazonaws.com/models",  # answered 403 in 2026
    "https://sghub.deci.ai/models",  # gone since 2025
)
_HUGGING_FACE = re.compile(r"hf://(?P<repo>[\w.-]+/[\w.-]+)/(?P<file>[^@]+?)(@(?P<revision>[^@]+))?")
_SCHEMES = ("hf://", "https://", "http://")


@dataclass(frozen=True)
class WeightsRequest:
    """What is asked for.

    Attributes:
        weights: "coco", "demo", hf://OWNER/REPO/FILE@REVISION, a URL or a path; {variant} stands for the variant's
            letter.
        variant: "s" if None, where it matters.
        sha256: of the file, hexadecimal; None takes whatever it is.
    """

    weights: str | Path
    variant: Variant | None = None
    sha256: str | None = None


def is_remote(weights: str) -> bool:
    """Whether it is a URL, of Hugging Face or elsewhere."""
    return weights.startswith(_SCHEMES)


def official(variant: Variant) -> Download:
    """The official file: from the mirror that the environment names, else from its hosts."""
    name = f"yolo_nas_{variant}_coco.pth"
    hosts = [mirror.rstrip("/")] if (mirror := os.environ.get(MIRROR_VARIABLE)) else []
    return Download(name, OFFICIAL_SHA256[variant], tuple(f"{host}/{name}" for host in (*hosts, *OFFICIAL_HOSTS)))


def resolve(request: WeightsRequest, progress: BuildProgress) -> Path:
    """The checkpoint file that is meant, in the cache if it was downloaded.

    Args:
        request: which.
        progress: warned of the licence before an official file is downloaded, told as bytes arrive.

    Raises:
        CheckpointError: if there is no such checkpoint, or it is another file than `sha256` says.
        DownloadError: if it cannot be had.
    """
    file = _resolve(request, progress)
    if request.sha256 and (got := file_sha256(file)) != request.sha256.lower():
        raise CheckpointError(f"{file}: has SHA-256 {got}, expected {request.sha256}.", options=("sha256",))
    return file


def _resolve(request: WeightsRequest, progress: BuildProgress) -> Path:
    weights = str(request.weights).replace("{variant}", request.variant or "s")
    if weights == "demo":
        if request.variant not in (None, "s"):
            raise CheckpointError(
                f"the demo checkpoint is YOLO-NAS S; there is none for {str(request.variant).upper()}. "
                "Take the official weights or a checkpoint of your own.",
                options=("weights=coco", "weights=FILE"),
            )
        return bundled.folder() / bundled.DEMO_CHECKPOINT
    if weights == "coco":
        return _fetched(official(request.variant or "s"), progress, LICENCE_NOTICE)
    if is_remote(weights):
        download = _download(weights, request.sha256)
        file = _fetched(download, progress)
        if not request.sha256:
            progress.warn(
                f"{without_secrets(weights)} is not pinned: what is used, {file}, has SHA-256 {file_sha256(file)}.",
                options=("sha256",),
            )
        return file
    path = Path(weights).expanduser()
    if not path.is_file():
        raise CheckpointError(
            f"{path}: no such file. Expected coco, demo, hf://OWNER/REPO/FILE, a URL, or a checkpoint "
            f"(.pth, .pt, .safetensors; {{variant}} in the path stands for {', '.join(VARIANTS)}).",
            options=("weights",),
        )
    return path


def _download(weights: str, sha256: str | None) -> Download:
    """Of a URL. Its name in the cache is its own, with what tells it from others of that name."""
    url, headers = weights, {}
    if weights.startswith("hf://"):
        match = _HUGGING_FACE.fullmatch(weights)
        if match is None:
            raise CheckpointError(
                f"{weights}: expected hf://OWNER/REPO/FILE or hf://OWNER/REPO/FILE@REVISION.", options=("weights",)
            )
        endpoint = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
        revision, file = quote(match["revision"] or "main", safe=""), quote(match["file"])
        url = f"{endpoint.rstrip('/')}/{match['repo']}/resolve/{revision}/{file}"
        if token := (os.environ.get("HF_TOKEN") or _saved_token()).strip():
            headers = {"Authorization": f"Bearer {token}"}
    elif weights.startswith("http://") and not sha256:
        raise CheckpointError(
            f"{weights}: anybody on the way could change it. Take https://, or say what it has to be.",
            options=("sha256",),
        )
    name = PurePosixPath(urlsplit(url).path).name or "weights.pth"
    return Download(
        f"{hashlib.sha256(url.encode()).hexdigest()[:12]}-{name}", sha256 and sha256.lower(), (url,), headers
    )


def _saved_token() -> str:
    """What `hf auth login` has left where `huggingface_hub` looks for it."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = os.environ.get("HF_HOME") or f"{cache}/huggingface"
    try:
        return Path(os.environ.get("HF_TOKEN_PATH") or f"{home}/token").expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""


def _fetched(download: Download, progress: BuildProgress, notice: str | None = None) -> Path:
    try:
        return fetch(download, cache_folder(), lambda: progress.warn(notice) if notice else None, progress.count)
    except eval_errors.DownloadError as error:
        gated = "/resolve/" in download.urls[0] and re.search(r"\b40[13]\b", str(error))
        raise DownloadError(
            f"{error} {'A gated repository wants your HF_TOKEN. ' if gated else ''}Or give its path; the demo weights "
            "need no download.",
            options=("weights=FILE", "weights=demo"),
        ) from None
