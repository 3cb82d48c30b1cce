"""What can go wrong in a build.

BuildError
├── OptionError         options that no build can have
├── CheckpointError     the file cannot be read, is no YOLO-NAS, or lacks keys
├── ProcessingError     the checkpoint's preprocessing holds a step that cannot be compiled
├── DownloadError       official weights or a data set cannot be had
├── CalibrationError    no pictures to calibrate with
├── DisagreementError   the exported graph does not compute what PyTorch computes
├── PlanError           no TensorRT plan can be built, or not one that the server would load
├── RepositoryError     the model repository cannot be written
└── ExportError         an exported file cannot be written, or not over one that is there
"""

from __future__ import annotations

import os


def reason(error: OSError) -> str:
    """In words, without the file's name, which a message gives by itself."""
    return os.strerror(error.errno) if error.errno else str(error)


class BuildError(Exception):
    """Base of all; the message says who, expected, got, and the next step.

    Attributes:
        options: fields of `Options` that mend it: `processing`, `int8.calibration`; or with the value that does,
            `processing=coco`. The command line names its flags by them.
    """

    def __init__(self, message: str, *, options: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.options = options


class OptionError(BuildError):
    """An option, or two together, that no build can have."""


class CheckpointError(BuildError):
    """The file cannot be read, is no YOLO-NAS checkpoint, or its keys or shapes do not fit."""


class ProcessingError(BuildError):
    """The checkpoint's preprocessing holds a step, or an order of steps, that cannot be compiled."""


class DownloadError(BuildError):
    """Official weights or a data set cannot be downloaded, or are not what is pinned."""


class CalibrationError(BuildError):
    """There are no readable pictures to calibrate with."""


class DisagreementError(BuildError):
    """The exported graph does not compute what PyTorch computes."""


class PlanError(BuildError):
    """No TensorRT plan can be built here, or not one that the server would load."""


class RepositoryError(BuildError):
    """The model repository cannot be read or written."""


class ExportError(BuildError):
    """An exported file cannot be written, or one is there already."""
