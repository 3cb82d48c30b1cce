from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import CUSTOM_NAMES, CUSTOM_PROCESSING, DEMO
from nas_build import checkpoint, network, processing
from nas_build.checkpoint import Checkpoint
from nas_build.errors import CheckpointError
from nas_build.network import YoloNAS


@pytest.fixture(scope="module")
def weights(demo: Checkpoint) -> dict[str, torch.Tensor]:
    return dict(demo.weights)


def same(a: Checkpoint, b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(a.weights[key], b[key]) for key in b if ".rbr_reparam." not in key)


def test_demo(demo: Checkpoint) -> None:
    assert (demo.variant, demo.num_classes) == ("s", 80)
    assert demo.class_names is not None and demo.class_names[5] == "bus"
    assert demo.sha256 == "8cb5aaff75397f4828199fdb3cc7f2d14303877000d9eb07a83b1784050d3fad"
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


def test_legacy_torch_format(weights: dict[str, torch.Tensor], tmp_path: Path) -> None:
    torch.save({"net": weights}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert same(checkpoint.load(tmp_path / "old.pth"), weights)


PICKLE_MODULE = """
import sys, types, torch
sys.path[:0] = {paths!r}
from nas_build import checkpoint
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
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
    loaded = checkpoint.load(path)
    assert same(loaded, weights)
    assert loaded.class_names is not None and loaded.class_names[79] == "a79"
    compiled = processing.compile_processing(loaded.processing_params or {})
    assert compiled.letterbox.fit_hw == (600, 600) and compiled.letterbox.pad_value == 7
    assert (compiled.score_threshold, compiled.iou_threshold) == (0.4, 0.6)
    assert "super_gradients" not in sys.modules


class Runs:
    """Runs a function when it is unpickled."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> object:
        return self.call


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("where", ["weights", "beside"])
@pytest.mark.parametrize("name", ["system", "eval", "getattr", "Popen", "run_code"])
def test_a_file_that_runs_code_is_refused_by_name(
    name: str, where: str, zipped: bool, weights: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    import os
    import runpy

    trace = tmp_path / "ran"
    evil, expected = {
        "system": (Runs(os.system, f"touch {trace}"), r"posix\.system"),
        "eval": (Runs(eval, f"open({str(trace)!r}, 'w')"), r"builtins\.eval"),
        "getattr": (Runs(getattr, [], "append"), r"builtins\.getattr"),
        "Popen": (Runs(subprocess.Popen, ["touch", str(trace)]), r"(subprocess|commands)\.Popen"),
        "run_code": (Runs(runpy._run_code, f"open({str(trace)!r}, 'w')", {}), r"runpy\._run_code"),  # type: ignore[attr-defined]
    }[name]
    saved = {"net": evil} if where == "weights" else {"net": weights, "processing_params": evil}
    torch.save(saved, tmp_path / "evil.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=rf"refused: it tries to use ({expected})"):
        checkpoint.load(tmp_path / "evil.pth")
    assert not trace.exists()


def test_a_plain_pickle_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.pth").write_bytes(pickle.dumps(Runs(print, "hello")))
    with pytest.raises(CheckpointError, match="refused|not a torch checkpoint"):
        checkpoint.load(tmp_path / "x.pth")


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


def test_wrong_number_of_class_names(weights: dict[str, torch.Tensor], tmp_path: Path) -> None:
    torch.save({"net": weights, "processing_params": {**CUSTOM_PROCESSING}}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match="3 class names saved beside a network of 80 classes"):
        checkpoint.load(tmp_path / "x.pth")


@pytest.mark.parametrize("partial", [True, False])
def test_fused_checkpoint_gives_the_same_network(
    partial: bool, demo_network: YoloNAS, weights: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    """Only `rbr_reparam` left of each block, with post_bn folded too or (partial) kept."""
    saved = dict(weights)
    for name, block in demo_network.named_modules():
        if not isinstance(block, network.QARepVGG):
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
