"""Where weights come from: the demo checkpoint, the official COCO files, or a file of the user's."""

from __future__ import annotations

from pathlib import Path

from nas_eval import errors as eval_errors
from nas_eval.downloads import Download, cache_folder, fetch

from ..errors import CheckpointError, DownloadError
from ..inputs import bundled
from ..options import VARIANTS, Variant
from ..progress import BuildProgress

LICENCE_NOTICE = (
    "The official YOLO-NAS weights are Deci's: non-commercial use only, no redistribution, no managed service for "
    "third parties; fine-tuned weights inherit these terms. You accept them by using the file."
)
_HOSTS = (
    "https://d2gjn4b69gu75n.cloudfront.net/models",
    "https://sghub.deci.ai/models",
    "https://sg-hub-nv.s3.amazonaws.com/models",
)


def _official(variant: Variant, sha256: str) -> Download:
    name = f"yolo_nas_{variant}_coco.pth"
    return Download(name, sha256, tuple(f"{host}/{name}" for host in _HOSTS))


OFFICIAL: dict[Variant, Download] = {
    "s": _official("s", "c1b1d9148ab8ae5d5984699547e850955ff9efccaf568c67b3d605acb4bfe1cb"),
    "m": _official("m", "b194fc7fa196f76161c6356558bedf04fb99a62325a74a36a4bec3ca8ba48250"),
    "l": _official("l", "91a06beaa1ce1a651d6691e3198061da996eafc8890503238dedacbd4c392a32"),
}


def resolve(weights: str | Path, variant: Variant | None, progress: BuildProgress) -> Path:
    """The checkpoint file that is meant.

    Args:
        weights: "coco", "demo", or a path, in which {variant} stands for the variant's letter.
        variant: "s" if None, where it matters.
        progress: warned of the licence before a download begins, told as bytes arrive.

    Raises:
        CheckpointError: if there is no such checkpoint.
        DownloadError: if the official file cannot be had.
    """
    if weights == "demo":
        if variant not in (None, "s"):
            raise CheckpointError(
                f"the demo checkpoint is YOLO-NAS S; there is none for {str(variant).upper()}. "
                "Take the official weights or a checkpoint of your own.",
                options=("weights=coco", "weights=FILE"),
            )
        return bundled.folder() / bundled.DEMO_CHECKPOINT
    if weights == "coco":
        official = OFFICIAL[variant or "s"]
        try:
            return fetch(official, cache_folder(), lambda: progress.warn(LICENCE_NOTICE), progress.count)
        except eval_errors.DownloadError as error:
            raise DownloadError(
                f"{error} Or give its path; the demo weights need no download.",
                options=("weights=FILE", "weights=demo"),
            ) from None
    path = Path(str(weights).replace("{variant}", variant or "s")).expanduser()
    if not path.is_file():
        raise CheckpointError(
            f"{path}: no such file. Expected coco, demo, or a checkpoint "
            f"(.pth, .pt, .safetensors; {{variant}} in the path stands for {', '.join(VARIANTS)}).",
            options=("weights",),
        )
    return path
