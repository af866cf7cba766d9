"""Semantic FPN: a feature pyramid whose levels are brought to one size step by step, and added.

Source: Kirillov, Girshick, He, Dollár, "Panoptic Feature Pyramid Networks", CVPR 2019, arXiv:1901.02446, section 3 (its
branch for semantic segmentation), on the pyramid of Lin et al., "Feature Pyramid Networks for Object Detection", CVPR 2017,
arXiv:1612.03144. The form is that of mmsegmentation's configs/_base_/models/fpn_r50.py (Apache-2.0). With the same weights the
logits are mmseg's; with `norm="group", smooth=False, align_corners=True` they are those of `FPN` of
segmentation_models_pytorch (MIT) (`make parity`).

**Deviations**
- From the paper, as in mmseg: batch instead of group normalization (`norm="group"` is the paper's), dropout before the
  classifier, no scores of "other" things.
- From mmseg: timm's plain ResNet-50 by default; mmseg's is V1c, timm's `resnet50c.gluon_in1k`.
- From smp: pictures of any size; smp refuses all but multiples of 32. Its default dropout is 0.2.
"""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

from trimask.layers.backbone import Backbone
from trimask.layers.backbone_names import MMSEG, SMP, SMP_TIMM, convert_mmseg
from trimask.layers.fpn_head import Norm, SemanticHead
from trimask.layers.fpn_neck import FPNNeck
from trimask.outputs import DenseOutput
from trimask.weights import RenameTable

NUM_LEVELS = 4

_SMP = (
    (r"^pyramid\.laterals\.3\.", "decoder.p5."),
    *((rf"^pyramid\.laterals\.{level}\.", f"decoder.p{level + 2}.skip_conv.") for level in range(3)),
    # smp counts levels from the coarsest, and an upsampling is part of the convolution before it
    *(
        (rf"^head\.levels\.{level}\.{2 * step}\.", f"decoder.seg_blocks.{3 - level}.block.{step}.block.")
        for level in range(4)
        for step in range(3)
    ),
    (r"\.block\.conv\.", ".block.0."),
    (r"\.block\.norm\.", ".block.1."),
    (r"^head\.classify\.", "segmentation_head.0."),
)


class FPN(nn.Module):
    """One logit a class at every cell of stride 4 (of the backbone's finest level that is used).

    Args:
        num_classes: channels of the logits.
        backbone: timm name; its last four levels are used.
        pretrained: see `Backbone`.
        in_channels: channels of the pictures.
        pyramid_channels: width of the pyramid.
        channels: width of the head.
        norm: normalization in the head, "batch" or "group".
        smooth: a 3x3 convolution behind each level of the pyramid.
        align_corners: how the head brings levels and logits to a larger size.
        dropout: rate at which whole channels are dropped before the classifier.

    Raises:
        ValueError: see `Backbone`; or the head's width cannot be divided into groups.
    """

    output = DenseOutput
    tiny: ClassVar[dict[str, Any]] = {"backbone": "test_resnet", "pyramid_channels": 32, "channels": 32}
    RENAMES: ClassVar[dict[str, RenameTable]] = {
        "mmseg": (
            *MMSEG,
            (r"^pyramid\.laterals\.(\d)\.", r"neck.lateral_convs.\1.conv."),
            (r"^pyramid\.smooth\.(\d)\.", r"neck.fpn_convs.\1.conv."),
            (r"^head\.levels\.", "decode_head.scale_heads."),
            (r"^(decode_head\.scale_heads\.\d\.\d)\.norm\.", r"\1.bn."),
            (r"^head\.classify\.", "decode_head.conv_seg."),
        ),
        "smp": (*SMP, *_SMP),
        "smp_timm": (*SMP_TIMM, *_SMP),
    }
    CONVERSIONS: ClassVar = {"mmseg": convert_mmseg}

    def __init__(
        self,
        num_classes: int,
        *,
        backbone: str = "resnet50",
        pretrained: bool | str = True,
        in_channels: int = 3,
        pyramid_channels: int = 256,
        channels: int = 128,
        norm: Norm = "batch",
        smooth: bool = True,
        align_corners: bool = False,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.align_corners = align_corners
        self.backbone = Backbone(backbone, pretrained=pretrained, in_channels=in_channels)
        self.pyramid = FPNNeck(
            self.backbone.channels[-NUM_LEVELS:], pyramid_channels, smooth=smooth, initialize=nn.init.xavier_uniform_
        )
        self.head = SemanticHead(
            pyramid_channels,
            num_classes,
            strides=self.backbone.strides[-NUM_LEVELS:],
            channels=channels,
            norm=norm,
            align_corners=align_corners,
            dropout=dropout,
        )

    def forward(self, images: Tensor) -> DenseOutput:
        """(B, in_channels, H, W) in 0..255 -> logits (B, num_classes, h, w) at the stride of the finest level."""
        levels = self.pyramid(self.backbone(images)[-NUM_LEVELS:])
        return DenseOutput(self.head(levels), align_corners=self.align_corners)
