"""The convolution blocks that most dense heads are made of. Own work; initialization as mmsegmentation's (Apache-2.0)."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from trimask.layers.depthwise import DepthwiseConv2d
from trimask.layers.dilated_depthwise import DilatedDepthwiseConv2d


class ConvNormReLU(nn.Sequential):
    """Convolution without bias, batch normalization, ReLU; the size stays. Members: `conv`, `norm`, `relu`."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 3, *, dilation: int = 1) -> None:
        super().__init__()
        padding = dilation * (kernel_size // 2)
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=padding, dilation=dilation, bias=False)
        self.norm = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True)


class SeparableConvNormReLU(nn.Sequential):
    """A 3x3 convolution of each channel alone, then a 1x1 convolution over channels, batch normalization, ReLU.

    Members: `depthwise` (with `conv`, and `norm` and `relu` if there is an inner norm) and `pointwise`.

    Args: inner_norm: batch normalization and ReLU behind the first convolution, too.
    """

    def __init__(self, in_channels: int, out_channels: int, *, dilation: int = 1, inner_norm: bool = True) -> None:
        super().__init__()
        self.depthwise = nn.Sequential()
        kind = DilatedDepthwiseConv2d if dilation > 1 else DepthwiseConv2d
        conv = kind(in_channels, in_channels, 3, padding=dilation, dilation=dilation, groups=in_channels, bias=False)
        self.depthwise.add_module("conv", conv)
        if inner_norm:
            self.depthwise.add_module("norm", nn.BatchNorm2d(in_channels))
            self.depthwise.add_module("relu", nn.ReLU(inplace=True))
        self.pointwise = ConvNormReLU(in_channels, out_channels, 1)


def initialize_as_mmseg(head: nn.Module, classify: nn.Conv2d) -> None:
    """He's normal initialization (fan out) of every convolution in `head`, a classifier that starts near zero."""
    for module in head.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    nn.init.normal_(classify.weight, std=0.01)
    nn.init.zeros_(classify.get_parameter("bias"))


def require_several_values(block: Any, x: Tensor) -> None:
    """Refuses to train a block's batch norm on one value a channel.

    Args:
        block: a `ConvNormReLU`.
        x: (B, D, h, w), what goes into it.
    """
    if block.norm.training and isinstance(block.norm, nn.BatchNorm2d) and x.shape[0] * x.shape[2] * x.shape[3] == 1:
        raise ValueError(
            "Batch normalization behind pooling over the whole picture needs at least two pictures a training batch "
            "and device; this one has one. Raise batch_size, set drop_last, or use synchronized batch normalization."
        )
