"""FCN: a fully convolutional head on a dilated backbone, with an auxiliary head in training.

Source: Long, Shelhamer, Darrell, "Fully Convolutional Networks for Semantic Segmentation", CVPR 2015,
arXiv:1411.4038, in the form of mmsegmentation's `FCNHead` and configs/_base_/models/fcn_r50-d8.py (Apache-2.0).
With the same weights the logits are mmseg's; with `num_convs=1, concat_input=False` they are those of torchvision's
`fcn_resnet50` (`make parity`).

**Deviations**
- From the paper, as in mmseg: output stride 8 by dilation instead of skips from finer levels.
- From mmseg: timm's plain ResNet-50 by default; mmseg's has the three-convolution stem of V1c, which timm calls
  `resnet50c.gluon_in1k`. Its dilations agree (`contract_dilation=True`, strides (1, 2, 1, 1)).
- Not here: mmseg's FCN-D6, whose head is dilated. Its files fit by their names and would answer otherwise.
- From mmseg: plain batch normalization; the trainer may make it synchronized.
- The weight 0.4 of the auxiliary loss belongs to the criterion.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from trimask.layers.backbone import Backbone
from trimask.layers.backbone_names import MMSEG, TORCHVISION, convert_mmseg
from trimask.layers.fcn_head import FCNHead
from trimask.outputs import DenseOutput
from trimask.weights import RenameTable


class FCN(nn.Module):
    """One logit a class at every cell of the backbone's last map.

    Args:
        num_classes: channels of the logits.
        backbone: timm name.
        pretrained: see `Backbone`.
        in_channels: channels of the pictures.
        output_stride: of the last map; None for the backbone's own, which every backbone supports.
        channels: width of the head.
        num_convs: 3x3 convolutions of the head, at least 1.
        concat_input: join the backbone's map to the result and mix both with another convolution.
        dropout: rate at which whole channels are dropped before the classifier.
        aux_channels: width of the auxiliary head on the last map but one; None for no such head.

    Raises:
        ValueError: see `Backbone`; or num_convs < 1.
    """

    output = DenseOutput
    RENAMES: ClassVar[dict[str, RenameTable]] = {
        "torchvision": (
            *TORCHVISION,
            (r"^head\.", "classifier."),
            (r"^aux_head\.", "aux_classifier."),
            (r"\.convs\.0\.conv\.", ".0."),
            (r"\.convs\.0\.norm\.", ".1."),
            (r"\.classify\.", ".4."),
        ),
        "mmseg": (
            *MMSEG,
            (r"^head\.", "decode_head."),
            (r"^aux_head\.", "auxiliary_head."),
            (r"^(\w+_head\.convs\.\d+)\.norm\.", r"\1.bn."),
            (r"^decode_head\.mix\.conv\.", "decode_head.conv_cat.conv."),
            (r"^decode_head\.mix\.norm\.", "decode_head.conv_cat.bn."),
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
        num_convs: int = 2,
        concat_input: bool = True,
        dropout: float = 0.1,
        aux_channels: int | None = 256,
    ) -> None:
        super().__init__()
        self.backbone = Backbone(backbone, pretrained=pretrained, in_channels=in_channels, output_stride=output_stride)
        *_, before_last, last = self.backbone.channels
        self.head = FCNHead(
            last, num_classes, channels=channels, num_convs=num_convs, concat_input=concat_input, dropout=dropout
        )
        self.aux_head: FCNHead | None = None
        if aux_channels is not None:
            self.aux_head = FCNHead(before_last, num_classes, channels=aux_channels, dropout=dropout)

    def forward(self, images: Tensor) -> DenseOutput:
        """(B, in_channels, H, W) in 0..255 -> logits (B, num_classes, h, w) at the backbone's output stride."""
        *_, before_last, last = self.backbone(images)
        aux = (self.aux_head(before_last),) if self.training and self.aux_head is not None else ()
        return DenseOutput(self.head(last), aux)
