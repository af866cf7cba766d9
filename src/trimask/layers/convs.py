"""The convolution block that most dense heads are made of."""

from __future__ import annotations

from torch import nn


class ConvNormReLU(nn.Sequential):
    """3x3 convolution without bias, batch normalization, ReLU; the size stays. Members: `conv`, `norm`, `relu`."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True)
