"""What was found in one picture."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import supervision


@dataclass(frozen=True, eq=False)
class Detections:
    """Objects of one picture, best first. All four have one entry per object.

    Attributes:
        boxes_xyxy: (N, 4) float32, left, top, right, bottom in pixels of the upright picture, inside it.
        scores: (N,) float32 in [0, 1], falling.
        labels: (N,) int32, class indices.
        names: N class names; names[i] belongs to labels[i].
    """

    boxes_xyxy: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int32]
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        n = len(self.names)
        shapes = self.boxes_xyxy.shape, self.scores.shape, self.labels.shape
        if shapes != ((n, 4), (n,), (n,)):
            raise ValueError(f"expected boxes ({n}, 4), scores ({n},) and labels ({n},) for {n} names, got {shapes}")

    def __len__(self) -> int:
        return len(self.names)

    def only(self, names: Collection[str]) -> Detections:
        """Those of some classes.

        Args:
            names: of the classes to keep.
        """
        kept = [name in names for name in self.names]
        return Detections(
            boxes_xyxy=self.boxes_xyxy[kept],
            scores=self.scores[kept],
            labels=self.labels[kept],
            names=tuple(name for name in self.names if name in names),
        )

    def to_dict(self) -> dict[str, list[Any]]:
        """The same four fields as plain lists, for JSON.

        >>> detections.to_dict()
        {'boxes_xyxy': [[23.0, 231.5, 805.1, 756.9]], 'scores': [0.94], 'labels': [5], 'names': ['bus']}
        """
        return {
            "boxes_xyxy": self.boxes_xyxy.tolist(),
            "scores": self.scores.tolist(),
            "labels": self.labels.tolist(),
            "names": list(self.names),
        }

    def to_supervision(self) -> supervision.Detections:
        """For roboflow/supervision; class names are in data["class_name"].

        Raises:
            ImportError: if supervision is not installed.
        """
        try:
            import supervision
        except ImportError:
            raise ImportError("to_supervision needs supervision: pip install 'nas-triton[supervision]'") from None
        return supervision.Detections(
            xyxy=self.boxes_xyxy,
            confidence=self.scores,
            class_id=self.labels.astype(int),
            data={"class_name": np.array(self.names, dtype=str)},
        )
