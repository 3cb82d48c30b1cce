"""What makes a model doubtful whose graph computes what PyTorch does: the network itself, or what int8 costs it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

_MANY = 100  # clear objects in a picture, on average: dense scenes have some dozens, untrained networks fill all 300
_LITTLE = 3.0  # mAP: whoever is below knows hardly anything of what is labelled
_MUCH = 3.0  # mAP points; the demo loses 0.6 on 80 pictures


class Doubt(NamedTuple):
    """One of them, and the options that may mend it."""

    message: str
    options: tuple[str, ...]


def doubts(measured: Mapping[str, Any]) -> list[Doubt]:
    """Of what a build measured.

    Args:
        measured: `agreement`, and `int8` of int8 models, as the manifest has them.
    """
    agreement, int8 = measured["agreement"], measured.get("int8", {})
    accuracy = int8.get("accuracy", {})
    pictures, objects = agreement["pictures"], agreement["detections"]
    found = []
    if not objects:
        message = (
            f"float32 finds nothing in the {pictures} pictures that were looked at. If they show what the network was "
            "trained on, the weights or the preprocessing are wrong."
        )
        found.append(Doubt(message, ("int8.calibration", "processing")))
    elif objects > _MANY * pictures:
        message = (
            f"float32 finds {objects / pictures:.0f} objects in a picture, as a network does that was not trained, or "
            "sees other values than it was trained with."
        )
        found.append(Doubt(message, ("weights", "processing")))
    if int8.get("truth") == "labels" and accuracy.get("map_50_95_float32", 100.0) < _LITTLE:
        message = (
            f"float32 itself reaches {accuracy['map_50_95_float32']:g} mAP on the labelled pictures: the weights, the "
            "preprocessing, the order of the classes or the labels are wrong."
        )
        found.append(Doubt(message, ("weights", "processing", "class_names", "int8.validation")))
    if accuracy.get("loss_low", 0.0) > _MUCH:
        message = (
            f"int8 loses {accuracy['loss']:g} mAP points against float32 (95 % interval {accuracy['loss_low']:g} to "
            f"{accuracy['loss_high']:g}). Calibrate with more pictures like those it will see, bound the loss, or "
            "serve fp16."
        )
        found.append(Doubt(message, ("int8.calibration", "int8.budget", "precision=fp16")))
    return found
