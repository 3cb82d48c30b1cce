"""Where weights come from: the demo checkpoint, the official COCO files, or a file of the user's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from nas_eval import errors as eval_errors
from nas_eval.downloads import Download, Progress, cache_folder, fetch, file_sha256

from ..errors import CheckpointError, DownloadError
from .variants import VARIANTS, Variant

LICENCE_NOTICE = (
    "The official YOLO-NAS weights are Deci's: non-commercial use only, no redistribution, no managed service for "
    "third parties; fine-tuned weights inherit these terms. You accept them by using the file."
)
# Samples ship inside the wheel, and lie at the top of a checkout.
_SAMPLES = (Path(__file__).parents[1] / "samples", Path(__file__).parents[3] / "samples")
_DEMO = "yolo_nas_s_demo.safetensors"
_HOSTS = (
    "https://d2gjn4b69gu75n.cloudfront.net/models",
    "https://sghub.deci.ai/models",
    "https://sg-hub-nv.s3.amazonaws.com/models",
)

__all__ = ["Progress", "cache_folder", "file_sha256", "resolve", "samples_folder"]


def _official(variant: Variant, sha256: str) -> Download:
    name = f"yolo_nas_{variant}_coco.pth"
    return Download(name, sha256, tuple(f"{host}/{name}" for host in _HOSTS))


OFFICIAL: dict[Variant, Download] = {
    "s": _official("s", "c1b1d9148ab8ae5d5984699547e850955ff9efccaf568c67b3d605acb4bfe1cb"),
    "m": _official("m", "b194fc7fa196f76161c6356558bedf04fb99a62325a74a36a4bec3ca8ba48250"),
    "l": _official("l", "91a06beaa1ce1a651d6691e3198061da996eafc8890503238dedacbd4c392a32"),
}


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
        try:
            return fetch(OFFICIAL[variant or "s"], cache_folder(), lambda: notice(LICENCE_NOTICE), progress)
        except eval_errors.DownloadError as error:
            raise DownloadError(f"{error} Or give its path with --weights; --weights demo needs no download.") from None
    path = Path(weights.replace("{variant}", variant or "s")).expanduser()
    if not path.is_file():
        raise CheckpointError(
            f"{path}: no such file. Expected --weights coco, demo, or a checkpoint "
            f"(.pth, .pt, .safetensors; {{variant}} in the path stands for {', '.join(VARIANTS)})."
        )
    return path
