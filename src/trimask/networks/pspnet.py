"""PSPNet: pyramid pooling on a dilated backbone, with an auxiliary head in training.

Source: Zhao, Shi, Qi, Wang, Jia, "Pyramid Scene Parsing Network", CVPR 2017, arXiv:1612.01105, authors' code hszhao/semseg (MIT),
in the form of mmsegmentation's `PSPHead` and configs/_base_/models/pspnet_r50-d8.py (Apache-2.0). With the same weights the
logits are mmseg's (`make parity`).

**Deviations**
- From mmseg: timm's plain ResNet-50 by default; mmseg's has the three-convolution stem of V1c, which timm calls
  `resnet50c.gluon_in1k`. Plain batch normalization; the trainer may make it synchronized.
- From mmseg: pooled maps are mixed in without being upsampled (layers/joined_conv.py); the answer is the same.
- Not segmentation_models_pytorch's `PSPNet`: that one stands on the level of stride 8 alone, mixes by a 1x1 convolution, has no
  norm in the coarsest branch and a 3x3 classifier. Its weights cannot be read.
- The weight 0.4 of the auxiliary loss belongs to the criterion.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from trimask.layers.backbone import Backbone
from trimask.layers.backbone_names import MMSEG, convert_mmseg
from trimask.layers.convs import initialize_as_mmseg
from trimask.layers.fcn_head import FCNHead
from trimask.layers.pyramid_pooling import PyramidPooling
from trimask.outputs import DenseOutput
from trimask.weights import RenameTable


class PSPNet(nn.Module):
    """One logit a class at every cell of the backbone's last map.

    Args:
        num_classes: channels of the logits.
        backbone: timm name.
        pretrained: see `Backbone`.
        in_channels: channels of the pictures.
        output_stride: of the last map; None for the backbone's own, which every backbone supports.
        channels: width of the head and of each pooled branch.
        scales: cells of the pooling grids along a side.
        dropout: rate at which whole channels are dropped before a classifier.
        aux_channels: width of the auxiliary head on the last map but one; None for no such head.
        align_corners: how pooled maps and logits are brought to a larger size.

    Raises:
        ValueError: see `Backbone`; in training, a batch of one picture.
    """

    output = DenseOutput
    tiny: ClassVar[dict[str, Any]] = {"backbone": "test_resnet", "channels": 32, "aux_channels": 16}
    RENAMES: ClassVar[dict[str, RenameTable]] = {
        "mmseg": (
            *MMSEG,
            (r"^head\.pyramid\.branches\.(\d+)\.", r"decode_head.psp_modules.\1.1."),
            (r"^head\.pyramid\.mix\.", "decode_head.bottleneck."),
            (r"^head\.", "decode_head."),
            (r"^aux_head\.", "auxiliary_head."),
            (r"^(decode_head|auxiliary_head)\.(.+)\.norm\.", r"\1.\2.bn."),
            (r"_head\.classify\.", "_head.conv_seg."),
        ),
    }
    CONVERSIONS: ClassVar = {"mmseg": convert_mmseg}

    def __init__(
        self,
        num_classes: int,
        *,
        backbone: str = "resnet50",
        pretrained: bool | str = True,
        in_channels: int = 3,
        output_stride: int | None = 8,
        channels: int = 512,
        scales: Sequence[int] = (1, 2, 3, 6),
        dropout: float = 0.1,
        aux_channels: int | None = 256,
        align_corners: bool = False,
    ) -> None:
        super().__init__()
        self.align_corners = align_corners
        self.backbone = Backbone(backbone, pretrained=pretrained, in_channels=in_channels, output_stride=output_stride)
        *_, before_last, last = self.backbone.channels
        self.head = PSPHead(
            last, num_classes, channels=channels, scales=scales, dropout=dropout, align_corners=align_corners
        )
        self.aux_head: FCNHead | None = None
        if aux_channels is not None:
            self.aux_head = FCNHead(before_last, num_classes, channels=aux_channels, dropout=dropout)

    def forward(self, images: Tensor) -> DenseOutput:
        """(B, in_channels, H, W) in 0..255 -> logits (B, num_classes, h, w) at the backbone's output stride."""
        *_, before_last, last = self.backbone(images)
        aux = (self.aux_head(before_last),) if self.training and self.aux_head is not None else ()
        return DenseOutput(self.head(last), aux, self.align_corners)


class PSPHead(nn.Module):
    """Pyramid pooling, dropout and a linear classifier of every cell; see `PSPNet` for the arguments."""

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        channels: int,
        scales: Sequence[int],
        dropout: float,
        align_corners: bool,
    ) -> None:
        super().__init__()
        self.pyramid = PyramidPooling(in_channels, channels, scales=scales, align_corners=align_corners)
        self.dropout = nn.Dropout2d(dropout)
        self.classify = nn.Conv2d(channels, num_classes, 1)
        initialize_as_mmseg(self, self.classify)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, h, w) -> (B, num_classes, h, w)."""
        return self.classify(self.dropout(self.pyramid(x)))
