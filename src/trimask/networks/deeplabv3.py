"""DeepLabV3: atrous spatial pyramid pooling on a dilated backbone, with an auxiliary head in training.

Source: Chen, Papandreou, Schroff, Adam, "Rethinking Atrous Convolution for Semantic Image Segmentation", 2017, arXiv:1706.05587,
authors' code tensorflow/models/research/deeplab (Apache-2.0), in the form of mmsegmentation's `ASPPHead` and
configs/_base_/models/deeplabv3_r50-d8.py (Apache-2.0). With the same weights the logits are mmseg's. As `AS_TORCHVISION` says
they are those of torchvision's `deeplabv3_resnet50` (BSD-3), and, with `align_corners=True` and no auxiliary head, those of
`DeepLabV3` of segmentation_models_pytorch (MIT) with a "tu-" encoder (`make parity`).

**Deviations**
- From the paper, as in mmseg: 512 channels instead of 256, a 3x3 convolution instead of 1x1 behind the pyramid, no multi-grid. As
  in torchvision: a further 3x3 convolution.
- From mmseg: timm's plain ResNet-50 by default; mmseg's has the three-convolution stem of V1c, which timm calls
  `resnet50c.gluon_in1k`. Plain batch normalization; the trainer may make it synchronized.
- From smp's own encoders: they dilate every block of a stage alike, timm's (and torchvision's) begin a stage with the dilation of
  the stage before. The names fit, the answers do not, so there is no table for them; smp's "tu-" encoders are timm's.
- The computation of the pyramid leaves away what does not matter (layers/aspp.py); the answer is the same.
- Initialization is mmseg's in every form; torchvision and smp leave the head at torch's own.
- The weight of the auxiliary loss (0.4 in mmseg, 0.5 in torchvision) belongs to the criterion.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar

from torch import Tensor, nn

from trimask.layers.aspp import ASPP, convert_mmseg_aspp
from trimask.layers.backbone import Backbone
from trimask.layers.backbone_names import MMSEG, SMP_TIMM, TORCHVISION
from trimask.layers.convs import ConvNormReLU, initialize_as_mmseg
from trimask.layers.fcn_head import FCNHead
from trimask.outputs import DenseOutput
from trimask.weights import RenameTable

# Arguments that make it torchvision's and, but for the auxiliary head and the corners, smp's.
AS_TORCHVISION: Mapping[str, Any] = MappingProxyType(
    {"channels": 256, "mix_kernel": 1, "num_convs": 1, "aspp_dropout": 0.5, "dropout": 0.0}
)


class DeepLabV3(nn.Module):
    """One logit a class at every cell of the backbone's last map.

    Args:
        num_classes: channels of the logits.
        backbone: timm name.
        pretrained: see `Backbone`.
        in_channels: channels of the pictures.
        output_stride: of the last map; None for the backbone's own, which every backbone supports.
        channels: width of the head and of each branch of the pyramid.
        rates: dilations of the pyramid's 3x3 convolutions; the papers have (6, 12, 18) at stride 16 and twice that at 8.
        mix_kernel: side of the kernel that mixes the branches.
        num_convs: 3x3 convolutions behind the pyramid.
        aspp_dropout: rate at which single values of the pyramid are dropped.
        dropout: rate at which whole channels are dropped before a classifier; the auxiliary head's is 0.1 in any case.
        aux_channels: width of the auxiliary head on the last map but one; None for no such head.
        align_corners: how logits are brought to the picture's size.

    Raises:
        ValueError: see `Backbone` and `ASPP`; in training, a batch of one picture.
    """

    output = DenseOutput
    tiny: ClassVar[dict[str, Any]] = {
        "backbone": "test_resnet",
        "channels": 32,
        "rates": (2, 3, 5),
        "num_convs": 1,
        "aux_channels": 16,
    }
    RENAMES: ClassVar[dict[str, RenameTable]] = {
        "mmseg": (
            *MMSEG,
            (r"^head\.aspp\.branches\.(\d+)\.", r"decode_head.aspp_modules.\1."),
            (r"^head\.aspp\.image\.", "decode_head.image_pool.1."),
            (r"^head\.aspp\.mix\.", "decode_head.bottleneck."),
            (r"^head\.", "decode_head."),
            (r"^aux_head\.", "auxiliary_head."),
            (r"^(decode_head|auxiliary_head)\.(.+)\.norm\.", r"\1.\2.bn."),
            (r"_head\.classify\.", "_head.conv_seg."),
        ),
        "torchvision": (
            *TORCHVISION,
            (r"^head\.aspp\.branches\.(\d+)\.", r"classifier.0.convs.\1."),
            (r"^head\.aspp\.image\.conv\.", "classifier.0.convs.4.1."),
            (r"^head\.aspp\.image\.norm\.", "classifier.0.convs.4.2."),
            (r"^head\.aspp\.mix\.", "classifier.0.project."),
            (r"^head\.convs\.0\.conv\.", "classifier.1."),
            (r"^head\.convs\.0\.norm\.", "classifier.2."),
            (r"^head\.classify\.", "classifier.4."),
            (r"^aux_head\.convs\.0\.", "aux_classifier."),
            (r"^aux_head\.classify\.", "aux_classifier.4."),
            (r"^((?:aux_)?classifier\..*)conv\.", r"\g<1>0."),
            (r"^((?:aux_)?classifier\..*)norm\.", r"\g<1>1."),
        ),
        "smp_timm": (
            *SMP_TIMM,
            (r"^head\.aspp\.branches\.(\d+)\.", r"decoder.aspp.convs.\1."),
            (r"^head\.aspp\.image\.conv\.", "decoder.aspp.convs.4.1."),
            (r"^head\.aspp\.image\.norm\.", "decoder.aspp.convs.4.2."),
            (r"^head\.aspp\.mix\.", "decoder.aspp.project."),
            (r"^(decoder\..*)conv\.", r"\g<1>0."),
            (r"^(decoder\..*)norm\.", r"\g<1>1."),
            (r"^head\.convs\.0\.conv\.", "decoder.conv."),
            (r"^head\.convs\.0\.norm\.", "decoder.bn."),
            (r"^head\.classify\.", "segmentation_head.0."),
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
        rates: Sequence[int] = (12, 24, 36),
        mix_kernel: int = 3,
        num_convs: int = 0,
        aspp_dropout: float = 0.0,
        dropout: float = 0.1,
        aux_channels: int | None = 256,
        align_corners: bool = False,
    ) -> None:
        super().__init__()
        self.align_corners = align_corners
        self.backbone = Backbone(backbone, pretrained=pretrained, in_channels=in_channels, output_stride=output_stride)
        *_, before_last, last = self.backbone.channels
        aspp = ASPP(last, channels, rates=rates, mix_kernel=mix_kernel, dropout=aspp_dropout)
        self.head = DeepLabV3Head(aspp, num_classes, channels=channels, num_convs=num_convs, dropout=dropout)
        self.aux_head = None if aux_channels is None else FCNHead(before_last, num_classes, channels=aux_channels)

    def forward(self, images: Tensor) -> DenseOutput:
        """(B, in_channels, H, W) in 0..255 -> logits (B, num_classes, h, w) at the backbone's output stride."""
        *_, before_last, last = self.backbone(images)
        aux = (self.aux_head(before_last),) if self.training and self.aux_head is not None else ()
        return DenseOutput(self.head(last), aux, self.align_corners)


class DeepLabV3Head(nn.Module):
    """The pyramid, 3x3 convolutions, dropout and a linear classifier of every cell; see `DeepLabV3` for the arguments."""

    def __init__(self, aspp: ASPP, num_classes: int, *, channels: int, num_convs: int, dropout: float) -> None:
        super().__init__()
        self.aspp = aspp
        self.convs = nn.Sequential(*[ConvNormReLU(channels, channels) for _ in range(num_convs)])
        self.dropout = nn.Dropout2d(dropout)
        self.classify = nn.Conv2d(channels, num_classes, 1)
        initialize_as_mmseg(self, self.classify)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, h, w) -> (B, num_classes, h, w)."""
        return self.classify(self.dropout(self.convs(self.aspp(x))))
