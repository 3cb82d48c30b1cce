"""What YOLO-NAS is made of: convolutions with batch normalization, and how they are fused into plain ones.

Module and parameter names are those of super-gradients 3.7.1, see `network`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

# Not stored in checkpoints: torch's default of 1e-5 loads without an error and is silently wrong.
BN_EPS = 1e-3
BN_MOMENTUM = 0.03
SPP_KERNELS = (5, 9, 13)


def _batch_norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=BN_EPS, momentum=BN_MOMENTUM)


class ConvBN(nn.Module):
    """Convolution without bias, batch normalization."""

    def __init__(self, c_in: int, c_out: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, kernel, stride, padding=kernel // 2, bias=False)
        self.bn = _batch_norm(c_out)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x))

    def folded(self) -> tuple[Tensor, Tensor]:
        """Weight and bias of the convolution that equals both."""
        return _fold_bn(self.conv.weight, None, self.bn)


class ConvBNReLU(ConvBN):
    """Convolution without bias, batch normalization, ReLU."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(super().forward(x))

    def fused(self) -> nn.Conv2d:
        """The convolution that equals conv + bn (the ReLU stays outside)."""
        return _conv_like(self.conv, *self.folded())


class QARepVGG(nn.Module):
    """relu(post_bn(BN(conv3x3) + conv1x1 + identity)), https://arxiv.org/abs/2212.01593.

    `rbr_reparam` is the slot for the fused convolution. It is part of every super-gradients state dict, counts as
    parameters there, and holds garbage until the block is fused.
    """

    def __init__(self, c_in: int, c_out: int, stride: int = 1, identity: bool = True) -> None:
        super().__init__()
        if identity and (stride != 1 or c_in != c_out):
            raise ValueError(f"identity needs stride 1 and c_in = c_out, got stride={stride}, {c_in} -> {c_out}")
        self.identity = identity
        self.branch_3x3 = ConvBN(c_in, c_out, 3, stride)
        self.branch_1x1 = nn.Conv2d(c_in, c_out, 1, stride)
        self.post_bn = _batch_norm(c_out)
        self.rbr_reparam = nn.Conv2d(c_in, c_out, 3, stride, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.branch_3x3(x) + self.branch_1x1(x)
        return torch.relu(self.post_bn(y + x if self.identity else y))

    def fused(self) -> nn.Conv2d:
        """The 3x3 convolution that equals the three branches and both batch normalizations."""
        weight, bias = self.branch_3x3.folded()
        weight = weight + nn.functional.pad(self.branch_1x1.weight, [1, 1, 1, 1])
        assert self.branch_1x1.bias is not None
        bias = bias + self.branch_1x1.bias
        if self.identity:
            weight[:, :, 1, 1] += torch.eye(len(weight), dtype=weight.dtype)
        return _conv_like(self.rbr_reparam, *_fold_bn(weight, bias, self.post_bn))


class FusedConvReLU(nn.Module):
    """One convolution with bias, ReLU: what every block of the network becomes when fused."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.conv(x))


class Bottleneck(nn.Module):
    """alpha * x + cv2(cv1(x)), alpha learned."""

    def __init__(self, channels: int, block: type[QARepVGG] | type[ConvBNReLU]) -> None:
        super().__init__()
        make = (
            (lambda: QARepVGG(channels, channels)) if block is QARepVGG else (lambda: ConvBNReLU(channels, channels, 3))
        )
        self.cv1 = make()
        self.cv2 = make()
        self.alpha = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.alpha * x + self.cv2(self.cv1(x))


class CSPLayer(nn.Module):
    """Two 1x1 paths, bottlenecks on the first; concat [path 1, intermediates..., path 2], 1x1."""

    def __init__(
        self,
        c_in: int,
        c_out: int,
        hidden: int,
        bottlenecks: int,
        block: type[QARepVGG] | type[ConvBNReLU],
        concat_intermediates: bool = False,
    ) -> None:
        super().__init__()
        self.concat_intermediates = concat_intermediates
        self.conv1 = ConvBNReLU(c_in, hidden, 1)
        self.conv2 = ConvBNReLU(c_in, hidden, 1)
        self.conv3 = ConvBNReLU(hidden * (2 + concat_intermediates * bottlenecks), c_out, 1)
        self.bottlenecks = nn.Sequential(*(Bottleneck(hidden, block) for _ in range(bottlenecks)))

    def forward(self, x: Tensor) -> Tensor:
        path = [self.conv1(x)]
        for bottleneck in self.bottlenecks:
            path.append(bottleneck(path[-1]))
        kept = path if self.concat_intermediates else path[-1:]
        return self.conv3(torch.cat([*kept, self.conv2(x)], dim=1))


class SPP(nn.Module):
    """Spatial pyramid pooling: max pools of three sizes beside the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = channels // 2
        self.cv1 = ConvBNReLU(channels, hidden, 1)
        self.cv2 = ConvBNReLU(hidden * (1 + len(SPP_KERNELS)), channels, 1)
        self.m = nn.ModuleList(nn.MaxPool2d(k, stride=1, padding=k // 2) for k in SPP_KERNELS)

    def forward(self, x: Tensor) -> Tensor:
        x = self.cv1(x)
        return self.cv2(torch.cat([x, *(pool(x) for pool in self.m)], dim=1))


def _fold_bn(weight: Tensor, bias: Tensor | None, bn: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Weight and bias of the convolution that equals convolution then bn in eval mode."""
    assert bn.running_mean is not None and bn.running_var is not None
    scale = bn.weight / torch.sqrt(bn.running_var + bn.eps)  # [C_out]
    offset = bn.running_mean if bias is None else bn.running_mean - bias
    return weight * scale.reshape(-1, 1, 1, 1), bn.bias - offset * scale


def _conv_like(conv: nn.Conv2d, weight: Tensor, bias: Tensor) -> nn.Conv2d:
    """A convolution of the same geometry with other tensors and a bias."""
    fused = nn.Conv2d(
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,  # type: ignore[arg-type]
        conv.stride,  # type: ignore[arg-type]
        conv.padding,  # type: ignore[arg-type]
        dtype=weight.dtype,
    )
    fused.load_state_dict({"weight": weight, "bias": bias})
    return fused
