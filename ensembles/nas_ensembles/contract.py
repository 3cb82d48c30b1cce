"""The tensor contract: the only place that spells the names, types and limits every part agrees on.

A served model `NAME` is an ensemble of `NAME_preprocess` -> `NAME_engine` -> `NAME_postprocess`. `NAME_frames` is a
second ensemble of the same three that takes raw frames instead of encoded pictures.
Shapes here are after the batch dimension.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# Ensemble inputs.
IMAGE = "image"  # BYTES [1]: one encoded picture: JPEG, PNG, WebP, BMP
FRAME = "frame"  # UINT8 [H, W, 3]: RGB, of `NAME_frames` instead of `image`
SCORE_THRESHOLD = "score_threshold"  # FP32 [1], optional
IOU_THRESHOLD = "iou_threshold"  # FP32 [1], optional
MAX_DETECTIONS = "max_detections"  # INT32 [1], optional

# Between the composing models.
IMAGES = "images"  # UINT8 [3, H, W]: RGB, letterboxed
GEOMETRY = "geometry"  # FP32 [5]: scale, pad left, pad top, image width, image height
CANDIDATE_BOXES = "candidate_boxes"  # FP32 [K, 4]: xyxy in canvas pixels
CANDIDATE_SCORES = "candidate_scores"  # FP32 [K]
CANDIDATE_LABELS = "candidate_labels"  # INT32 [K]

ENGINE_INFO = "engine_info"  # BYTES [1]: JSON, what computes the graph; of openvino engines, for who asks for it

# Ensemble outputs.
NUM_DETECTIONS = "num_detections"  # INT32 [1]: N
BOXES = "boxes"  # FP32 [300, 4]: xyxy in pixels of the original picture, clipped to it; zero from row N on
SCORES = "scores"  # FP32 [300]: sorted; 0 from row N on
LABELS = "labels"  # INT32 [300]; -1 from row N on

GEOMETRY_SIZE = 5
CANDIDATES = 1024  # K, the best (anchor, class) pairs, chosen in the graph
DETECTIONS = 300  # rows of the outputs, and the largest max_detections
PAD_LABEL = -1

# super-gradients' predict() defaults.
DEFAULT_SCORE_THRESHOLD = 0.25
DEFAULT_IOU_THRESHOLD = 0.7
DEFAULT_MAX_BATCH_SIZE = 8
DEFAULT_MAX_PIXELS = 50_000_000

# Keys of the config `parameters`. Values are JSON.
CLASS_NAMES = "class_names"
LETTERBOX = "letterbox"
MAX_PIXELS = "max_pixels"
VARIANT = "variant"
PRECISION = "precision"
TARGET = "target"
CHECKPOINT_SHA256 = "checkpoint_sha256"
BUILD_VERSIONS = "build_versions"
KNOWN_ANSWER = "known_answer"  # of the engine: a `known_answer.KnownAnswer`, and the `version` it is of
PLAN = "plan"  # TensorRT release, GPU and options of the engine's plan

STAGES = ("preprocess", "engine", "postprocess")


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
    """What a request may set.

    Attributes:
        score: candidates must score more, in [0, 1].
        iou: of two boxes of a class that overlap more, the better stays, in [0, 1].
        max_detections: 1 to 300.
    """

    score: float = DEFAULT_SCORE_THRESHOLD
    iou: float = DEFAULT_IOU_THRESHOLD
    max_detections: int = DETECTIONS

    def __post_init__(self) -> None:
        for name, value in ((SCORE_THRESHOLD, self.score), (IOU_THRESHOLD, self.iou)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name} must be from 0 to 1, got {value}")
        if not 1 <= self.max_detections <= DETECTIONS:
            raise ValueError(f"{MAX_DETECTIONS} must be from 1 to {DETECTIONS}, got {self.max_detections}")


def check_class_names(names: Sequence[str], num_classes: int) -> tuple[str, ...]:
    """Class names as a tuple.

    Raises:
        ValueError: if there are not `num_classes` of them.
    """
    if len(names) != num_classes:
        raise ValueError(f"{len(names)} class names for a network of {num_classes} classes")
    return tuple(str(name) for name in names)
