"""Detect objects with a YOLO-NAS model served by Triton.

from nas_client import Detector
with Detector("localhost:8001") as detector:
    detections = detector.detect("bus.jpg")
    print(detections.names, detections.boxes_xyxy)
"""

from nas_ensembles.release import VERSION as __version__

from .detection.async_detector import AsyncDetector
from .detection.detections import Detections
from .detection.detector import Detector
from .detection.models import Model
from .detection.outcomes import Detected, Failed, Outcome
from .errors import (
    AdminKeyMissing,
    ClientError,
    ImageRefused,
    ModelUnavailable,
    RequestInvalid,
    ServerBusy,
    ServerNotReady,
    ServerTimeout,
    ServerUnavailable,
    Unauthorized,
)
from .transport import Credentials

__all__ = [
    "AdminKeyMissing",
    "AsyncDetector",
    "ClientError",
    "Credentials",
    "Detected",
    "Detections",
    "Detector",
    "Failed",
    "ImageRefused",
    "Model",
    "ModelUnavailable",
    "Outcome",
    "RequestInvalid",
    "ServerBusy",
    "ServerNotReady",
    "ServerTimeout",
    "ServerUnavailable",
    "Unauthorized",
    "__version__",
]
