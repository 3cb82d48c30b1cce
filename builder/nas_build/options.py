"""What can be asked of a build, and which part of the up-to-date key each option is.

A field is in the key by its name and value, unless its metadata says otherwise: an option that is forgotten here makes
one build too many, never one too few. Free of PyTorch, so that help and up-to-date builds are quick.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from nas_ensembles import contract

from .errors import OptionError

Variant = Literal["s", "m", "l"]
Precision = Literal["fp16", "int8"]
ProcessingSource = Literal["checkpoint", "coco"]
RangeMethod = Literal["max", "mse", "entropy", "percentile-99.99", "percentile-99.999", "percentile-99.9999"]
PlanWay = Literal["auto", "trtexec", "tensorrt", "docker"]
CalibrationMethod = Literal["auto", RangeMethod]

VARIANTS: tuple[Variant, ...] = get_args(Variant)
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
RANGE_METHODS: tuple[RangeMethod, ...] = get_args(RangeMethod)

_ENTRY, _FOUND_IN, _DECIDES_NOTHING = "entry", "found in", "decides nothing"


def _entry(name: str) -> Mapping[str, Any]:
    """The value is in the key under another name than the field's."""
    return {_ENTRY: name}


def _found_in(*entries: str) -> Mapping[str, Any]:
    """Not the value is in the key but what it leads to, under these names; `build_key` puts it there."""
    return {_FOUND_IN: entries}


def _decides_nothing(why: str) -> Mapping[str, Any]:
    """The files are the same whatever the value is."""
    return {_DECIDES_NOTHING: why}


@dataclass(frozen=True)
class Int8Options:
    """How int8 is calibrated and measured; without effect on fp16, which only checks itself on the pictures.

    Attributes:
        calibration: pictures like those the model will see: a folder, or a data set (YAML, or a name of
            `nas_eval.downloadable`) whose training split calibrates and whose validation split measures; None takes
            the bundled samples.
        calibration_pictures: at most this many of them, evenly spread.
        calibration_method: how ranges are chosen, see `int8.quantize.Settings`.
        validation: labelled data that the loss is measured on: data set YAML, COCO instances JSON, or a name; None
            takes `calibration`'s validation split, or holds pictures out and takes what float32 finds in them for the
            truth.
        validation_images: folder of the JSON's pictures.
        validation_pictures: at most this many of them, evenly spread.
        budget: most mAP points to lose; convolutions that hurt most stay fp16. None: all are int8.
    """

    calibration: Path | None = field(default=None, metadata=_found_in("pictures"))
    calibration_pictures: int = field(default=64, metadata=_found_in("pictures"))
    calibration_method: CalibrationMethod = "auto"
    validation: Path | None = field(default=None, metadata=_found_in("validation", "truth_sha256"))
    validation_images: Path | None = field(default=None, metadata=_found_in("validation"))
    validation_pictures: int = field(default=256, metadata=_found_in("validation", "truth_sha256"))
    budget: float | None = field(default=None, metadata=_entry("int8_budget"))


@dataclass(frozen=True)
class TensorRTOptions:
    """How a plan is built; without effect on other targets. Defaults are TensorRT's.

    Attributes:
        way: what builds it: trtexec on this machine, the tensorrt package, or trtexec in a container of the server's
            image; "auto" takes the first that works.
        server: Triton release (26.08) or image that will load the plan; None takes the one that compose.yaml starts.
        opt_batch_size: kernels are chosen for batches of this size; None takes the largest.
        optimization_level: 0 to 5, how long TensorRT looks for fast kernels.
        workspace_mib: most memory a kernel may use; None for all of the GPU's.
        hardware_compatible: run on Ampere and newer GPUs, not only on the building one.
        version_compatible: run on later TensorRT releases of the same major version.
    """

    way: PlanWay = field(default="auto", metadata=_found_in("built_with"))
    server: str | None = field(default=None, metadata=_found_in("built_with"))
    opt_batch_size: int | None = field(default=None, metadata=_found_in("opt_batch_size"))
    optimization_level: int = 3
    workspace_mib: int | None = None
    hardware_compatible: bool = False
    version_compatible: bool = False


@dataclass(frozen=True)
class TensorRTRTXOptions:
    """How an engine for RTX GPUs is built; without effect on other targets.

    Attributes:
        compute_capability: of the only kind of GPU that will run it: "7.5" (Turing) to "12.1"; None: all from Ampere
            on.
    """

    compute_capability: str | None = None


@dataclass(frozen=True)
class Options:
    """What to build.

    Attributes:
        weights: "coco" (the official file, downloaded once), "demo" (bundled), hf://OWNER/REPO/FILE@REVISION, a URL, or
            a path of a .pth, .pt or .safetensors file; {variant} in it stands for the variant's letter.
        variant: None takes the one recognised in the checkpoint.
        precision: of the engine.
        target: what runs the engine: a name of `targets.TARGETS`, or "auto" for tensorrt where a GPU is and a plan can
            be built, else openvino.
        name: of the served model; None makes it of variant and precision: yolo_nas_s_int8.
        model_repository: Triton's; made if it is not there.
        int8: how to quantize.
        tensorrt: how to build a plan.
        tensorrt_rtx: how to build an engine for RTX GPUs.
        max_batch_size: of all models.
        max_pixels: larger pictures are refused.
        scaled_decoding: JPEGs of twice the canvas and more are decoded to a half, a quarter or an eighth: quicker, and
            not the pixels that the network was trained on.
        class_names: file with one name per line; None takes the checkpoint's.
        processing: whose preprocessing is compiled into the model: that of the checkpoint's processing_params, or
            COCO's.
        force: build even if the same inputs are installed.
        instances: of the engine, on each GPU; None takes the target's.
        queue_delay_us: the engine waits so long for a batch to fill; None takes the target's.
        sign: private key (PEM, elliptic curve), see `integrity.sign`; None leaves the model unsigned.
        sha256: what the weights' file has to be; None takes whatever it is.

    Raises:
        OptionError: if the name cannot be a model's, the hash is none, or TensorRT's batch size is larger than the
            largest.
    """

    weights: str | Path = field(default="coco", metadata=_found_in("checkpoint", "checkpoint_sha256"))
    variant: Variant | None = field(default=None, metadata=_found_in("checkpoint", "name"))
    precision: Precision = "fp16"
    target: str = field(default="openvino", metadata=_found_in("target"))
    name: str | None = field(default=None, metadata=_found_in("name"))
    model_repository: Path = field(
        default=Path("model_repository"), metadata=_decides_nothing("where the files lie is not in them")
    )
    int8: Int8Options = Int8Options()
    tensorrt: TensorRTOptions = TensorRTOptions()
    tensorrt_rtx: TensorRTRTXOptions = TensorRTRTXOptions()
    max_batch_size: int = contract.DEFAULT_MAX_BATCH_SIZE
    max_pixels: int = contract.DEFAULT_MAX_PIXELS
    scaled_decoding: bool = False
    class_names: Path | None = field(default=None, metadata=_found_in("class_names_sha256"))
    processing: ProcessingSource = "checkpoint"
    force: bool = field(default=False, metadata=_decides_nothing("the same is built again"))
    instances: int | None = field(default=None, metadata=_found_in("instances"))
    queue_delay_us: int | None = field(default=None, metadata=_found_in("queue_delay_us"))
    sign: Path | None = field(default=None, metadata=_decides_nothing("a signature lies beside the files it is over"))
    sha256: str | None = field(default=None, metadata=_found_in("checkpoint_sha256"))

    def __post_init__(self) -> None:
        if self.name is not None and not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", self.name):
            raise OptionError(
                f"{self.name!r} cannot be a model's name: letters, digits, '.', '_' and '-' only, and neither of '.' "
                "and '-' as the first.",
                options=("name",),
            )
        if self.sha256 is not None and not re.fullmatch(r"[0-9A-Fa-f]{64}", self.sha256):
            raise OptionError(f"{self.sha256!r} is no SHA-256: expected 64 hexadecimal digits.", options=("sha256",))
        if (self.tensorrt.opt_batch_size or 0) > self.max_batch_size:
            raise OptionError(
                f"the batch size to choose kernels for is at most the largest, {self.max_batch_size}; got "
                f"{self.tensorrt.opt_batch_size}.",
                options=("tensorrt.opt_batch_size",),
            )


def key_entries(options: Any) -> dict[str, Any]:
    """Entries of the key that are values of the options themselves; what they contain is left to their own call."""
    entries = {}
    for one in fields(options):
        value = getattr(options, one.name)
        if _FOUND_IN in one.metadata or _DECIDES_NOTHING in one.metadata or is_dataclass(value):
            continue
        entries[one.metadata.get(_ENTRY, one.name)] = str(value) if isinstance(value, Path) else value
    return entries


def entries_found(options: type) -> set[str]:
    """Entries of the key that `build_key` has to make of what the options lead to."""
    return {entry for one in fields(options) for entry in one.metadata.get(_FOUND_IN, ())}
