"""DeepLabV3+: DeepLabV3's pyramid, and a decoder that joins it with the backbone's map at stride 4.

Source: Chen, Zhu, Papandreou, Schroff, Adam, "Encoder-Decoder with Atrous Separable Convolution for Semantic Image Segmentation",
ECCV 2018, arXiv:1802.02611, authors' code tensorflow/models/research/deeplab (Apache-2.0), in the form of mmsegmentation's
`DepthwiseSeparableASPPHead` and configs/_base_/models/deeplabv3plus_r50-d8.py (Apache-2.0). With the same weights the logits are
mmseg's. As `AS_SMP` says they are those of `DeepLabV3Plus` of segmentation_models_pytorch (MIT) with a "tu-" encoder
(`make parity`).

**Deviations**
- From the paper, as in mmseg: output stride 8, 512 channels instead of 256, a 3x3 convolution instead of 1x1 behind the pyramid,
  an auxiliary head in training.
- From mmseg: timm's plain ResNet-50 by default; mmseg's has the three-convolution stem of V1c, which timm calls
  `resnet50c.gluon_in1k`. Plain batch normalization; the trainer may make it synchronized.
- From smp: any picture size; smp wants multiples of the output stride. Its own encoders dilate every block of a stage alike,
  timm's begin a stage with the dilation of the stage before: the names fit, the answers do not, so there is no table for them.
- The computation of the pyramid leaves away what does not matter (layers/aspp.py); the answer is the same.
- Initialization is mmseg's in every form; smp leaves the head at torch's own.
- The weight 0.4 of the auxiliary loss belongs to the criterion.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trimask.layers.aspp import ASPP, convert_mmseg_aspp
from trimask.layers.backbone import Backbone
from trimask.layers.backbone_names import MMSEG, SMP_TIMM
from trimask.layers.convs import ConvNormReLU, SeparableConvNormReLU, initialize_as_mmseg
from trimask.layers.fcn_head import FCNHead
from trimask.outputs import DenseOutput
from trimask.weights import RenameTable

SKIP_STRIDE = 4

# Arguments that make it smp's.
AS_SMP: Mapping[str, Any] = MappingProxyType(
    {
        "output_stride": 16,
        "channels": 256,
        "mix_kernel": 1,
        "num_aspp_convs": 1,
        "num_convs": 1,
        "inner_norm": False,
        "aspp_dropout": 0.5,
        "dropout": 0.0,
        "aux_channels": None,
        "align_corners": True,
    }
)


class DeepLabV3Plus(nn.Module):
    """One logit a class at every cell of the backbone's map at stride 4.

    Args:
        num_classes: channels of the logits.
        backbone: timm name; it has a map at stride 4.
        pretrained: see `Backbone`.
        in_channels: channels of the pictures.
        output_stride: of the last map; None for the backbone's own.
        channels: width of the head and of each branch of the pyramid.
        skip_channels: width to which the map at stride 4 is reduced.
        rates: dilations of the pyramid's 3x3 convolutions; the papers have (6, 12, 18) at stride 16 and twice that at 8.
        mix_kernel: side of the kernel that mixes the branches.
        num_aspp_convs: separable convolutions between the pyramid and its upsampling.
        num_convs: separable convolutions behind the join with the map at stride 4, at least 1.
        inner_norm: batch normalization and ReLU inside of separable convolutions, too.
        aspp_dropout: rate at which single values of the pyramid are dropped.
        dropout: rate at which whole channels are dropped before the classifier; the auxiliary head's is 0.1 in any case.
        aux_channels: width of the auxiliary head on the last map but one; None for no such head.
        align_corners: how the pyramid and the logits are brought to a larger size.

    Raises:
        ValueError: see `Backbone` and `ASPP`; no map at stride 4; num_convs < 1; in training, a batch of one picture.
    """

    output = DenseOutput
    tiny: ClassVar[dict[str, Any]] = {
        "backbone": "test_resnet",
        "channels": 32,
        "rates": (2, 3, 5),
        "num_aspp_convs": 1,
        "aux_channels": 16,
    }
    RENAMES: ClassVar[dict[str, RenameTable]] = {
        "mmseg": (
            *MMSEG,
            (r"^head\.aspp\.branches\.(\d+)\.", r"decode_head.aspp_modules.\1."),
            (r"^head\.aspp\.image\.", "decode_head.image_pool.1."),
            (r"^head\.aspp\.mix\.", "decode_head.bottleneck."),
            (r"^head\.skip\.", "decode_head.c1_bottleneck."),
            (r"^head\.convs\.", "decode_head.sep_bottleneck."),
            (r"^head\.", "decode_head."),
            (r"\.(depth|point)wise\.", r".\1wise_conv."),
            (r"^aux_head\.", "auxiliary_head."),
            (r"^(decode_head|auxiliary_head)\.(.+)\.norm\.", r"\1.\2.bn."),
            (r"_head\.classify\.", "_head.conv_seg."),
        ),
        "smp_timm": (
            *SMP_TIMM,
            (r"^head\.aspp\.branches\.(\d+)\.", r"decoder.aspp.0.convs.\1."),
            (r"^head\.aspp\.image\.conv\.", "decoder.aspp.0.convs.4.1."),
            (r"^head\.aspp\.image\.norm\.", "decoder.aspp.0.convs.4.2."),
            (r"^head\.aspp\.mix\.", "decoder.aspp.0.project."),
            (r"^head\.aspp_convs\.0\.pointwise\.norm\.", "decoder.aspp.2."),
            (r"^head\.aspp_convs\.0\.", "decoder.aspp.1.-."),
            (r"^head\.skip\.", "decoder.block1."),
            (r"^head\.convs\.0\.", "decoder.block2."),
            (r"^head\.classify\.", "segmentation_head.0."),
            (r"^(decoder\..*)depthwise\.conv\.", r"\g<1>0.0."),
            (r"^(decoder\..*)pointwise\.conv\.", r"\g<1>0.1."),
            (r"^(decoder\..*)pointwise\.norm\.", r"\g<1>1."),
            (r"^(decoder\..*)conv\.", r"\g<1>0."),
            (r"^(decoder\..*)norm\.", r"\g<1>1."),
            (r"\.-\.0\.", "."),
        ),
    }
    CONVERSIONS: ClassVar = {"mmseg": convert_mmseg_aspp}

    def __init__(
        self,
        num_classes: int,
        *,
        backbone: str = "resnet50",
        pretrained: bool | str = True,
        in_channels: int = 3,
        output_stride: int | None = 8,
        channels: int = 512,
        skip_channels: int = 48,
        rates: Sequence[int] = (12, 24, 36),
        mix_kernel: int = 3,
        num_aspp_convs: int = 0,
        num_convs: int = 2,
        inner_norm: bool = True,
        aspp_dropout: float = 0.0,
        dropout: float = 0.1,
        aux_channels: int | None = 256,
        align_corners: bool = False,
    ) -> None:
        super().__init__()
        self.align_corners = align_corners
        self.backbone = Backbone(backbone, pretrained=pretrained, in_channels=in_channels, output_stride=output_stride)
        self.skip_level = _skip_level(backbone, self.backbone.strides)
        *_, before_last, last = self.backbone.channels
        aspp = ASPP(
            last,
            channels,
            rates=rates,
            mix_kernel=mix_kernel,
            dropout=aspp_dropout,
            separable=True,
            inner_norm=inner_norm,
        )
        self.head = DeepLabV3PlusHead(
            aspp,
            self.backbone.channels[self.skip_level],
            num_classes,
            channels=channels,
            skip_channels=skip_channels,
            num_aspp_convs=num_aspp_convs,
            num_convs=num_convs,
            inner_norm=inner_norm,
            dropout=dropout,
            align_corners=align_corners,
        )
        self.aux_head = None if aux_channels is None else FCNHead(before_last, num_classes, channels=aux_channels)

    def forward(self, images: Tensor) -> DenseOutput:
        """(B, in_channels, H, W) in 0..255 -> logits (B, num_classes, H / 4, W / 4), sizes rounded up."""
        maps = self.backbone(images)
        aux = (self.aux_head(maps[-2]),) if self.training and self.aux_head is not None else ()
        return DenseOutput(self.head(maps[-1], maps[self.skip_level]), aux, self.align_corners)


class DeepLabV3PlusHead(nn.Module):
    """The pyramid, the join with a finer map, dropout and a linear classifier; see `DeepLabV3Plus` for the arguments."""

    def __init__(
        self,
        aspp: ASPP,
        in_skip_channels: int,
        num_classes: int,
        *,
        channels: int,
        skip_channels: int,
        num_aspp_convs: int,
        num_convs: int,
        inner_norm: bool,
        dropout: float,
        align_corners: bool,
    ) -> None:
        super().__init__()
        if num_convs < 1:
            raise ValueError(f"The decoder needs at least one convolution behind the join; got num_convs={num_convs}.")
        self.align_corners = align_corners

        def separable(width: int) -> SeparableConvNormReLU:
            return SeparableConvNormReLU(width, channels, inner_norm=inner_norm)

        self.aspp = aspp
        self.aspp_convs = nn.Sequential(*[separable(channels) for _ in range(num_aspp_convs)])
        self.skip = ConvNormReLU(in_skip_channels, skip_channels, 1)
        widths = [channels + skip_channels, *[channels] * (num_convs - 1)]
        self.convs = nn.Sequential(*[separable(width) for width in widths])
        self.dropout = nn.Dropout2d(dropout)
        self.classify = nn.Conv2d(channels, num_classes, 1)
        initialize_as_mmseg(self, self.classify)

    def forward(self, x: Tensor, fine: Tensor) -> Tensor:
        """(B, in_channels, h, w), (B, in_skip_channels, h', w') -> (B, num_classes, h', w')."""
        deep = self.aspp_convs(self.aspp(x))
        deep = F.interpolate(deep, fine.shape[-2:], mode="bilinear", align_corners=self.align_corners)
        joined = torch.cat([deep, self.skip(fine)], dim=1)
        return self.classify(self.dropout(self.convs(joined)))


def _skip_level(backbone: str, strides: Sequence[int]) -> int:
    """The deepest level at stride 4."""
    if SKIP_STRIDE not in strides:
        raise ValueError(
            f"DeepLabV3Plus needs a backbone with a map at stride 4; {backbone!r} has strides {[*strides]}."
        )
    return len(strides) - 1 - list(reversed(strides)).index(SKIP_STRIDE)
