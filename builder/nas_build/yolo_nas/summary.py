"""Layers, parameters and multiply-accumulates of a network."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .network import YoloNAS, fuse


@dataclass(frozen=True)
class Summary:
    """Size of a network.

    Attributes:
        layers: convolutions (transposed ones included) of the fused network, the ones that do the work.
        parameters: of the network as stored in checkpoints, `rbr_reparam` included.
        fused_parameters: of the fused network.
        gmacs: multiply-accumulates of the fused network in 1e9, for one picture.
    """

    variant: str
    layers: int
    parameters: int
    fused_parameters: int
    gmacs: float


def summarize(network: YoloNAS, size: int = 640) -> Summary:
    """Count layers, parameters and multiply-accumulates for one `size` x `size` picture."""
    fused = fuse(network).to("meta")
    macs = 0
    layers = 0

    def count(module: nn.Module, _: object, output: Tensor) -> None:
        nonlocal macs, layers
        assert isinstance(module, nn.Conv2d | nn.ConvTranspose2d)
        layers += 1
        taps = module.kernel_size[0] * module.kernel_size[1] if isinstance(module, nn.Conv2d) else 1
        macs += output.numel() * module.in_channels * taps

    for module in fused.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            module.register_forward_hook(count)
    fused.raw(torch.empty(1, 3, size, size, device="meta"))
    return Summary(
        variant=network.variant,
        layers=layers,
        parameters=sum(p.numel() for p in network.parameters()),
        fused_parameters=sum(p.numel() for p in fused.parameters()),
        gmacs=macs / 1e9,
    )
