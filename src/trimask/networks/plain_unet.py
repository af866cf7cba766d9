"""U-Net in its original shape: an encoder of its own, trained from random weights, whose maps begin at full size.

Source: Ronneberger, Fischer, Brox, "U-Net: Convolutional Networks for Biomedical Image Segmentation", MICCAI 2015,
arXiv:1505.04597, in the form of mmsegmentation's `UNet` and configs/_base_/models/fcn_unet_s5-d16.py (Apache-2.0). With the
same weights the logits are mmseg's (`make parity`). `networks.unet.UNet` is the same idea on a pretrained backbone.

**Deviations**
- From the paper, as in mmseg: padded convolutions, batch normalization, bilinear upsampling and a 1x1 convolution in place of a
  transposed one, an FCN head, an auxiliary head in training.
- From mmseg: any picture size, also those that 16 does not divide, which mmseg refuses. Sizes are halved rounding up, and a map
  is upsampled to the size of its skip.
- From mmseg: the 1x1 convolution comes before the upsampling, which is the same function (both are linear, one over channels, one
  over positions) with a quarter of the multiplications and an upsampled map half as wide.
- From mmseg: plain batch normalization; the trainer may make it synchronized.
- The weight 0.4 of the auxiliary loss belongs to the criterion.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trimask.layers.convs import ConvNormReLU
from trimask.layers.fcn_head import FCNHead
from trimask.layers.normalization import IMAGENET_MEAN, IMAGENET_STD, per_channel
from trimask.outputs import DenseOutput
from trimask.weights import RenameTable


class PlainUNet(nn.Module):
    """One logit a class at every pixel.

    Args:
        num_classes: channels of the logits.
        widths: channels of the encoder's stages, finest first, at least 2; each halves the size of the one before.
        in_channels: channels of the pictures.
        mean, std: of the pictures' channels in 0..255; repeated cyclically beyond.
        dropout: rate at which whole channels are dropped before a classifier.
        aux_channels: width of the auxiliary head on the decoder's map of half the size; None for no such head.

    Raises:
        ValueError: fewer than 2 stages.
    """

    output = DenseOutput
    tiny: ClassVar[dict[str, Any]] = {"widths": (8, 16, 16, 32, 32), "aux_channels": 8}
    RENAMES: ClassVar[dict[str, RenameTable]] = {
        "mmseg": (
            (r"^(mean|std)$", ""),
            (r"^encoder\.0\.", "backbone.encoder.0.0.convs."),
            (r"^encoder\.(\d+)\.", r"backbone.encoder.\1.1.convs."),  # 0 is the pooling
            (r"^decoder\.(\d+)\.convs\.", r"backbone.decoder.\1.conv_block.convs."),
            (r"^decoder\.(\d+)\.up\.", r"backbone.decoder.\1.upsample.interp_upsample.1."),
            (r"^head\.", "decode_head."),
            (r"^aux_head\.", "auxiliary_head."),
            (r"_head\.classify\.", "_head.conv_seg."),
            (r"\.norm\.", ".bn."),
        ),
    }

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        num_classes: int,
        *,
        widths: Sequence[int] = (64, 128, 256, 512, 1024),
        in_channels: int = 3,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        dropout: float = 0.1,
        aux_channels: int | None = 64,
    ) -> None:
        super().__init__()
        if len(widths) < 2:
            raise ValueError(f"A U-Net needs at least two stages; got widths={tuple(widths)}.")
        self.register_buffer("mean", per_channel(mean, in_channels))
        self.register_buffer("std", per_channel(std, in_channels))
        self.encoder = nn.ModuleList(_two_convs(*pair) for pair in pairwise([in_channels, *widths]))
        self.decoder = nn.ModuleList(DecoderBlock(coarse, fine) for fine, coarse in pairwise(widths))  # finest first
        _initialize(self)
        self.head = FCNHead(widths[0], num_classes, channels=widths[0], dropout=dropout)
        self.aux_head: FCNHead | None = None
        if aux_channels is not None:
            self.aux_head = FCNHead(widths[1], num_classes, channels=aux_channels, dropout=dropout)

    def forward(self, images: Tensor) -> DenseOutput:
        """(B, in_channels, H, W) in 0..255 -> logits (B, num_classes, H, W), auxiliary ones at half the size."""
        first, *others = self.encoder
        maps = [first((images.to(self.mean.dtype) - self.mean) / self.std)]
        for stage in others:
            maps.append(stage(F.max_pool2d(maps[-1], 2, ceil_mode=True)))
        x = half = maps.pop()
        for block, skip in zip(reversed(self.decoder), reversed(maps), strict=True):
            half, x = x, block(x, skip)
        aux = (self.aux_head(half),) if self.training and self.aux_head is not None else ()
        return DenseOutput(self.head(x), aux)


class DecoderBlock(nn.Module):
    """Twice the size, join the skip, two convolutions."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.up = ConvNormReLU(in_channels, out_channels, 1)
        self.convs = _two_convs(2 * out_channels, out_channels)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """(B, in, h, w), (B, out, 2h, 2w) -> (B, out, 2h, 2w)."""
        x = F.interpolate(self.up.conv(x), skip.shape[-2:], mode="bilinear", align_corners=False)
        return self.convs(torch.cat([skip, self.up.relu(self.up.norm(x))], dim=1))


def _two_convs(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(ConvNormReLU(in_channels, out_channels), ConvNormReLU(out_channels, out_channels))


def _initialize(body: nn.Module) -> None:
    """As mmseg: He's normal initialization (fan out)."""
    for module in body.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
