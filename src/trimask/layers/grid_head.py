"""What SOLO and SOLOv2 share: convolutions with group normalization, coordinates, and the five levels of their grids.

Source: Wang et al., "SOLO: Segmenting Objects by Locations", ECCV 2020, arXiv:1912.04488; the form is that of mmdetection 3.3
(Apache-2.0). The first level is halved by averaging, which is what bilinear interpolation to half the size does.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

NUM_GROUPS = 32  # of group normalization, as in its paper
PRIOR = 0.01  # probability that a focal loss begins with, as in its paper
NUM_MAPS = 4  # of the backbone
GRIDS = (40, 36, 24, 16, 12)  # cells a side of the five levels, for small objects first


class ConvGroupNormReLU(nn.Sequential):
    """Convolution without bias, group normalization, ReLU; the size stays. Members: `conv`, `norm`, `relu`."""

    def __init__(self, in_channels: int, channels: int, kernel_size: int = 3) -> None:
        super().__init__()
        if channels % NUM_GROUPS:
            raise ValueError(f"Group normalization needs a multiple of {NUM_GROUPS} channels; got {channels}.")
        self.conv = nn.Conv2d(in_channels, channels, kernel_size, padding=kernel_size // 2, bias=False)
        self.norm = nn.GroupNorm(NUM_GROUPS, channels)
        self.relu = nn.ReLU(inplace=True)


def tower(in_channels: int, channels: int, num_convs: int) -> nn.Sequential:
    """So many 3x3 convolutions one behind the other."""
    widths = [in_channels, *[channels] * num_convs]
    return nn.Sequential(*(ConvGroupNormReLU(*pair) for pair in pairwise(widths)))


def coordinates(x: Tensor) -> Tensor:
    """(B, D, h, w) -> (B, 2, h, w): how far to the right and how far down a cell lies, from -1 to 1."""
    # not by torch.linspace, whose number of steps torch.export takes as fixed
    down, right = (
        torch.arange(side, device=x.device, dtype=x.dtype) * (2 / max(side - 1, 1)) - 1 for side in x.shape[-2:]
    )
    both = torch.stack(torch.meshgrid(right, down, indexing="xy"))
    return both.expand(x.shape[0], -1, -1, -1)


def grid_levels(pyramid: Sequence[Tensor]) -> list[Tensor]:
    """Five levels of a pyramid, finest first, each half the size of the one before -> those of the grids.

    The first, whose size must be even, becomes as small as the second, and the last as large as the fourth.
    """
    finest, second, third, fourth, last = pyramid
    last = F.interpolate(last, fourth.shape[-2:], mode="bilinear", align_corners=False)
    return [F.avg_pool2d(finest, 2), second, third, fourth, last]


def grid_strides(strides: Sequence[int]) -> tuple[int, ...]:
    """Of the backbone's last four maps -> of the levels of the grids."""
    finest, second, third, fourth = strides
    return 2 * finest, second, third, fourth, fourth


def require_grids(grids: Sequence[int]) -> None:
    if len(grids) != len(GRIDS) or min(grids) < 1:
        raise ValueError(
            f"`grids` are {len(GRIDS)} numbers of cells a side, for small objects first; got {list(grids)}."
        )


def initialize_as_published(parts: Iterable[nn.Module], beginning_at_prior: Iterable[nn.Conv2d]) -> None:
    """Weights of convolutions from a normal distribution of deviation 0.01, and biases that say `PRIOR` in some of them."""
    for module in (module for part in parts for module in part.modules()):
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, std=0.01)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for conv in beginning_at_prior:
        nn.init.constant_(conv.get_parameter("bias"), -math.log((1 - PRIOR) / PRIOR))
