"""The branch of Panoptic-FPN for classes of pixels: levels of a pyramid are brought to one size step by step, and added.

Source: Kirillov et al., "Panoptic Feature Pyramid Networks", CVPR 2019, arXiv:1901.02446, section 3. With `norm="batch"` it is
mmsegmentation's, with `norm="group"` detectron2's (both Apache-2.0). Initialization as in mmsegmentation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from trimask.layers.convs import ConvNormReLU, initialize_as_mmseg

NUM_GROUPS = 32  # of group normalization, as in its paper
Norm = Literal["batch", "group"]


class SemanticHead(nn.Module):
    """Levels of a pyramid, finest first -> logits at the size of the finest.

    A level goes through as many convolutions, each followed by twofold upsampling, as it is coarser than the finest; that
    one goes through one convolution.

    Args:
        in_channels: of the pyramid.
        num_classes: channels of the logits.
        strides: of the levels.
        channels: width of the convolutions.
        norm: behind them, "batch" or "group".
        align_corners: of the upsampling.
        dropout: rate at which whole channels are dropped before the classifier.

    Raises:
        ValueError: the width cannot be divided into groups.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        strides: Sequence[int],
        channels: int,
        norm: Norm,
        align_corners: bool,
        dropout: float,
    ) -> None:
        super().__init__()
        self.align_corners = align_corners
        self.levels = nn.ModuleList()
        for stride in strides:
            doublings = int(math.log2(stride / strides[0]))
            convs: list[nn.Module] = []
            for step in range(max(1, doublings)):
                convs.append(_conv(in_channels if step == 0 else channels, channels, norm))
                if doublings:
                    convs.append(nn.Upsample(scale_factor=2.0, mode="bilinear", align_corners=align_corners))
            self.levels.append(nn.Sequential(*convs))
        self.dropout = nn.Dropout2d(dropout)
        self.classify = nn.Conv2d(channels, num_classes, 1)
        initialize_as_mmseg(self, self.classify)

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """(B, in_channels, h_i, w_i) -> (B, num_classes, h_0, w_0)."""
        finest, *coarser = (convs(x) for convs, x in zip(self.levels, levels, strict=True))
        for x in coarser:  # doubled sizes may be a cell too large
            finest = finest + F.interpolate(x, finest.shape[-2:], mode="bilinear", align_corners=self.align_corners)
        return self.classify(self.dropout(finest))


def _conv(in_channels: int, out_channels: int, norm: Norm) -> ConvNormReLU:
    """3x3 convolution, normalization, ReLU."""
    block = ConvNormReLU(in_channels, out_channels)
    if norm == "group":
        if out_channels % NUM_GROUPS:
            raise ValueError(f"Group normalization needs a multiple of {NUM_GROUPS} channels; got {out_channels}.")
        block.norm = nn.GroupNorm(NUM_GROUPS, out_channels)  # type: ignore[assignment]
    return block
