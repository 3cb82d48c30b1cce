from __future__ import annotations

import copy

import pytest
import torch
from nas_build.yolo_nas import network
from nas_build.yolo_nas.blocks import QARepVGG
from nas_build.yolo_nas.network import YoloNAS
from nas_build.yolo_nas.summary import summarize

from support.networks import QUARTER, canvas_of
from support.samples import PICTURES

# super-gradients 3.7.1: state-dict keys, parameters; fully fused parameters; GMACs at 640; alphas.
PUBLISHED = {
    "s": (921, 19_053_888, 12_167_600, 15.9, 20),
    "m": (965, 51_182_658, 31_894_002, 43.9, 22),
    "l": (1097, 66_976_392, 41_984_984, 59.9, 28),
}


@pytest.mark.parametrize("variant", network.VARIANTS)
def test_size_is_the_published_one(variant: network.Variant) -> None:
    keys, parameters, fused_parameters, gmacs, alphas = PUBLISHED[variant]
    model = network.build(variant)
    summary = summarize(model)
    assert len(model.state_dict()) == keys
    assert (summary.parameters, summary.fused_parameters) == (parameters, fused_parameters)
    assert round(summary.gmacs, 1) == gmacs
    assert sum(name.endswith("alpha") for name, _ in model.named_parameters()) == alphas


@pytest.mark.parametrize("variant", network.VARIANTS)
def test_fused_equals_unfused_on_real_pictures(variant: str, networks: dict[str, YoloNAS]) -> None:
    """Within 1e-4 of the largest magnitude, before and after decoding.

    The trained network in float32; the random ones, whose depth amplifies rounding, in float64.
    """
    model, fused = networks[variant], network.fuse(networks[variant])
    if variant != "s":
        model, fused = copy.deepcopy(model).double(), fused.double()
    scale = 1.0 if variant == "l" else 1 / 255
    with torch.inference_mode():
        for path in PICTURES:
            x = torch.from_numpy(canvas_of(path, QUARTER.letterbox))[None].to(next(model.parameters()).dtype) * scale
            pairs = [pair for maps in zip(model.raw(x), fused.raw(x), strict=True) for pair in zip(*maps, strict=True)]
            for expected, got in [*pairs, *zip(model(x), fused(x), strict=True)]:
                assert (expected - got).abs().max() <= 1e-4 * expected.abs().max(), path.name


def test_fused_has_one_convolution_per_block(networks: dict[str, YoloNAS]) -> None:
    fused = network.fuse(networks["s"])
    assert not any(isinstance(m, torch.nn.BatchNorm2d | QARepVGG) for m in fused.modules())
    assert sum(isinstance(m, torch.nn.Conv2d | torch.nn.ConvTranspose2d) for m in fused.modules()) == 100


def test_fusing_leaves_the_original_alone(networks: dict[str, YoloNAS]) -> None:
    before = {key: value.clone() for key, value in networks["s"].state_dict().items()}
    network.fuse(networks["s"])
    after = networks["s"].state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_batch_norm_eps_is_not_torchs_default() -> None:
    norms = [m for m in network.build("s").modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert len(norms) > 100 and {m.eps for m in norms} == {1e-3}


@pytest.mark.parametrize(("hw", "anchors"), [((640, 640), 8400), ((320, 416), 2730), ((64, 32), 42)])
def test_output_shapes_and_order(hw: tuple[int, int], anchors: int) -> None:
    model = network.build("s", num_classes=3).eval()
    with torch.inference_mode():
        boxes, scores = model(torch.zeros(2, 3, *hw))
    assert boxes.shape == (2, anchors, 4) and scores.shape == (2, anchors, 3)
    assert boxes.dtype == scores.dtype == torch.float32
    assert 0 <= scores.min() and scores.max() <= 1


def test_decode_golden() -> None:
    """One certain bin per side: boxes are (p - left_top, p + right_bottom) * stride, x fastest."""
    raw = []
    for size in (4, 2, 1):
        sides = torch.full((1, 68, size, size), -1e4)
        for side, bin_ in enumerate((1, 2, 3, 4)):  # left, top, right, bottom in strides
            sides[:, side * 17 + bin_] = 1e4
        raw.append((torch.zeros(1, 1, size, size), sides))
    boxes, scores = network.decode(raw)
    assert boxes.shape == (1, 21, 4) and (scores == 0.5).all()
    assert boxes[0, 0].tolist() == [(0.5 - 1) * 8, (0.5 - 2) * 8, (0.5 + 3) * 8, (0.5 + 4) * 8]
    assert boxes[0, 1].tolist() == [(1.5 - 1) * 8, (0.5 - 2) * 8, (1.5 + 3) * 8, (0.5 + 4) * 8]
    assert boxes[0, 18].tolist() == [(0.5 - 1) * 16, (1.5 - 2) * 16, (0.5 + 3) * 16, (1.5 + 4) * 16]
    assert boxes[0, 20].tolist() == [(0.5 - 1) * 32, (0.5 - 2) * 32, (0.5 + 3) * 32, (0.5 + 4) * 32]


def test_decode_is_float32_for_half_maps() -> None:
    raw = [(torch.zeros(1, 1, s, s).half(), torch.randn(1, 68, s, s).half()) for s in (80, 40, 20)]
    boxes, _ = network.decode(raw)
    assert boxes.dtype == torch.float32
    assert not torch.equal(boxes, boxes.half().float())


@pytest.mark.parametrize(
    ("variant", "classes", "message"), [("x", 80, "unknown variant 'x'; expected one of s, m, l"), ("s", 0, "at least")]
)
def test_build_refuses(variant: str, classes: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        network.build(variant, classes)  # type: ignore[arg-type]


def test_identity_wants_equal_channels() -> None:
    with pytest.raises(ValueError, match="stride=2, 4 -> 4"):
        QARepVGG(4, 4, stride=2)
