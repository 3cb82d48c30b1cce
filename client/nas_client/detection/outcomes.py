"""What became of each picture of a stream."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Generic, TypeVar

from .detections import Detections
from .image_input import Loaded

_Item = TypeVar("_Item")


@dataclass(frozen=True)
class Detected(Generic[_Item]):
    """An item that was answered.

    Attributes:
        item: as it was given.
        image: what was sent for it: encoded bytes, or a frame.
        detections: in it.
    """

    item: _Item
    image: Loaded = field(repr=False)
    detections: Detections


@dataclass(frozen=True)
class Failed(Generic[_Item]):
    """An item that could not be read, sent or answered.

    Attributes:
        item: as it was given.
        error: a `ClientError`, OSError or ValueError.
    """

    item: _Item
    error: Exception


Outcome = Detected[_Item] | Failed[_Item]
