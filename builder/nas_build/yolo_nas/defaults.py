"""What stands in for what a checkpoint does not say: names of its classes, and its preprocessing."""

from __future__ import annotations

from pathlib import Path

from nas_eval.coco_names import COCO_NAMES

from ..errors import BuildError, CheckpointError
from ..options import ProcessingSource
from ..progress import BuildProgress
from . import processing
from .checkpoint import Checkpoint
from .processing import Processing


def class_names(checkpoint: Checkpoint, file: Path | None, progress: BuildProgress) -> list[str]:
    """By label: the file's, else the checkpoint's, else COCO's for a network of 80 classes, else numbers.

    Args:
        checkpoint: whose network.
        file: with one name per line.
        progress: warned where names are made up.

    Raises:
        BuildError: if the file cannot be read, or there are another number of names than the network has classes.
    """
    if file:
        return _names_in(file, checkpoint.num_classes)
    name = checkpoint.path.name
    if checkpoint.class_names:
        if len(checkpoint.class_names) != checkpoint.num_classes:
            raise CheckpointError(
                f"{name}: {len(checkpoint.class_names)} class names saved beside a network of "
                f"{checkpoint.num_classes} classes; give all of them, one per line.",
                options=("class_names",),
            )
        return list(checkpoint.class_names)
    if checkpoint.num_classes == len(COCO_NAMES):
        progress.warn(f"{name} names no classes; it has 80, so COCO's names are taken.", options=("class_names",))
        return list(COCO_NAMES)
    progress.warn(f"{name} names no classes; they are called class_0, class_1, ...", options=("class_names",))
    return [f"class_{i}" for i in range(checkpoint.num_classes)]


def processing_of(checkpoint: Checkpoint, source: ProcessingSource, progress: BuildProgress) -> Processing:
    """Compiled from the checkpoint's processing_params; COCO's if it has none, or if COCO's are asked for.

    Raises:
        ProcessingError: if they hold a step that cannot be compiled.
    """
    params = checkpoint.processing_params
    if source == "coco":
        return processing.COCO
    if params and params.get("image_processor"):
        return processing.compile_processing(params)
    progress.warn(f"{checkpoint.path.name} holds no processing_params: COCO's preprocessing is taken.")
    return processing.COCO


def _names_in(file: Path, count: int) -> list[str]:
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BuildError(f"{file}: cannot read class names, one per line: {error}") from None
    names = [line.strip() for line in lines if line.strip()]
    if len(names) != count:
        raise BuildError(f"{file}: {len(names)} names; the network has {count} classes.")
    return names
