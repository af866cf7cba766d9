"""Depthwise convolutions that stay in fp32 where a processor runs the rest of a network in bf16.

Measured with torch 2.15 on AVX512-bf16 cores: the backward pass of a depthwise convolution takes 3 to 20 times as long in bf16 as
in fp32 with channels last, so that half of the training step of an EfficientNet went there. Own work.
"""

from __future__ import annotations

import torch
from timm.layers import Conv2dSame
from torch import Tensor, nn


class _InFp32OnCpu(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if not (x.is_cpu and torch.is_autocast_enabled("cpu")):
            return super().forward(x)
        with torch.autocast("cpu", enabled=False):
            return super().forward(x.float())


class DepthwiseConv2d(_InFp32OnCpu, nn.Conv2d):
    """`nn.Conv2d`, in fp32 under autocast on a CPU."""


class DepthwiseConv2dSame(_InFp32OnCpu, Conv2dSame):
    """timm's `Conv2dSame` (TensorFlow's padding), in fp32 under autocast on a CPU."""


_BY_KIND = {nn.Conv2d: DepthwiseConv2d, Conv2dSame: DepthwiseConv2dSame}


def keep_depthwise_in_fp32(network: nn.Module) -> nn.Module:
    """Gives the depthwise convolutions of a network the classes above; parameters and names stay as they are."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and 1 < module.groups == module.in_channels and type(module) in _BY_KIND:
            module.__class__ = _BY_KIND[type(module)]
    return network
