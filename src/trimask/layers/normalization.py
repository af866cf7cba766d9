"""Means and standard deviations of pictures in 0..255, one a channel. The numbers are those of ImageNet's pictures."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

IMAGENET_MEAN, IMAGENET_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


def per_channel(values: Sequence[float], in_channels: int) -> Tensor:
    """(1, in_channels, 1, 1); beyond the given ones they repeat, as timm repeats the kernels of a stem."""
    cycled = [float(values[channel % len(values)]) for channel in range(in_channels)]
    return torch.tensor(cycled).view(1, -1, 1, 1)
