"""U-Net on any backbone that halves the size from level to level.

Source: Ronneberger, Fischer, Brox, "U-Net: Convolutional Networks for Biomedical Image Segmentation", MICCAI 2015,
arXiv:1505.04597, in the form of `Unet` of segmentation_models_pytorch (MIT): backbone features as skips, nearest
upsampling, batch normalization. With the same weights the logits are equal (`make parity`).

**Deviations**
- From the paper, as in smp: padded convolutions, a pretrained encoder, nearest upsampling, no skip at full size.
- From smp: any picture size. Pictures are padded to a multiple of the largest stride at the bottom and right with the
  mean color, and the logits are cropped; smp refuses other sizes.
- From smp: upsampling and the convolution behind it are one transposed convolution (`UpsampleConv`): the same function
  and the same parameters, with less than half of the multiplications and no upsampled map in memory.
- Backbones that begin at stride 4 (ConvNeXt, Swin) have no skip at stride 2, as in smp.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trimask.layers.backbone import Backbone
from trimask.layers.backbone_names import SMP, SMP_TIMM
from trimask.layers.convs import ConvNormReLU
from trimask.outputs import DenseOutput
from trimask.weights import RenameTable

FEW_PIXELS = 400  # of a batch: from here on folding pays; measured with torch 2.15 on two AVX512-bf16 cores

_DECODER = (
    (r"^decoder\.(\d+)\.up\.", r"decoder.blocks.\1.conv1.0."),
    (r"^decoder\.(\d+)\.norm\.", r"decoder.blocks.\1.conv1.1."),
    (r"^decoder\.(\d+)\.conv\.conv\.", r"decoder.blocks.\1.conv2.0."),
    (r"^decoder\.(\d+)\.conv\.norm\.", r"decoder.blocks.\1.conv2.1."),
    (r"^head\.", "segmentation_head.0."),
)


class UNet(nn.Module):
    """One logit a class at every pixel.

    Args:
        num_classes: channels of the logits.
        backbone: timm name; its levels have the strides 2 or 4, then twice as much each.
        pretrained: see `Backbone`.
        in_channels: channels of the pictures.
        decoder_channels: one width a decoder block, coarsest first; as many as the backbone halves the size (mostly 5).

    Raises:
        ValueError: the backbone's levels do not halve the size, or the number of widths does not fit.
    """

    output = DenseOutput
    # smp_timm: smp's encoders called "tu-..."
    RENAMES: ClassVar[dict[str, RenameTable]] = {"smp": (*SMP, *_DECODER), "smp_timm": (*SMP_TIMM, *_DECODER)}

    def __init__(
        self,
        num_classes: int,
        *,
        backbone: str = "resnet50",
        pretrained: bool | str = True,
        in_channels: int = 3,
        decoder_channels: Sequence[int] = (256, 128, 64, 32, 16),
    ) -> None:
        super().__init__()
        self.backbone = Backbone(backbone, pretrained=pretrained, in_channels=in_channels, pad_to_stride=True)
        skips = _channels_by_level(self.backbone)
        if len(decoder_channels) != len(skips):
            given = f"{len(decoder_channels)} decoder_channels for {backbone!r}"
            raise ValueError(f"{given}, which halves the size {len(skips)} times; give {len(skips)}.")
        self.decoder = nn.ModuleList()
        channels = skips[-1]
        for skip_channels, width in zip([*skips[-2::-1], 0], decoder_channels, strict=True):
            self.decoder.append(DecoderBlock(channels, skip_channels, width))
            channels = width
        self.head = nn.Conv2d(channels, num_classes, 3, padding=1)
        _initialize(self.decoder, self.head)

    def forward(self, images: Tensor) -> DenseOutput:
        """(B, in_channels, H, W) in 0..255 -> logits (B, num_classes, H, W)."""
        maps = dict(zip(self.backbone.strides, self.backbone(images), strict=True))
        stride = max(maps)
        x = maps[stride]
        for block in self.decoder:
            stride //= 2
            x = block(x, maps.get(stride) if stride > 1 else None)
        logits = self.head(x)
        height, width = images.shape[-2:]
        # Negative padding crops into a map of its own; a view of it would tie an export to this picture size.
        return DenseOutput(F.pad(logits, (0, width - logits.shape[-1], 0, height - logits.shape[-2])))


class DecoderBlock(nn.Module):
    """Twice the size, join the skip, two convolutions."""

    def __init__(self, in_channels: int, skip_channels: int, out_channels: int) -> None:
        super().__init__()
        self.up = UpsampleConv(in_channels, skip_channels, out_channels)
        self.norm = nn.BatchNorm2d(out_channels)
        self.conv = ConvNormReLU(out_channels, out_channels)

    def forward(self, x: Tensor, skip: Tensor | None) -> Tensor:
        """(B, in, h, w), (B, skip, 2h, 2w) -> (B, out, 2h, 2w)."""
        return self.conv(F.relu(self.norm(self.up(x, skip)), inplace=True))


class UpsampleConv(nn.Module):
    """A 3x3 convolution over [x upsampled twofold to its nearest neighbor, skip], without ever making that map.

    Among the 3x3 pixels of a nearest-upsampled map only 2x2 differ. Summing the kernel's weights over equal pixels
    gives a transposed convolution of kernel 4 and stride 2 with 4 instead of 9 multiplications a pixel and channel,
    exact also at the border. On a CPU the sums cost more than they save where there are few pixels; the map is made there.

    Attributes:
        weight: (out, in + skip, 3, 3), the kernel of the plain convolution.
    """

    fold: Tensor

    def __init__(self, in_channels: int, skip_channels: int, out_channels: int) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels + skip_channels, 3, 3))
        rows = torch.tensor([[0.0, 0, 1], [0, 1, 1], [1, 1, 0], [1, 0, 0]])  # 3 -> 4 taps, flipped as transposing does
        self.register_buffer("fold", torch.kron(rows, rows).T.contiguous(), persistent=False)  # (9, 16)

    def forward(self, x: Tensor, skip: Tensor | None) -> Tensor:
        """(B, in, h, w), (B, skip, 2h, 2w) or None -> (B, out, 2h, 2w)."""
        if x.is_cpu and not torch.compiler.is_exporting() and len(x) * x.shape[2] * x.shape[3] < FEW_PIXELS:
            up = F.interpolate(x, scale_factor=2, mode="nearest")
            return F.conv2d(up if skip is None else torch.cat([up, skip], dim=1), self.weight, padding=1)
        kernel = self.weight[:, : self.in_channels].transpose(0, 1)
        kernel = (kernel.reshape(-1, 9) @ self.fold).view(*kernel.shape[:2], 4, 4)
        up = F.conv_transpose2d(x, kernel, stride=2, padding=1)
        return up if skip is None else up + F.conv2d(skip, self.weight[:, self.in_channels :], padding=1)


def _channels_by_level(backbone: Backbone) -> list[int]:
    """Channels at the strides 2, 4, 8, ...; 0 where the backbone has no map (it begins at stride 4)."""
    by_stride = dict(zip(backbone.strides, backbone.channels, strict=True))
    levels = [2**level for level in range(1, int(math.log2(max(by_stride))) + 1)]
    if set(by_stride) - {1, *levels} or set(levels[1:]) - set(by_stride) or len(by_stride) < len(backbone.strides):
        raise ValueError(f"UNet needs a backbone whose levels halve the size; this one has strides {backbone.strides}.")
    return [by_stride.get(level, 0) for level in levels]


def _initialize(decoder: nn.Module, head: nn.Conv2d) -> None:
    """As smp: He's uniform initialization in the decoder, Glorot's in the head."""
    for module in decoder.modules():
        if isinstance(module, nn.Conv2d | UpsampleConv):
            nn.init.kaiming_uniform_(module.weight, nonlinearity="relu")
    nn.init.xavier_uniform_(head.weight)
    nn.init.constant_(head.get_parameter("bias"), 0.0)
