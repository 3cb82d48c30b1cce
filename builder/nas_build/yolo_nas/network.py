"""YOLO-NAS S, M and L in plain PyTorch.

Module and parameter names are those of super-gradients 3.7.1, so that its checkpoints load with strict keys:
`backbone` (stem, stages 1-4, context module), `neck` (two up-stages, two down-stages) and one head per stride.

    network = build("s", num_classes=80)
    network.load_state_dict(weights)
    boxes_xyxy, scores = fuse(network.eval())(images)  # images [B, 3, H, W] float32 RGB in [0, 1]
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..options import VARIANTS, Variant
from .blocks import SPP, ConvBNReLU, CSPLayer, FusedConvReLU, QARepVGG

STRIDES = (8, 16, 32)
REG_MAX = 16  # box sides are distributions over the bins 0..16, in strides


@dataclass(frozen=True)
class Architecture:
    """What differs between the variants (super-gradients `recipes/arch_params/yolo_nas_*_arch_params.yaml`)."""

    stage_hidden: tuple[int, int, int, int]
    stage_concat_intermediates: tuple[bool, bool, bool, bool]
    neck_bottlenecks: tuple[int, int, int, int]
    neck_hidden: tuple[int, int, int, int]
    head_inter: tuple[int, int, int]


STEM_CHANNELS = 48
STAGE_CHANNELS = (96, 192, 384, 768)
STAGE_BOTTLENECKS = (2, 3, 5, 2)
NECK_CHANNELS = (192, 96, 192, 384)
ARCHITECTURES: dict[Variant, Architecture] = {
    "s": Architecture(
        stage_hidden=(32, 64, 96, 192),
        stage_concat_intermediates=(False, False, False, False),
        neck_bottlenecks=(2, 2, 2, 2),
        neck_hidden=(64, 48, 64, 64),
        head_inter=(64, 128, 256),
    ),
    "m": Architecture(
        stage_hidden=(64, 128, 256, 384),
        stage_concat_intermediates=(True, True, True, False),
        neck_bottlenecks=(2, 3, 2, 3),
        neck_hidden=(192, 64, 192, 256),
        head_inter=(96, 192, 384),
    ),
    "l": Architecture(
        stage_hidden=(96, 128, 256, 512),
        stage_concat_intermediates=(True, True, True, True),
        neck_bottlenecks=(4, 4, 4, 4),
        neck_hidden=(128, 128, 128, 256),
        head_inter=(128, 256, 512),
    ),
}


class Stem(nn.Module):
    """One QARepVGG of stride 2."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = QARepVGG(3, STEM_CHANNELS, stride=2, identity=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Stage(nn.Module):
    """QARepVGG of stride 2, then a CSP layer."""

    def __init__(self, c_in: int, c_out: int, hidden: int, bottlenecks: int, concat_intermediates: bool) -> None:
        super().__init__()
        self.downsample = QARepVGG(c_in, c_out, stride=2, identity=False)
        self.blocks = CSPLayer(c_out, c_out, hidden, bottlenecks, QARepVGG, concat_intermediates)

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(self.downsample(x))


class Backbone(nn.Module):
    """Features at strides 4, 8, 16 and 32."""

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        self.stem = Stem()
        channels = (STEM_CHANNELS, *STAGE_CHANNELS)
        self.stage1, self.stage2, self.stage3, self.stage4 = (
            Stage(
                channels[i],
                channels[i + 1],
                arch.stage_hidden[i],
                STAGE_BOTTLENECKS[i],
                arch.stage_concat_intermediates[i],
            )
            for i in range(4)
        )
        self.context_module = SPP(STAGE_CHANNELS[-1])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        c2 = self.stage1(self.stem(x))
        c3 = self.stage2(c2)
        c4 = self.stage3(c3)
        c5 = self.context_module(self.stage4(c4))
        return c2, c3, c4, c5


class UpStage(nn.Module):
    """Twice the resolution, joined by two skips: one of the same stride, one of half of it."""

    def __init__(self, c_in: int, c_skip1: int, c_skip2: int, c_out: int, hidden: int, bottlenecks: int) -> None:
        super().__init__()
        self.conv = ConvBNReLU(c_in, c_out, 1)
        self.upsample = nn.ConvTranspose2d(c_out, c_out, kernel_size=2, stride=2)
        self.reduce_skip1 = ConvBNReLU(c_skip1, c_out, 1)
        self.reduce_skip2 = ConvBNReLU(c_skip2, c_out, 1)
        self.downsample = ConvBNReLU(c_out, c_out, 3, stride=2)
        self.reduce_after_concat = ConvBNReLU(3 * c_out, c_out, 1)
        self.blocks = CSPLayer(c_out, c_out, hidden, bottlenecks, QARepVGG)

    def forward(self, x: Tensor, skip1: Tensor, skip2: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the narrow tensor that the way down joins again, and the stage's output."""
        inter = self.conv(x)
        joined = [self.upsample(inter), self.reduce_skip1(skip1), self.downsample(self.reduce_skip2(skip2))]
        return inter, self.blocks(self.reduce_after_concat(torch.cat(joined, dim=1)))


class DownStage(nn.Module):
    """Half the resolution, joined by the tensor kept on the way up."""

    def __init__(self, c_in: int, c_skip: int, c_out: int, hidden: int, bottlenecks: int) -> None:
        super().__init__()
        self.conv = ConvBNReLU(c_in, c_out // 2, 3, stride=2)
        self.blocks = CSPLayer(c_out // 2 + c_skip, c_out, hidden, bottlenecks, ConvBNReLU)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        return self.blocks(torch.cat([self.conv(x), skip], dim=1))


class Neck(nn.Module):
    """PAN with skips from two strides; outputs at strides 8, 16 and 32 have 96, 192 and 384 channels."""

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        c2, c3, c4, c5 = STAGE_CHANNELS
        n1, n2, n3, n4 = NECK_CHANNELS
        h1, h2, h3, h4 = arch.neck_hidden
        b1, b2, b3, b4 = arch.neck_bottlenecks
        self.neck1 = UpStage(c5, c4, c3, n1, h1, b1)
        self.neck2 = UpStage(n1, c3, c2, n2, h2, b2)
        self.neck3 = DownStage(n2, n2, n3, h3, b3)
        self.neck4 = DownStage(n3, n1, n4, h4, b4)

    def forward(self, features: tuple[Tensor, Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        c2, c3, c4, c5 = features
        inter1, x = self.neck1(c5, c4, c3)
        inter2, p3 = self.neck2(x, c3, c2)
        p4 = self.neck3(p3, inter2)
        return p3, p4, self.neck4(p4, inter1)


class Seq(nn.Module):
    """A ConvBNReLU one level deeper, as super-gradients names those of the heads."""

    def __init__(self, c_in: int, c_out: int, kernel: int) -> None:
        super().__init__()
        self.seq = ConvBNReLU(c_in, c_out, kernel)

    def forward(self, x: Tensor) -> Tensor:
        return self.seq(x)


class Head(nn.Module):
    """Class logits and box-side distributions of one stride."""

    def __init__(self, c_in: int, inter: int, num_classes: int) -> None:
        super().__init__()
        self.stem = Seq(c_in, inter, 1)
        self.cls_convs = nn.Sequential(Seq(inter, inter, 3))
        self.reg_convs = nn.Sequential(Seq(inter, inter, 3))
        self.cls_pred = nn.Conv2d(inter, num_classes, 1)
        self.reg_pred = nn.Conv2d(inter, 4 * (REG_MAX + 1), 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.stem(x)
        return self.cls_pred(self.cls_convs(x)), self.reg_pred(self.reg_convs(x))


class Heads(nn.Module):
    """One head per stride."""

    def __init__(self, arch: Architecture, num_classes: int) -> None:
        super().__init__()
        self.head1, self.head2, self.head3 = (
            Head(c_in, inter, num_classes) for c_in, inter in zip(NECK_CHANNELS[1:], arch.head_inter, strict=True)
        )

    def forward(self, features: tuple[Tensor, Tensor, Tensor]) -> list[tuple[Tensor, Tensor]]:
        p3, p4, p5 = features
        return [self.head1(p3), self.head2(p4), self.head3(p5)]


class YoloNAS(nn.Module):
    """The whole detector. `raw` gives the heads' maps, `forward` decodes them.

    Attributes:
        variant: "s", "m" or "l".
        num_classes: C, any number from 1.
    """

    def __init__(self, variant: Variant, num_classes: int) -> None:
        super().__init__()
        arch = ARCHITECTURES[variant]
        self.variant = variant
        self.num_classes = num_classes
        self.backbone = Backbone(arch)
        self.neck = Neck(arch)
        self.heads = Heads(arch, num_classes)

    def raw(self, images: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Per stride: class logits [B, C, h, w] and box-side logits [B, 68, h, w]."""
        return self.heads(self.neck(self.backbone(images)))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Detect, before any threshold or NMS.

        Args:
            images: [B, 3, H, W] float32, RGB in [0, 1]; H and W multiples of 32.

        Returns:
            boxes [B, N, 4], xyxy in input pixels, not clipped; scores [B, N, C] in [0, 1];
            N = H * W * (1/64 + 1/256 + 1/1024), 8400 at 640 x 640, strides 8, 16, 32, x fastest.
        """
        return decode(self.raw(images))


def decode(raw: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Turn the heads' maps into boxes and scores.

    In float32 at least: float16 has steps of half a pixel at coordinates from 512 to 1024.

    Args:
        raw: per stride, class logits [B, C, h, w] and box-side logits [B, 68, h, w], float16, 32 or 64.

    Returns:
        boxes [B, N, 4] xyxy in input pixels; scores [B, N, C].
    """
    boxes, scores = [], []
    for stride, (logits, sides) in zip(STRIDES, raw, strict=True):
        height, width = int(logits.shape[-2]), int(logits.shape[-1])
        y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
        points = torch.stack([x, y], dim=-1).reshape(1, height * width, 2)  # [1, hw, 2]
        bins = torch.arange(REG_MAX + 1, dtype=torch.float32).reshape(1, 1, REG_MAX + 1, 1)
        sides = _at_least_float32(sides).reshape(-1, 4, REG_MAX + 1, height * width)  # [B, 4, 17, hw]
        # Multiply and sum, not a 1x1 convolution: the expectation must stay out of quantization.
        distances = (sides.softmax(dim=2) * bins).sum(dim=2).transpose(1, 2)  # [B, hw, 4]
        left_top, right_bottom = torch.split(distances, 2, dim=-1)
        boxes.append(torch.cat([points - left_top, points + right_bottom], dim=-1) * stride)
        scores.append(_at_least_float32(logits).flatten(2).transpose(1, 2).sigmoid())
    return torch.cat(boxes, dim=1), torch.cat(scores, dim=1)


def _at_least_float32(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def build(variant: Variant, num_classes: int = 80) -> YoloNAS:
    """Make a network with random weights.

    Args:
        variant: "s", "m" or "l".
        num_classes: number of classes, from 1.

    Returns:
        A module in training mode; its forward takes [B, 3, H, W] float32 RGB in [0, 1] and gives boxes [B, N, 4]
        xyxy in input pixels and scores [B, N, num_classes].

    Raises:
        ValueError: for another variant or fewer than one class.
    """
    if variant not in ARCHITECTURES:
        raise ValueError(f"unknown variant {variant!r}; expected one of {', '.join(VARIANTS)}")
    if num_classes < 1:
        raise ValueError(f"num_classes must be at least 1, got {num_classes}")
    return YoloNAS(variant, num_classes)


def fuse(network: YoloNAS) -> YoloNAS:
    """A copy of the network with one convolution per block: the form that is exported.

    Each QARepVGG and each Conv-BN-ReLU becomes a `FusedConvReLU`. Equal to the original in eval mode up to float
    rounding; folding is done in float64.
    """
    network = copy.deepcopy(network).eval()
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, QARepVGG | ConvBNReLU):
                setattr(parent, name, FusedConvReLU(child.double().fused().float()))
    return network.requires_grad_(False)
