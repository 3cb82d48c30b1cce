"""The tensor contract: the only place that spells the names, types and limits every part agrees on.

A served model `NAME` is an ensemble of `NAME_preprocess` -> `NAME_engine` -> `NAME_postprocess`. `NAME_frames` is a
second ensemble of the same three that takes raw frames instead of encoded pictures.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Datatype = Literal["BYTES", "UINT8", "INT32", "FP32"]  # as Triton's protocol calls them
_DTYPES: Mapping[Datatype, Any] = {"BYTES": np.object_, "UINT8": np.uint8, "INT32": np.int32, "FP32": np.float32}


@dataclass(frozen=True)
class Tensor:
    """A tensor that models take or give.

    Attributes:
        name: in configs and requests.
        datatype: of its elements.
        shape: after the batch dimension. A letter stands for a size that a model fixes (K candidates, a canvas of
            H x W) or that a request brings (h x w of a frame).
        optional: a request may leave it out.
    """

    name: str
    datatype: Datatype
    shape: tuple[int | str, ...]
    optional: bool = False

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of numpy."""
        return np.dtype(_DTYPES[self.datatype])

    def dims(self, sizes: Mapping[str, int]) -> list[int]:
        """The shape with sizes for its letters; -1 for those that are not given."""
        return [sizes.get(size, -1) if isinstance(size, str) else size for size in self.shape]

    def full(self, batch: int, value: float = 0) -> NDArray[Any]:
        """A batch of them that holds a value; the shape has no letters."""
        return np.full((batch, *self.dims({})), value, self.dtype)


CANDIDATES = 1024  # the largest K: the best (anchor, class) pairs, chosen in the graph
DETECTIONS = 300  # rows of the outputs, and the largest max_detections
PAD_LABEL = -1

# Ensemble inputs.
IMAGE = Tensor("image", "BYTES", (1,))  # one encoded picture: JPEG, PNG, WebP, BMP
FRAME = Tensor("frame", "UINT8", ("h", "w", 3))  # RGB, of `NAME_frames` instead of `image`
SCORE_THRESHOLD = Tensor("score_threshold", "FP32", (1,), optional=True)
IOU_THRESHOLD = Tensor("iou_threshold", "FP32", (1,), optional=True)
MAX_DETECTIONS = Tensor("max_detections", "INT32", (1,), optional=True)
THRESHOLDS = (SCORE_THRESHOLD, IOU_THRESHOLD, MAX_DETECTIONS)

# Between the composing models.
IMAGES = Tensor("images", "UINT8", (3, "H", "W"))  # RGB, letterboxed
GEOMETRY = Tensor("geometry", "FP32", (6,))  # scale x and y, pad left and top, image width and height
CANDIDATE_BOXES = Tensor("candidate_boxes", "FP32", ("K", 4))  # xyxy in canvas pixels
CANDIDATE_SCORES = Tensor("candidate_scores", "FP32", ("K",))  # falling
CANDIDATE_LABELS = Tensor("candidate_labels", "INT32", ("K",))
CANDIDATE_TENSORS = (CANDIDATE_BOXES, CANDIDATE_SCORES, CANDIDATE_LABELS)
ENGINE_INFO = Tensor("engine_info", "BYTES", (1,))  # JSON, what computes the graph; of openvino engines, if asked for

# Ensemble outputs.
NUM_DETECTIONS = Tensor("num_detections", "INT32", (1,))  # N
BOXES = Tensor("boxes", "FP32", (DETECTIONS, 4))  # xyxy in picture pixels, clipped to it; zero from row N on
SCORES = Tensor("scores", "FP32", (DETECTIONS,))  # falling; 0 from row N on
LABELS = Tensor("labels", "INT32", (DETECTIONS,))  # -1 from row N on
OUTPUTS = (NUM_DETECTIONS, BOXES, SCORES, LABELS)


@dataclass(frozen=True)
class Stage:
    """What one of the composing models takes and gives."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


# Preprocessing takes one of its two inputs.
STAGES: Mapping[str, Stage] = {
    "preprocess": Stage((replace(IMAGE, optional=True), replace(FRAME, optional=True)), (IMAGES, GEOMETRY)),
    "engine": Stage((IMAGES,), CANDIDATE_TENSORS),
    "postprocess": Stage((*CANDIDATE_TENSORS, GEOMETRY, *THRESHOLDS), OUTPUTS),
}

DEFAULT_MAX_BATCH_SIZE = 8
DEFAULT_MAX_PIXELS = 50_000_000

# Keys of the config `parameters`. Values are JSON.
CLASS_NAMES = "class_names"
LETTERBOX = "letterbox"
MAX_PIXELS = "max_pixels"
SCALED_DECODING = "scaled_decoding"  # of JPEGs that are larger than the canvas
CORE_SHARE = "core_share"  # of the cores that preprocessing finds: so many pictures at a time
VARIANT = "variant"
PRECISION = "precision"
TARGET = "target"
CHECKPOINT_SHA256 = "checkpoint_sha256"
BUILD_VERSIONS = "build_versions"
KNOWN_ANSWER = "known_answer"  # of the engine: a `known_answer.KnownAnswer`, and the `version` it is of
PLAN = "plan"  # TensorRT release, GPU and options of the engine's plan


def model_name(variant: str, precision: str) -> str:
    """`model_name("s", "int8")` is `yolo_nas_s_int8`."""
    return f"yolo_nas_{variant}_{precision}"


def stage_name(name: str, stage: str) -> str:
    """`stage_name("yolo_nas_s_int8", "engine")` is `yolo_nas_s_int8_engine`."""
    if stage not in STAGES:
        raise ValueError(f"unknown stage {stage!r}; expected one of {', '.join(STAGES)}")
    return f"{name}_{stage}"


def frames_name(name: str) -> str:
    """`frames_name("yolo_nas_s_int8")` is `yolo_nas_s_int8_frames`."""
    return f"{name}_frames"


def read_parameters(config: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters of a model config in its JSON form, each value decoded. Values that are not JSON stay text."""
    parameters = {}
    for key, value in config.get("parameters", {}).items():
        text = value["string_value"]
        try:
            parameters[key] = json.loads(text)
        except ValueError:
            parameters[key] = text
    return parameters


@dataclass(frozen=True)
class Thresholds:
    """What a request may set; the defaults are those of super-gradients' predict().

    Attributes:
        score: candidates must score more, in [0, 1].
        iou: of two boxes of a class that overlap more, the better stays, in [0, 1].
        max_detections: 1 to 300.
    """

    score: float = 0.25
    iou: float = 0.7
    max_detections: int = DETECTIONS

    def __post_init__(self) -> None:
        for tensor, value in ((SCORE_THRESHOLD, self.score), (IOU_THRESHOLD, self.iou)):
            if not 0 <= value <= 1:
                raise ValueError(f"{tensor.name} must be from 0 to 1, got {value}")
        if not 1 <= self.max_detections <= DETECTIONS:
            raise ValueError(f"{MAX_DETECTIONS.name} must be from 1 to {DETECTIONS}, got {self.max_detections}")


VALIDATION_THRESHOLDS = Thresholds(score=0.01, iou=0.7)  # as the field validates
