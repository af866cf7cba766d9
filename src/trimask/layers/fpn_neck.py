"""Feature pyramid: maps of a backbone become maps of one width, each of which knows what the coarser ones know.

Source: Lin et al., "Feature Pyramid Networks for Object Detection", CVPR 2017, arXiv:1612.03144. Equal to torchvision's
`FeaturePyramidNetwork` (BSD-3) with its max pooling and its P6 and P7 (tests/layers/test_fpn_neck.py), and so to the pyramids
of detectron2 and mmdetection (Apache-2.0), whose names differ.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

Extra = Literal["pool", "convs"]


class FPNNeck(nn.Module):
    """Lateral 1x1 convolutions, sums from coarse to fine, 3x3 convolutions, and coarser levels than the backbone has.

    Args:
        in_channels: of the maps, finest first.
        channels: width of the pyramid.
        num_extra: levels beyond the coarsest map, each of half the size of the one before.
        extra: how they are made: "pool" takes every second cell (Mask R-CNN's P6), "convs" 3x3 convolutions of stride 2 of
            the last level, with a ReLU between two of them (RetinaNet's P6 and P7).
        norm: makes a normalization for a width, behind every convolution, which then has no bias.
        smooth: the 3x3 convolutions.
        initialize: of every convolution's weight. Uniform with a variance of 1 / fan-in as in torchvision and detectron2 by
            default; mmdetection takes Glorot's.

    Attributes:
        channels, num_levels: of the answer.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        channels: int = 256,
        *,
        num_extra: int = 0,
        extra: Extra = "pool",
        norm: Callable[[int], nn.Module] | None = None,
        smooth: bool = True,
        initialize: Callable[[Tensor], object] | None = None,
    ) -> None:
        super().__init__()
        self.channels, self.num_levels, self.num_extra = channels, len(in_channels) + num_extra, num_extra
        self.laterals = nn.ModuleList(_conv(width, channels, 1, norm) for width in in_channels)
        self.smooth = nn.ModuleList(_conv(channels, channels, 3, norm) for _ in in_channels) if smooth else None
        self.extra: nn.ModuleList | None = None
        if extra == "convs":
            self.extra = nn.ModuleList(nn.Conv2d(channels, channels, 3, stride=2, padding=1) for _ in range(num_extra))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                (initialize or _uniform)(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """(B, in_channels[i], h_i, w_i), finest first -> (B, channels, h_i, w_i), and then the extra levels."""
        levels = [lateral(x) for lateral, x in zip(self.laterals, maps, strict=True)]
        for fine in range(len(levels) - 2, -1, -1):
            size = levels[fine].shape[-2:]
            levels[fine] = levels[fine] + F.interpolate(levels[fine + 1], size, mode="nearest")
        if self.smooth is not None:
            levels = [smooth(x) for smooth, x in zip(self.smooth, levels, strict=True)]
        for number in range(self.num_extra):
            levels.append(self._halved(levels[-1], number))
        return levels

    def _halved(self, level: Tensor, number: int) -> Tensor:
        if self.extra is None:
            return F.max_pool2d(level, 1, stride=2)
        return self.extra[number](F.relu(level) if number else level)


def _conv(in_channels: int, channels: int, kernel_size: int, norm: Callable[[int], nn.Module] | None) -> nn.Module:
    conv = nn.Conv2d(in_channels, channels, kernel_size, padding=kernel_size // 2, bias=norm is None)
    return conv if norm is None else nn.Sequential(conv, norm(channels))


def _uniform(weight: Tensor) -> None:
    nn.init.kaiming_uniform_(weight, a=1)
