"""The head of an FCN, which is also the auxiliary head of most dense networks.

Source: mmsegmentation's `FCNHead` (Apache-2.0); with one convolution and without the join it is torchvision's (BSD-3).
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from trimask.layers.convs import ConvNormReLU, initialize_as_mmseg


class FCNHead(nn.Module):
    """3x3 convolutions, dropout and a linear classifier of every cell; see `networks.fcn.FCN` for the arguments.

    Raises:
        ValueError: num_convs < 1.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        channels: int,
        num_convs: int = 1,
        concat_input: bool = False,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if num_convs < 1:
            raise ValueError(f"An FCN head needs at least one convolution; got num_convs={num_convs}.")
        widths = [in_channels, *[channels] * num_convs]
        self.convs = nn.Sequential(*[ConvNormReLU(*pair) for pair in pairwise(widths)])
        self.mix = ConvNormReLU(in_channels + channels, channels) if concat_input else None
        self.dropout = nn.Dropout2d(dropout)
        self.classify = nn.Conv2d(channels, num_classes, 1)
        initialize_as_mmseg(self, self.classify)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, h, w) -> (B, num_classes, h, w)."""
        hidden = self.convs(x)
        if self.mix is not None:
            hidden = self.mix(torch.cat([x, hidden], dim=1))
        return self.classify(self.dropout(hidden))
