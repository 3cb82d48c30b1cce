"""One export, step by step: checkpoint -> network -> ONNX -> check -> file."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx
import torch
from nas_ensembles import images
from nas_ensembles.release import VERSION
from nas_eval.downloads import file_sha256

from .. import exports
from ..errors import BuildError
from ..graph.export import EndToEnd
from ..inputs import bundled, calibration_data
from ..progress import SILENT, BuildProgress
from ..yolo_nas import checkpoint, defaults, weights
from . import check, write
from .base import INPUT, Format
from .check import Agreement
from .options import ExportOptions


@dataclass(frozen=True)
class ExportResult:
    """What an export wrote.

    Attributes:
        format: name of it.
        files: the exported one, then those beside it.
        inputs, outputs: name to type and shape, as `uint8 [1, 3, 320, 320]`.
        metadata: as written into the file.
        agreement: with PyTorch.
        notes: what to write into the runtime's configuration; empty if nothing.
        seconds: per step.
    """

    format: str
    files: list[Path]
    inputs: dict[str, str]
    outputs: dict[str, str]
    metadata: dict[str, str]
    agreement: Agreement
    notes: str
    seconds: dict[str, float]


def export(options: ExportOptions, progress: BuildProgress | None = None) -> ExportResult:
    """Export one checkpoint.

    Args:
        options: what to export.
        progress: of this export; None is silent.

    Raises:
        BuildError: nothing was written; the message says why and what to do.
    """
    progress = progress or BuildProgress()
    kind = exports.get(options.format)
    file = weights.resolve(weights.WeightsRequest(options.weights, options.variant, options.sha256), progress)
    output = options.output or Path(f"{file.stem}_{options.format}.onnx")
    write.require_free({output: None}, options.force)
    loaded = checkpoint.load(file)
    if options.variant not in (None, loaded.variant):
        raise BuildError(
            f"{loaded.path}: holds YOLO-NAS {loaded.variant.upper()}, not {str(options.variant).upper()}.",
            options=(f"variant={loaded.variant}",),
        )
    told = SILENT if options.weights in ("coco", "demo") else progress
    class_names = defaults.class_names(loaded, options.class_names, told)
    form = kind(defaults.processing_of(loaded, options.processing, told), class_names, options)
    beside = {output.parent / name: text.encode() for name, text in form.labels().items()}
    write.require_free({output: None, **beside}, options.force)
    network = loaded.network()
    with progress.step("export"):
        model = form.build(network, f"yolo_nas_{loaded.variant}")
        metadata = _metadata(form, options.format, loaded, file_sha256(file))
        onnx.helper.set_model_props(model, metadata)
        model.producer_version = VERSION
        data = model.SerializeToString(deterministic=True)
    pictures = sorted(path for path in bundled.folder().iterdir() if path.suffix in images.SUFFIXES)
    canvases = list(calibration_data.canvases(pictures, form.settings.letterbox))
    with progress.step("check", len(canvases) + 1):
        reference = EndToEnd(network, form.processing, torch.float64)
        agreement = check.check(data, form, reference, canvases, progress)
    with progress.step("write"):
        write.install({**beside, output: data})
    return ExportResult(
        format=options.format,
        files=[output, *beside],
        inputs=_described(model.graph.input),
        outputs=_described(model.graph.output),
        metadata=metadata,
        agreement=agreement,
        notes=form.notes(output.name),
        seconds=progress.seconds,
    )


def _metadata(form: Format, name: str, loaded: checkpoint.Checkpoint, sha256: str) -> dict[str, str]:
    """What travels in the file; values are JSON but for plain words."""
    settings = form.settings
    preprocessing = {"input": INPUT, "channels": form.channels, "pixels": form.pixels}
    return {
        "format": name,
        "variant": loaded.variant,
        "names": json.dumps(dict(enumerate(form.class_names)), ensure_ascii=False),
        "preprocessing": json.dumps({**preprocessing, "letterbox": settings.letterbox.to_dict()}),
        **({"thresholds": json.dumps(asdict(settings.thresholds))} if form.nms_in_graph else {}),
        "checkpoint_sha256": sha256,
        "producer": f"nas-triton {VERSION}",
    }


def _described(values: Any) -> dict[str, str]:
    described = {}
    for value in values:
        kind = value.type.tensor_type
        dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
        shape = ", ".join(dim.dim_param or str(dim.dim_value) for dim in kind.shape.dim)
        described[value.name] = f"{dtype} [{shape}]"
    return described
