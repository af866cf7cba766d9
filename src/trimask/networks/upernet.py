"""UPerNet: pyramid pooling on the coarsest map, a feature pyramid below it, and one convolution over all levels together.

Source: Xiao, Liu, Zhou, Jiang, Sun, "Unified Perceptual Parsing for Scene Understanding", ECCV 2018, arXiv:1807.10221; its part
for semantic segmentation in the form of mmsegmentation's `UPerHead` and configs/_base_/models/upernet_{r50,swin,convnext}.py
(Apache-2.0), which the segmentation code of Swin Transformer and ConvNeXt (both MIT) shares. With the same weights the logits are
those of mmseg and of transformers' `UperNetForSemanticSegmentation` (Apache-2.0), and with `AS_SMP` those of `UPerNet` of
segmentation_models_pytorch (MIT) (`make parity`).

**Deviations**
- From the paper, as in mmseg: no heads for scenes, objects, parts, materials and textures; an auxiliary head in training.
- From mmseg: timm's plain ResNet-50 by default; mmseg's is V1c, timm's `resnet50c.gluon_in1k`. Plain batch normalization; the
  trainer may make it synchronized.
- Coarser levels are not upsampled in front of the convolution over all levels, nor pooled maps in front of theirs; the answer is
  the same (layers/joined_conv.py). With 512 px and a ResNet-50 this leaves away two fifths of all products.
- From smp: pictures of any size; smp refuses all but multiples of 32.
- The weight 0.4 of the auxiliary loss belongs to the criterion; the published rates of stochastic depth (0.3 for Swin-T, 0.4 for
  ConvNeXt-T) belong to the experiment.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from trimask.layers.backbone import Backbone
from trimask.layers.backbone_names import (
    MMSEG,
    OFFICIAL,
    SMP,
    SMP_TIMM,
    TRANSFORMERS,
    convert_mmseg,
    convert_official,
    convert_transformers,
)
from trimask.layers.convs import ConvNormReLU, initialize_as_mmseg
from trimask.layers.fcn_head import FCNHead
from trimask.layers.joined_conv import conv_over_joined
from trimask.layers.map_norms import MapNorm, map_norms
from trimask.layers.pyramid_pooling import PyramidPooling
from trimask.outputs import DenseOutput
from trimask.weights import RenameTable

NUM_LEVELS = 4

# Arguments that make it smp's.
AS_SMP: Mapping[str, Any] = MappingProxyType({"channels": 256, "map_norm": 1e-6, "dropout": 0.0, "aux_channels": None})

_MMSEG_HEADS = (
    (r"^norms\.(\d)\.", r"backbone.norm\1."),
    (r"^head\.pyramid\.branches\.(\d+)\.", r"decode_head.psp_modules.\1.1."),
    (r"^head\.pyramid\.mix\.", "decode_head.bottleneck."),
    (r"^head\.laterals\.", "decode_head.lateral_convs."),
    (r"^head\.smooth\.", "decode_head.fpn_convs."),
    (r"^head\.fuse\.", "decode_head.fpn_bottleneck."),
    (r"^head\.", "decode_head."),
    (r"^aux_head\.", "auxiliary_head."),
    (r"^((?:decode|auxiliary)_head\..+)\.norm\.", r"\1.bn."),
    (r"_head\.classify\.", "_head.conv_seg."),
)
_SMP_HEAD = (
    (r"^norms\.", "decoder.feature_norms."),
    (r"^head\.pyramid\.branches\.(\d+)\.", r"decoder.psp.blocks.\1.1."),
    (r"^head\.pyramid\.mix\.", "decoder.psp.out_conv."),
    # smp goes from coarse to fine
    *(
        (rf"^head\.laterals\.{level}\.", f"decoder.fpn_lateral_blocks.{2 - level}.conv_norm_relu.")
        for level in range(3)
    ),
    *((rf"^head\.smooth\.{level}\.", f"decoder.fpn_conv_blocks.{2 - level}.") for level in range(3)),
    (r"^head\.fuse\.", "decoder.fusion_block."),
    (r"^(decoder\..+)\.conv\.", r"\1.0."),
    (r"^(decoder\..+)\.norm\.", r"\1.1."),
    (r"^head\.classify\.", "segmentation_head.0."),
)


class UPerNet(nn.Module):
    """One logit a class at every cell of stride 4 (of the backbone's finest level that is used).

    Args:
        num_classes: channels of the logits.
        backbone: timm name; its last four levels are used.
        pretrained: see `Backbone`.
        in_channels: channels of the pictures.
        drop_path: rate of stochastic depth in the last block of the backbone.
        map_norm: of the maps of the backbone, see `layers.map_norms`.
        channels: width of the head.
        scales: cells of the pooling grids along a side.
        dropout: rate at which whole channels are dropped before a classifier.
        aux_channels: width of the auxiliary head on the last map but one; None for no such head.
        align_corners: how levels, pooled maps and logits are brought to a larger size.

    Raises:
        ValueError: see `Backbone`; in training, a batch of one picture.
    """

    output = DenseOutput
    tiny: ClassVar[dict[str, Any]] = {"backbone": "test_resnet", "channels": 32, "aux_channels": 16}
    RENAMES: ClassVar[dict[str, RenameTable]] = {
        "mmseg": (*MMSEG, *_MMSEG_HEADS),
        "official": (*OFFICIAL, *_MMSEG_HEADS),
        "transformers": (
            *TRANSFORMERS,
            *(
                (rf"^norms\.{level}\.", f"backbone.hidden_states_norms.stage{level + 1}.")
                for level in range(NUM_LEVELS)
            ),
            *_MMSEG_HEADS,
            (r"^((?:decode|auxiliary)_head\..+)\.bn\.", r"\1.batch_norm."),
            (r"_head\.conv_seg\.", "_head.classifier."),
        ),
        "smp": (*SMP, *_SMP_HEAD),
        "smp_timm": (*SMP_TIMM, *_SMP_HEAD),
    }
    CONVERSIONS: ClassVar = {
        "mmseg": convert_mmseg,
        "official": convert_official,
        "transformers": convert_transformers,
    }

    def __init__(
        self,
        num_classes: int,
        *,
        backbone: str = "resnet50",
        pretrained: bool | str = True,
        in_channels: int = 3,
        drop_path: float = 0.0,
        map_norm: MapNorm = "published",
        channels: int = 512,
        scales: Sequence[int] = (1, 2, 3, 6),
        dropout: float = 0.1,
        aux_channels: int | None = 256,
        align_corners: bool = False,
    ) -> None:
        super().__init__()
        self.align_corners = align_corners
        self.backbone = Backbone(backbone, pretrained=pretrained, in_channels=in_channels, drop_path=drop_path)
        widths = self.backbone.channels[-NUM_LEVELS:]
        self.norms = map_norms(widths, map_norm, backbone=backbone)
        self.head = UPerHead(
            widths, num_classes, channels=channels, scales=scales, dropout=dropout, align_corners=align_corners
        )
        self.aux_head: FCNHead | None = None
        if aux_channels is not None:
            self.aux_head = FCNHead(widths[-2], num_classes, channels=aux_channels, dropout=dropout)

    def forward(self, images: Tensor) -> DenseOutput:
        """(B, in_channels, H, W) in 0..255 -> logits (B, num_classes, h, w) at the stride of the finest level."""
        maps = self.backbone(images)[-NUM_LEVELS:]
        if self.norms is not None:
            maps = [norm(x) for norm, x in zip(self.norms, maps, strict=True)]
        aux = (self.aux_head(maps[-2]),) if self.training and self.aux_head is not None else ()
        return DenseOutput(self.head(maps), aux, self.align_corners)


class UPerHead(nn.Module):
    """Maps of a backbone, finest first -> logits at the size of the finest; see `UPerNet` for the arguments."""

    def __init__(
        self,
        in_channels: Sequence[int],
        num_classes: int,
        *,
        channels: int,
        scales: Sequence[int],
        dropout: float,
        align_corners: bool,
    ) -> None:
        super().__init__()
        self.align_corners = align_corners
        *finer, coarsest = in_channels
        self.pyramid = PyramidPooling(coarsest, channels, scales=scales, align_corners=align_corners)
        self.laterals = nn.ModuleList(ConvNormReLU(width, channels, 1) for width in finer)
        self.smooth = nn.ModuleList(ConvNormReLU(channels, channels) for _ in finer)
        self.fuse = ConvNormReLU(len(in_channels) * channels, channels)
        self.dropout = nn.Dropout2d(dropout)
        self.classify = nn.Conv2d(channels, num_classes, 1)
        initialize_as_mmseg(self, self.classify)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """(B, in_channels[i], h_i, w_i) -> (B, num_classes, h_0, w_0)."""
        levels = self._from_above(maps)
        finest, *coarser = (smooth(x) for smooth, x in zip(self.smooth, levels[:-1], strict=True))
        fused = conv_over_joined(
            finest, [*coarser, levels[-1]], self.fuse.conv.weight, align_corners=self.align_corners
        )
        return self.classify(self.dropout(self.fuse.relu(self.fuse.norm(fused))))

    def _from_above(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Each map in the head's width, plus the next coarser one, which has pyramid pooling behind it in the end."""
        *finer, coarsest = maps
        levels = [lateral(x) for lateral, x in zip(self.laterals, finer, strict=True)]
        above = self.pyramid(coarsest)
        levels.append(above)
        for level in range(len(finer) - 1, -1, -1):
            size = levels[level].shape[-2:]
            above = levels[level] + F.interpolate(above, size, mode="bilinear", align_corners=self.align_corners)
            levels[level] = above
        return levels
