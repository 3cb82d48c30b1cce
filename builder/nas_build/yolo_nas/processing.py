"""Compile a checkpoint's `processing_params` into a letterbox and a normalization.

super-gradients stores preprocessing as a list of named steps. Fine-tuned checkpoints differ from COCO's (channel
order, size, padding side, division), and ignoring that loses all accuracy without an error. Every step is either
compiled exactly or stops the build by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nas_ensembles import contract
from nas_ensembles.letterbox import LetterboxSpec, Placement

from ..errors import ProcessingError

_PADDINGS: dict[str, Placement] = {"DetectionCenterPadding": "center", "DetectionBottomRightPadding": "top_left"}
_GEOMETRIC = (
    *("DetectionLongestMaxSizeRescale", "DetectionRescale"),
    *("DetectionCenterPadding", "DetectionBottomRightPadding", "DetectionAutoPadding"),
)
_IDENTITY = (1.0, 1.0, 1.0), (0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Processing:
    """From a picture to the network's input, and the thresholds the checkpoint was saved with.

    Attributes:
        letterbox: what the preprocess model does.
        bgr: the network wants BGR; the builder swaps the first convolution's input channels, so that the engine
            takes RGB whatever the checkpoint wants.
        multiply, add: per channel of the network's input: x = pixel * multiply + add.
        thresholds: the served model's defaults.
    """

    letterbox: LetterboxSpec = field(default_factory=LetterboxSpec)
    bgr: bool = False
    multiply: tuple[float, float, float] = (1 / 255, 1 / 255, 1 / 255)
    add: tuple[float, float, float] = (0.0, 0.0, 0.0)
    thresholds: contract.Thresholds = contract.Thresholds()


COCO = Processing()


def compile_processing(params: Mapping[str, Any]) -> Processing:
    """Compile `processing_params`.

    Args:
        params: {"image_processor": {"ComposeProcessing": {"processings": [{step: {argument: value}}, ...]}},
            "iou": float, "conf": float}, as super-gradients' trainer saves it; thresholds may be absent.

    Raises:
        ProcessingError: names the first step that cannot be compiled.
    """
    try:
        return _compile(params)
    except ProcessingError:
        raise
    except Exception as error:  # any value can be in any place of what was saved
        raise ProcessingError(
            f"the checkpoint's processing_params cannot be read: {type(error).__name__}: {str(error)[:200]}. If the "
            "network works with COCO's preprocessing, build with that.",
            options=("processing=coco",),
        ) from error


def _compile(params: Mapping[str, Any]) -> Processing:
    fit: tuple[int, int] | None = None
    stretch = False
    padding: tuple[tuple[int, int], int, Placement] | None = None
    bgr = False
    multiply, add = _IDENTITY
    touched_values = False
    for name, arguments in _steps(params.get("image_processor")):
        match name:
            case "DetectionLongestMaxSizeRescale" | "DetectionRescale" if not (fit or padding or touched_values):
                fit, stretch = _pair(name, arguments, "output_shape"), name == "DetectionRescale"
            case "DetectionLongestMaxSizeRescale" if not (padding or touched_values or stretch) and fit == _pair(
                name, arguments, "output_shape"
            ):
                pass  # data sets rescale when they load a picture, and their transforms again: nothing is left to do
            case "DetectionCenterPadding" | "DetectionBottomRightPadding" if padding is None and not touched_values:
                padding = _pair(name, arguments, "output_shape"), _grey(name, arguments), _PADDINGS[name]
            case "DetectionAutoPadding" if fit and padding is None and not touched_values:
                multiple = _pair(name, arguments, "shape_multiple")
                padding = _rounded_up(fit, multiple), _grey(name, arguments), "top_left"
            case "ReverseImageChannels":
                bgr = not bgr
                multiply, add = _reversed(multiply), _reversed(add)
            case "StandardizeImage":
                touched_values = True
                divisor = _triple(name, [arguments.get("max_value", 255.0)] * 3)
                multiply, add = _divide(multiply, divisor), _divide(add, divisor)
            case "NormalizeImage":
                touched_values = True
                mean, std = _triple(name, arguments.get("mean")), _triple(name, arguments.get("std"))
                multiply = _divide(multiply, std)
                add = _divide(_triple(name, [a - m for a, m in zip(add, mean, strict=True)]), std)
            case "ImagePermute":
                if (order := tuple(arguments.get("permutation", (2, 0, 1)))) != (2, 0, 1):
                    raise ProcessingError(f"ImagePermute: expected permutation (2, 0, 1), got {order}.")
            case name if name in _GEOMETRIC:
                raise ProcessingError(
                    f"{name} appears twice or out of order in the checkpoint's processing_params; "
                    "expected one rescale, then one padding, both before any change of values."
                )
            case _:
                raise ProcessingError(
                    f"the checkpoint's processing_params hold the step {name!r}, which cannot be compiled; known are "
                    f"{', '.join(_GEOMETRIC)}, ReverseImageChannels, StandardizeImage, NormalizeImage and "
                    "ImagePermute. If the network works with COCO's preprocessing, build with that.",
                    options=("processing=coco",),
                )
    if padding is None and fit is not None and stretch:
        padding = fit, 0, "top_left"  # nothing is left to pad
    if fit is None or padding is None:
        missing = "a rescaling" if fit is None else "a padding to a fixed size"
        raise ProcessingError(f"the checkpoint's processing_params lack {missing}: the engine's input has one size.")
    try:
        letterbox = LetterboxSpec(padding[0], fit, padding[1], padding[2], stretch)
        thresholds = contract.Thresholds(
            score=_threshold(params, "conf", contract.Thresholds.score),
            iou=_threshold(params, "iou", contract.Thresholds.iou),
        )
    except ValueError as error:
        raise ProcessingError(f"the checkpoint's processing_params do not make a letterbox: {error}") from None
    return Processing(letterbox, bgr, multiply, add, thresholds)


def _steps(node: Any) -> list[tuple[str, Mapping[str, Any]]]:
    """Flatten nested ComposeProcessing into (name, arguments)."""
    if isinstance(node, Mapping) and len(node) == 1:
        ((name, arguments),) = node.items()
        arguments = arguments or {}
        if isinstance(name, str) and isinstance(arguments, Mapping):
            if name != "ComposeProcessing":
                return [(name, arguments)]
            if isinstance(children := arguments.get("processings"), Sequence):
                return [step for child in children for step in _steps(child)]
    if isinstance(node, str):
        return [(node, {})]
    raise ProcessingError(f"processing_params: expected {{step: {{argument: value}}}}, got {str(node)[:200]}")


def _triple(name: str, values: Any) -> tuple[float, float, float]:
    flat = [float(v) for v in _flatten(values)]
    if len(flat) != 3:
        raise ProcessingError(f"{name}: expected one value per channel, got {values}")
    return flat[0], flat[1], flat[2]


def _flatten(values: Any) -> list[Any]:
    if hasattr(values, "tolist"):
        values = values.tolist()
    return [x for v in values for x in _flatten(v)] if isinstance(values, list | tuple) else [values]


def _divide(values: tuple[float, float, float], divisors: tuple[float, float, float]) -> tuple[float, float, float]:
    if 0 in divisors:
        raise ProcessingError(f"processing_params divide by zero: {divisors}")
    a, b, c = (v / d for v, d in zip(values, divisors, strict=True))
    return a, b, c


def _reversed(values: tuple[float, float, float]) -> tuple[float, float, float]:
    return values[2], values[1], values[0]


def _pair(name: str, arguments: Mapping[str, Any], key: str) -> tuple[int, int]:
    try:
        height, width = arguments[key]
        return int(height), int(width)
    except (KeyError, TypeError, ValueError):
        raise ProcessingError(f"{name}: expected {key} (height, width), got {arguments.get(key)!r}") from None


def _rounded_up(fit: tuple[int, int], multiple: tuple[int, int]) -> tuple[int, int]:
    """The canvas of pictures that are padded to a multiple: that of the largest, for an engine has one size."""
    if min(multiple) < 1:
        raise ProcessingError(f"DetectionAutoPadding: expected positive multiples, got {multiple}")
    height, width = (-(-side // step) * step for side, step in zip(fit, multiple, strict=True))
    return height, width


def _grey(name: str, arguments: Mapping[str, Any]) -> int:
    values = set(_flatten(arguments.get("pad_value")))
    if len(values) != 1 or not isinstance(value := values.pop(), int | float) or value != int(value):
        raise ProcessingError(f"{name}: expected one grey as pad_value, got {arguments.get('pad_value')!r}")
    return int(value)


def _threshold(params: Mapping[str, Any], key: str, default: float) -> float:
    value = params.get(key)
    return default if value is None else float(value)
