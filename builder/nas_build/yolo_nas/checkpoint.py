"""Read YOLO-NAS checkpoints of every kind in the wild, with strict keys and without super-gradients."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from ..errors import CheckpointError
from ..options import Variant
from . import network, unpickle
from .blocks import BN_EPS
from .network import ARCHITECTURES, YoloNAS

_CLASS_LOGITS = "heads.head1.cls_pred.weight"
_VARIANT_OF_WIDTH: dict[int, Variant] = {arch.head_inter[0]: variant for variant, arch in ARCHITECTURES.items()}
# In the order of preference: the averaged weights are the ones that were validated.
_WEIGHTS_KEYS = ("ema_net", "ema", "ema_state_dict", "net", "model", "state_dict", "model_state_dict", "module")
_PREFIXES = ("module.", "model.", "net.", "ema_model.", "_orig_mod.")  # what trainers and wrappers put before all keys
_COUNTERS = ("n_averaged",)  # of torch's AveragedModel, beside the weights
# Far more than networks have: a few bytes can say that modules hold each other.
_MOST_PARTS = 20_000  # modules and tensors
_LONGEST_PREFIX = 1000
_DEEPEST_STEP = 4
_DEEPEST_WEIGHTS = 2


@dataclass(frozen=True)
class Checkpoint:
    """Weights of one YOLO-NAS network and what was saved beside them.

    Attributes:
        path: of the file.
        variant: "s", "m" or "l", recognised from the tensors.
        num_classes: recognised from the tensors.
        weights: state dict, float32, keys and shapes exactly those of `network.build(variant, num_classes)`.
        class_names: as saved, or None.
        processing_params: as saved by super-gradients, as plain dicts and lists, or None.
    """

    path: Path
    variant: Variant
    num_classes: int
    weights: Mapping[str, Tensor] = field(repr=False)
    class_names: tuple[str, ...] | None
    processing_params: Mapping[str, Any] | None

    def network(self) -> YoloNAS:
        """The network with these weights, in eval mode."""
        model = network.build(self.variant, self.num_classes)
        model.load_state_dict(dict(self.weights), strict=True)
        return model.eval()


def load(path: str | Path) -> Checkpoint:
    """Read a checkpoint; nothing in the file is executed.

    Args:
        path: super-gradients `.pth`, Ultralytics `.pt` (a pickled super-gradients module), or `.safetensors`.

    Raises:
        CheckpointError: if the file is missing, damaged, unsafe, or holds another network; missing, unexpected and
            misshapen keys are named.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file.", options=("weights",))
    try:
        return _load(path)
    except CheckpointError:
        raise
    except Exception as error:  # a pickle and JSON can hold nearly anything in any place
        raise CheckpointError(
            f"{path}: damaged, or no YOLO-NAS checkpoint: {type(error).__name__}: {unpickle.reason(error)}"
        ) from error


def _load(path: Path) -> Checkpoint:
    if path.suffix == ".safetensors":
        tensors, metadata = _read_safetensors(path)
    else:
        tensors, metadata = _read_torch(path)
    tensors = _without_prefix(tensors)
    # Views can make a large tensor of a few bytes.
    size, claimed = path.stat().st_size, sum(value.numel() * value.element_size() for value in tensors.values())
    if claimed > size * unpickle.MOST_EXPANSION:
        raise CheckpointError(f"{path}: refused: it has {size} bytes, but its weights claim to be {claimed}.")
    variant, num_classes = _recognise(path, tensors)
    params = metadata.get("processing_params")
    if not isinstance(params, Mapping | None):
        raise CheckpointError(f"{path}: expected processing_params to be a dict, got {_describe(params)}.")
    return Checkpoint(
        path=path,
        variant=variant,
        num_classes=num_classes,
        weights=_fit(path, tensors, variant, num_classes),
        class_names=_class_names(path, metadata.get("class_names"), num_classes)
        or _names_by_label(metadata.get("names"), num_classes),
        processing_params=params,
    )


def _class_names(path: Path, saved: Any, num_classes: int) -> tuple[str, ...] | None:
    if saved is None:
        return None
    if not isinstance(saved, list | tuple) or not all(isinstance(name, str | int | float) for name in saved):
        raise CheckpointError(f"{path}: expected class_names to be a list of strings, got {_describe(saved)}.")
    names = tuple(str(name) for name in saved)
    for name in names:
        name.encode()  # half of a surrogate pair could not be written to the model's config
    return names


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            saved = file.metadata() or {}
        tensors = safetensors.torch.load_file(path)
        metadata = {k: json.loads(saved[k]) for k in ("class_names", "processing_params") if k in saved}
    except Exception as error:  # RecursionError, for one, of JSON
        raise CheckpointError(f"{path}: not a safetensors file, or damaged: {unpickle.reason(error)}") from error
    return tensors, metadata


def _read_torch(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    saved = unpickle.load(path)
    outer = saved if isinstance(saved, dict) else {}
    for candidate in _candidates(saved):
        module = candidate if isinstance(candidate, unpickle.Inert) else None
        tensors = _module_tensors(path, module) if module else _tensors(candidate)
        if tensors:
            return tensors, _metadata(path, outer, module)
    raise CheckpointError(
        f"{path}: no weights found; expected a trainer's checkpoint (a dict with {', '.join(_WEIGHTS_KEYS)}), a "
        f"pickled module or a state dict, got {_describe(saved)}."
    )


def _candidates(saved: Any, depth: int = 0) -> Iterator[Any]:
    """Where weights may be, the preferred first: some trainers keep the averaged ones a level deeper."""
    if isinstance(saved, dict) and depth < _DEEPEST_WEIGHTS:
        for key in _WEIGHTS_KEYS:
            if key in saved:
                yield from _candidates(saved[key], depth + 1)
    yield saved


def _without_prefix(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Keys as the network has them, if all share what a wrapper puts before them."""
    tensors = {key: value for key, value in tensors.items() if key not in _COUNTERS}
    while prefix := next((one for one in _PREFIXES if tensors and all(key.startswith(one) for key in tensors)), None):
        tensors = {key.removeprefix(prefix): value for key, value in tensors.items()}
    return tensors


def _tensors(value: Any) -> dict[str, Tensor]:
    if not isinstance(value, Mapping):
        return {}
    return {key: tensor for key, tensor in value.items() if isinstance(key, str) and isinstance(tensor, Tensor)}


def _module_tensors(path: Path, module: unpickle.Inert) -> dict[str, Tensor]:
    """State dict of a pickled torch module, from the attributes every torch.nn.Module keeps."""
    tensors: dict[str, Tensor] = {}
    waiting, count = [("", module)], 0
    while waiting:
        prefix, current = waiting.pop()
        count += 1
        if count + len(waiting) + len(tensors) > _MOST_PARTS or len(prefix) > _LONGEST_PREFIX:
            raise CheckpointError(f"{path}: holds more than {_MOST_PARTS} modules and tensors, or one inside itself.")
        attributes = vars(current)
        unsaved = attributes.get("_non_persistent_buffers_set")
        for group in ("_parameters", "_buffers"):
            for name, tensor in _tensors(attributes.get(group)).items():
                if not (isinstance(unsaved, set) and name in unsaved):
                    tensors[prefix + name] = tensor.detach()
        children = attributes.get("_modules")
        for name, child in children.items() if isinstance(children, Mapping) else ():
            if isinstance(child, unpickle.Inert):
                waiting.append((f"{prefix}{name}.", child))
    return tensors


def _metadata(path: Path, outer: Mapping[str, Any], module: unpickle.Inert | None) -> dict[str, Any]:
    """Class names and processing, from a trainer's dict or from a pickled module's attributes."""
    params = outer.get("processing_params")
    if isinstance(params, Mapping):
        return {"class_names": params.get("class_names"), "processing_params": params}
    attributes = vars(module) if module else {}
    metadata: dict[str, Any] = {"class_names": attributes.get("_class_names"), "names": outer.get("names")}
    processor = attributes.get("_image_processor")
    if isinstance(processor, unpickle.Inert | Mapping):
        metadata["processing_params"] = {
            "image_processor": _plain_step(path, processor),
            "iou": attributes.get("_default_nms_iou"),
            "conf": attributes.get("_default_nms_conf"),
        }
    return metadata


def _names_by_label(saved: Any, num_classes: int) -> tuple[str, ...] | None:
    """What LibreYOLO saves as `names`, {label: name}; others may mean something else by that."""
    if not isinstance(saved, Mapping) or set(saved) != set(range(num_classes)):
        return None
    return tuple(str(saved[label]).encode(errors="replace").decode() for label in range(num_classes))


def _plain_step(path: Path, step: Any, depth: int = 0) -> Any:
    """A pickled processing object in the form the trainer's dict has: {class name: attributes}."""
    if not isinstance(step, unpickle.Inert):
        return step
    if depth > _DEEPEST_STEP:
        raise CheckpointError(f"{path}: its processing has steps more than {_DEEPEST_STEP} deep, or one inside itself.")
    attributes = {key: value for key, value in vars(step).items() if key != "arguments"}
    if isinstance(children := attributes.get("processings"), list | tuple):
        attributes["processings"] = [_plain_step(path, child, depth + 1) for child in children]
    return {step.class_name: attributes}


def _recognise(path: Path, tensors: Mapping[str, Tensor]) -> tuple[Variant, int]:
    if _CLASS_LOGITS not in tensors:
        raise CheckpointError(
            f"{path}: not a YOLO-NAS checkpoint: it lacks {_CLASS_LOGITS}; "
            f"it holds {len(tensors)} tensors: {_some(list(tensors))}."
        )
    shape = tuple(tensors[_CLASS_LOGITS].shape)
    if len(shape) != 4 or shape[0] < 1 or shape[1] not in _VARIANT_OF_WIDTH:
        raise CheckpointError(
            f"{path}: not YOLO-NAS S, M or L: {_CLASS_LOGITS} has shape {shape}; "
            f"expected (1 class or more, {' or '.join(map(str, _VARIANT_OF_WIDTH))}, 1, 1)."
        )
    return _VARIANT_OF_WIDTH[shape[1]], shape[0]


def _fit(path: Path, tensors: dict[str, Tensor], variant: Variant, num_classes: int) -> dict[str, Tensor]:
    """The tensors as a strict state dict of the network, in float32."""
    with torch.device("meta"):
        expected = network.build(variant, num_classes).state_dict()
    tensors = _expand_fused(tensors)
    optional = {key for key in expected if ".rbr_reparam." in key or key.endswith(".num_batches_tracked")}
    problems = {
        "missing": [key for key in expected if key not in tensors and key not in optional],
        "unexpected": [key for key in tensors if key not in expected],
        "of another shape": [
            f"{key} {tuple(tensors[key].shape)}, expected {tuple(value.shape)}"
            for key, value in expected.items()
            if key in tensors and tensors[key].shape != value.shape
        ],
    }
    found = [f"{len(keys)} {what}: {_some(keys)}" for what, keys in problems.items() if keys]
    if found:
        raise CheckpointError(
            f"{path}: does not fit YOLO-NAS {variant.upper()} with {num_classes} classes: {'; '.join(found)}."
        )
    weights = {}
    for key, value in expected.items():
        # Kept at zero: it is garbage in unfused checkpoints, and fusing computes it.
        absent = key not in tensors or ".rbr_reparam." in key
        tensor = torch.zeros(value.shape, dtype=value.dtype) if absent else tensors[key].to(value.dtype)
        if not torch.isfinite(tensor).all():
            raise CheckpointError(f"{path}: {key} holds values that are not finite.")
        weights[key] = tensor
    return weights


def _expand_fused(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Give blocks that were saved fused (only `rbr_reparam`) branches that compute the same."""
    blocks = [key.removesuffix("rbr_reparam.weight") for key in tensors if key.endswith(".rbr_reparam.weight")]
    expanded = dict(tensors)
    for block in blocks:
        if any(key.startswith((f"{block}branch_3x3.", f"{block}branch_1x1.")) for key in tensors):
            continue
        kernel, bias = tensors[f"{block}rbr_reparam.weight"].float(), tensors[f"{block}rbr_reparam.bias"].float()
        if kernel.ndim != 4 or kernel.shape[2:] != (3, 3):
            continue  # is named as of another shape
        c_out, c_in = kernel.shape[:2]
        kernel = kernel.clone()
        if c_in == c_out and not block.endswith(("stem.conv.", "downsample.")):
            kernel[:, :, 1, 1] -= torch.eye(c_out)  # the network adds the identity itself
        expanded[f"{block}branch_3x3.conv.weight"] = kernel
        expanded[f"{block}branch_1x1.weight"] = torch.zeros(c_out, c_in, 1, 1)
        expanded[f"{block}branch_1x1.bias"] = bias
        expanded |= _neutral_bn(f"{block}branch_3x3.bn.", c_out)
        if f"{block}post_bn.weight" not in tensors:
            expanded |= _neutral_bn(f"{block}post_bn.", c_out)
    return expanded


def _neutral_bn(prefix: str, channels: int) -> dict[str, Tensor]:
    """A batch normalization that changes nothing: variance 1 - eps, so that variance + eps is 1."""
    return {
        f"{prefix}weight": torch.ones(channels),
        f"{prefix}bias": torch.zeros(channels),
        f"{prefix}running_mean": torch.zeros(channels),
        f"{prefix}running_var": torch.full((channels,), 1 - BN_EPS),
    }


def _some(keys: list[str]) -> str:
    return ", ".join(keys[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")


def _describe(saved: Any) -> str:
    if isinstance(saved, Mapping):
        return f"a dict with {_some([str(key) for key in saved])}" if saved else "an empty dict"
    return type(saved).qualified_name if isinstance(saved, unpickle.Inert) else type(saved).__name__
