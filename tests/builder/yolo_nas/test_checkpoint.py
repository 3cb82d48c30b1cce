from __future__ import annotations

import json
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from nas_build.errors import CheckpointError
from nas_build.yolo_nas import checkpoint, network, processing
from nas_build.yolo_nas.blocks import QARepVGG
from nas_build.yolo_nas.checkpoint import Checkpoint
from nas_build.yolo_nas.network import YoloNAS

from support.samples import CUSTOM_NAMES, DEMO, ROOT


@pytest.fixture(scope="module")
def weights(demo: Checkpoint) -> dict[str, torch.Tensor]:
    return dict(demo.weights)


def same(a: Checkpoint, b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(a.weights[key], b[key]) for key in b if ".rbr_reparam." not in key)


def test_demo(demo: Checkpoint) -> None:
    assert (demo.variant, demo.num_classes) == ("s", 80)
    assert demo.class_names is not None and demo.class_names[5] == "bus"
    assert list(demo.weights) == list(network.build("s").state_dict())


def test_super_gradients_checkpoint_prefers_ema(checkpoints: dict[str, Path], networks: dict[str, YoloNAS]) -> None:
    loaded = checkpoint.load(checkpoints["l"])
    assert (loaded.variant, loaded.num_classes, loaded.class_names) == ("l", 3, CUSTOM_NAMES)
    assert same(loaded, networks["l"].state_dict())
    compiled = processing.compile_processing(loaded.processing_params or {})
    assert compiled.bgr and compiled.multiply == (1.0, 1.0, 1.0) and compiled.letterbox.placement == "top_left"


@pytest.mark.parametrize("key", ["net", "ema_net", "state_dict", "model", None])
def test_containers_and_prefix(key: str | None, weights: dict[str, torch.Tensor], tmp_path: Path) -> None:
    prefixed = {f"module.{name}": value.half() for name, value in weights.items()}
    torch.save(prefixed if key is None else {key: prefixed, "epoch": 1}, tmp_path / "x.pth")
    loaded = checkpoint.load(tmp_path / "x.pth")
    assert all(value.dtype in (torch.float32, torch.int64) for value in loaded.weights.values())
    assert same(loaded, {name: value.half().to(value.dtype) for name, value in weights.items()})


def test_every_trainers_wrapping(weights: dict[str, torch.Tensor], tmp_path: Path) -> None:
    """The averaged weights are taken where there are some; the others are zeros here."""

    def prefixed(prefix: str) -> dict[str, torch.Tensor]:
        return {f"{prefix}{name}": value for name, value in weights.items()}

    zeros = {name: torch.zeros_like(value) for name, value in weights.items()}
    names = {label: f"class {label}" for label in reversed(range(80))}
    saved = {
        "lightning": {"state_dict": prefixed("model."), "epoch": 1, "pytorch-lightning_version": "2.4.0"},
        "compiled lightning": {"state_dict": prefixed("model._orig_mod.")},
        "model_state_dict": {"model_state_dict": weights, "optimizer_state_dict": {}},
        "nested average": {"model": zeros, "ema": {"ema_state_dict": prefixed("module."), "updates": 7}},
        "AveragedModel": {"net": zeros, "ema": {"n_averaged": torch.tensor(7), **prefixed("module.")}},
        "safetensors of Lightning": prefixed("ema_model.net."),
        "LibreYOLO": {"model": weights, "nc": 80, "names": names, "model_family": "yolonas"},
    }
    for name, content in saved.items():
        torch.save(content, tmp_path / f"{name}.pth")
        loaded = checkpoint.load(tmp_path / f"{name}.pth")
        assert same(loaded, weights), name
        assert loaded.class_names == (tuple(names[i] for i in range(80)) if name == "LibreYOLO" else None)


def test_legacy_torch_format(weights: dict[str, torch.Tensor], tmp_path: Path) -> None:
    torch.save({"net": weights}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert same(checkpoint.load(tmp_path / "old.pth"), weights)


PICKLE_MODULE = """
import sys, types, torch
sys.path[:0] = {paths!r}
from nas_build.yolo_nas import checkpoint
network = checkpoint.load({demo!r}).network()

def module(name, **members):
    made = types.ModuleType(name)
    for key, value in members.items():
        value.__module__, value.__qualname__ = name, key
        setattr(made, key, value)
    sys.modules[name] = made

class YoloNAS_S(torch.nn.Module): pass
class Block(torch.nn.Module): pass
class ComposeProcessing:
    def __init__(self, processings): self.processings = processings
class Step:
    def __init__(self, **kw): self.__dict__.update(kw)
class DetectionLongestMaxSizeRescale(Step): pass
class DetectionCenterPadding(Step): pass
class StandardizeImage(Step): pass
class ImagePermute(Step): pass
sys.modules["super_gradients"] = types.ModuleType("super_gradients")
module("super_gradients.models", YoloNAS_S=YoloNAS_S, Block=Block)
module("super_gradients.processing", ComposeProcessing=ComposeProcessing, ImagePermute=ImagePermute,
       DetectionLongestMaxSizeRescale=DetectionLongestMaxSizeRescale, StandardizeImage=StandardizeImage,
       DetectionCenterPadding=DetectionCenterPadding)

def convert(source, cls=Block):
    containers = torch.nn.Sequential, torch.nn.ModuleList
    if type(source).__module__.startswith("torch.") and not isinstance(source, containers):
        return source
    made = type(source)() if isinstance(source, containers) else cls()
    for name, value in source.named_parameters(recurse=False): made.register_parameter(name, value)
    for name, child in source.named_children(): made.add_module(name, convert(child))
    return made

root = convert(network, YoloNAS_S)
root._class_names = ["a%d" % i for i in range(80)]
root._image_processor = ComposeProcessing([
    DetectionLongestMaxSizeRescale(output_shape=(600, 600)),
    DetectionCenterPadding(output_shape=(640, 640), pad_value=7),
    StandardizeImage(max_value=255.0), ImagePermute(permutation=(2, 0, 1))])
root._default_nms_iou, root._default_nms_conf = 0.6, 0.4
torch.save({form}, {path!r})
"""


@pytest.mark.parametrize("form", ["root", "{'model': root, 'ema': None, 'epoch': -1}"])
def test_pickled_module_without_super_gradients(form: str, weights: dict[str, torch.Tensor], tmp_path: Path) -> None:
    """A pickle of a whole module, written by another process that has the classes; this one has not."""
    path = tmp_path / "yolo_nas_s.pt"
    code = PICKLE_MODULE.format(paths=sys.path, demo=str(DEMO), path=str(path), form=form)
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)
    loaded = checkpoint.load(path)
    assert same(loaded, weights)
    assert loaded.class_names is not None and loaded.class_names[79] == "a79"
    compiled = processing.compile_processing(loaded.processing_params or {})
    assert compiled.letterbox.fit_hw == (600, 600) and compiled.letterbox.pad_value == 7
    assert (compiled.thresholds.score, compiled.thresholds.iou) == (0.4, 0.6)
    assert "super_gradients" not in sys.modules


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("torch_checkpoint/module-in-itself.pt", "or one inside itself"),
        ("torch_checkpoint/modules-in-each-other.pt", "more than 20000 modules"),
        ("torch_checkpoint/processing-in-itself.pt", "steps more than 4 deep"),
        ("unpickler/text-of-lists.pt", "refused: it tries to write out a tuple"),
    ],
)
def test_what_holds_itself_is_refused(name: str, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        checkpoint.load(ROOT / "tests/fuzz/corpus" / name)


def test_missing_unexpected_and_misshapen_keys_are_named(weights: dict[str, torch.Tensor], tmp_path: Path) -> None:
    broken = dict(weights)
    del broken["backbone.stem.conv.branch_1x1.bias"]
    broken["neck.neck9.weight"] = torch.zeros(1)
    broken["heads.head2.reg_pred.weight"] = torch.zeros(68, 64, 1, 1)
    torch.save({"net": broken}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError) as caught:
        checkpoint.load(tmp_path / "x.pth")
    message = str(caught.value)
    assert "does not fit YOLO-NAS S with 80 classes" in message
    assert "1 missing: backbone.stem.conv.branch_1x1.bias" in message
    assert "1 unexpected: neck.neck9.weight" in message
    assert "heads.head2.reg_pred.weight (68, 64, 1, 1), expected (68, 128, 1, 1)" in message


def test_another_architecture(tmp_path: Path) -> None:
    torch.save(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3)).state_dict(), tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=r"not a YOLO-NAS checkpoint: .*holds 2 tensors: 0.weight, 0.bias"):
        checkpoint.load(tmp_path / "x.pth")


def test_another_width(weights: dict[str, torch.Tensor], tmp_path: Path) -> None:
    torch.save({**weights, "heads.head1.cls_pred.weight": torch.zeros(80, 48, 1, 1)}, tmp_path / "x.pth")
    with pytest.raises(
        CheckpointError, match=r"not YOLO-NAS S, M or L: .*\(80, 48, 1, 1\); expected .*64 or 96 or 128"
    ):
        checkpoint.load(tmp_path / "x.pth")


@pytest.mark.parametrize("name", ["x.pth", "x.pt", "x.safetensors"])
@pytest.mark.parametrize("content", ["garbage", "truncated", "empty"])
def test_damaged_files(name: str, content: str, checkpoints: dict[str, Path], tmp_path: Path) -> None:
    source = DEMO if name.endswith("safetensors") else checkpoints["l"]
    data = {"garbage": b"not a checkpoint" * 100, "truncated": source.read_bytes()[:2_000_000], "empty": b""}[content]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(CheckpointError, match=rf"{name}: not a (torch checkpoint|safetensors file), or damaged"):
        checkpoint.load(tmp_path / name)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such file"):
        checkpoint.load(tmp_path / "nope.pth")


def test_no_weights_in_it(tmp_path: Path) -> None:
    torch.save({"epoch": 1, "optimizer": {}}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match="no weights found; .*got a dict with epoch, optimizer"):
        checkpoint.load(tmp_path / "x.pth")


def test_values_that_are_not_finite(weights: dict[str, torch.Tensor], tmp_path: Path) -> None:
    key = "neck.neck1.conv.bn.bias"
    torch.save({**weights, key: torch.full_like(weights[key], float("nan"))}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=f"{key} holds values that are not finite"):
        checkpoint.load(tmp_path / "x.pth")


@pytest.mark.parametrize("value", [np.float64(0.5), np.zeros(3), b"abc", {"lr": [np.float32(1)]}])
def test_numbers_of_numpy_and_bytes_beside_the_weights(
    value: object, weights: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    torch.save({"net": weights, "acc": value}, tmp_path / "x.pth")
    assert checkpoint.load(tmp_path / "x.pth").num_classes == 80


CLASS_LOGITS = "heads.head1.cls_pred.weight"


@pytest.mark.parametrize("name", ["x.pth", "x.safetensors"])
def test_a_network_of_no_classes(name: str, weights: dict[str, torch.Tensor], tmp_path: Path) -> None:
    none = {key: value[:0].clone() if ".cls_pred." in key else value for key, value in weights.items()}
    (safetensors.torch.save_file if name.endswith("s") else torch.save)(none, tmp_path / name)
    with pytest.raises(CheckpointError, match=r"cls_pred.weight has shape \(0, 64, 1, 1\); expected \(1 class or more"):
        checkpoint.load(tmp_path / name)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"class_names": "[" * 100_000}, "damaged: maximum recursion depth exceeded"),
        ({"processing_params": '{"a":' * 100_000}, "damaged: maximum recursion depth exceeded"),
        ({"class_names": "[" * 100}, "damaged: Expecting value"),
        ({"class_names": "80"}, "expected class_names to be a list of strings, got int"),
        ({"class_names": '{"0": "bolt"}'}, "expected class_names to be a list of strings, got a dict with 0"),
        ({"class_names": "[[]]"}, "expected class_names to be a list of strings, got list"),
        ({"class_names": json.dumps(["\ud800"] * 80)}, "UnicodeEncodeError"),
        ({"processing_params": "[]"}, "expected processing_params to be a dict, got list"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_hostile_metadata(
    metadata: dict[str, str], message: str, weights: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    safetensors.torch.save_file(weights, tmp_path / "x.safetensors", metadata)
    with pytest.raises(CheckpointError) as caught:
        checkpoint.load(tmp_path / "x.safetensors")
    assert str(caught.value).startswith(f"{tmp_path}/x.safetensors: ") and message in str(caught.value)


@pytest.mark.parametrize(
    "header",
    ['{"a":' * 100_000, "[" * 100_000, "[]", '{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}'],
    ids=lambda value: value[:12],
)
def test_hostile_headers(header: str, tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", len(header)) + header.encode() + bytes(4))
    with pytest.raises(CheckpointError, match="x.safetensors: not a safetensors file, or damaged: "):
        checkpoint.load(tmp_path / "x.safetensors")


def test_a_module_that_holds_itself(tmp_path: Path) -> None:
    module = torch.nn.Module()
    module._modules["again"] = module
    torch.save({"net": module}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match="x.pth: holds more than 20000 modules and tensors, or one inside itself"):
        checkpoint.load(tmp_path / "x.pth")


def test_a_checkpoint_that_was_zipped_again(weights: dict[str, torch.Tensor], tmp_path: Path) -> None:
    torch.save(weights, tmp_path / "stored.pth")
    with zipfile.ZipFile(tmp_path / "stored.pth") as stored:
        with zipfile.ZipFile(tmp_path / "x.pth", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as deflated:
            for entry in stored.namelist():
                deflated.writestr(entry, stored.read(entry))
    assert same(checkpoint.load(tmp_path / "x.pth"), weights)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_view_that_claims_more_than_the_file_holds(
    zipped: bool, weights: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    huge = {key: value[:1].expand(10**9, *value.shape[1:]) for key, value in weights.items() if ".cls_pred." in key}
    torch.save({**weights, **huge}, tmp_path / "x.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match="x.pth: refused: it has .* bytes, but its weights claim to be"):
        checkpoint.load(tmp_path / "x.pth")


@pytest.mark.parametrize("partial", [True, False])
def test_fused_checkpoint_gives_the_same_network(
    partial: bool, demo_network: YoloNAS, weights: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    """Only `rbr_reparam` left of each block, with post_bn folded too or (partial) kept."""
    saved = dict(weights)
    for name, block in demo_network.named_modules():
        if not isinstance(block, QARepVGG):
            continue
        kernel = block.fused()
        kept = [key for key in saved if key.startswith(f"{name}.") and not (partial and ".post_bn." in key)]
        for key in kept:
            del saved[key]
        if partial:
            bn = block.post_bn
            scale = bn.weight / torch.sqrt(bn.running_var + bn.eps)  # type: ignore[operator]
            kernel.weight.data /= scale.reshape(-1, 1, 1, 1)
            kernel.bias.data = (kernel.bias - bn.bias) / scale + bn.running_mean  # type: ignore[operator,union-attr]
        saved[f"{name}.rbr_reparam.weight"] = kernel.weight.detach()
        saved[f"{name}.rbr_reparam.bias"] = kernel.bias.detach()  # type: ignore[union-attr]
    torch.save({"net": saved}, tmp_path / "fused.pth")
    loaded = checkpoint.load(tmp_path / "fused.pth").network()
    x = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        for expected, got in zip(demo_network(x), loaded(x), strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))
