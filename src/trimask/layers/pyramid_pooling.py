"""Pyramid pooling: means over the cells of coarse grids, mixed back into the map.

Source: Zhao et al., "Pyramid Scene Parsing Network", CVPR 2017, arXiv:1612.01105, in the form of `PPM` and the bottleneck behind
it of mmsegmentation 1.2.2 (Apache-2.0), which PSPNet, UPerNet and FastFCN share.

**Deviations** from mmseg: the pooled maps are not upsampled in front of the last convolution; the answer is the same
(layers/joined_conv.py).
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from trimask.layers.convs import ConvNormReLU, require_several_values
from trimask.layers.joined_conv import conv_over_joined


class PyramidPooling(nn.Module):
    """Means of the map over grids, a 1x1 convolution each, joined with the map and mixed by a 3x3 convolution.

    Args:
        in_channels: of the map.
        channels: of what comes out of each pooled branch, and of the result.
        scales: cells of each grid along a side.
        align_corners: how pooled maps are brought back to the map's size.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        *,
        scales: Sequence[int] = (1, 2, 3, 6),
        align_corners: bool = False,
    ) -> None:
        super().__init__()
        self.scales, self.align_corners = tuple(scales), align_corners
        self.branches = nn.ModuleList(ConvNormReLU(in_channels, channels, 1) for _ in self.scales)
        self.mix = ConvNormReLU(in_channels + len(self.scales) * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, h, w) -> (B, channels, h, w)."""
        coarse = []
        for scale, branch in zip(self.scales, self.branches, strict=True):
            pooled = F.adaptive_avg_pool2d(x, scale)
            require_several_values(branch, pooled)
            coarse.append(branch(pooled))
        mixed = conv_over_joined(x, coarse, self.mix.conv.weight, align_corners=self.align_corners)
        return self.mix.relu(self.mix.norm(mixed))
