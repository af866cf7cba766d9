"""CCNet: every cell attends to its row and its column, twice, and so to the whole picture.

Source: Huang et al., "CCNet: Criss-Cross Attention for Semantic Segmentation", ICCV 2019 and TPAMI 2020, arXiv:1811.11721.
Official code: speedinghzl/CCNet (MIT). The form is that of mmsegmentation's `CCHead` and configs/_base_/models/ccnet_r50-d8.py
(Apache-2.0) with the attention of mmcv. With the same weights the logits are theirs, also if the attention is computed between
all pairs of cells and masked (`make parity`).

**Deviations**
- From the official code, as in mmseg: ReLU where its head has leaky ReLU, the first block of a dilated stage keeps the dilation
  before it, corners are not aligned, and there is no category consistent loss, which the journal's version adds.
- From mmseg: timm's plain ResNet-50 by default; mmseg's is V1c, timm's `resnet50c.gluon_in1k`.
- The weight 0.4 of the auxiliary loss belongs to the criterion.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from trimask.layers.backbone import Backbone
from trimask.layers.backbone_names import MMSEG, convert_mmseg
from trimask.layers.convs import ConvNormReLU, initialize_as_mmseg
from trimask.layers.fcn_head import FCNHead
from trimask.outputs import DenseOutput
from trimask.weights import RenameTable


class CCNet(nn.Module):
    """One logit a class at every cell of the backbone's last map.

    Args:
        num_classes: channels of the logits.
        backbone: timm name.
        pretrained: see `Backbone`.
        in_channels: channels of the pictures.
        output_stride: of the last map; None for the backbone's own, which every backbone supports.
        channels: width of the head.
        recurrence: how often the attention is applied, with the same weights. Twice connects all cells.
        dropout: rate at which whole channels are dropped before a classifier.
        aux_channels: width of the auxiliary head on the last map but one; None for no such head.
        align_corners: how the logits are brought to a larger size.

    Raises:
        ValueError: see `Backbone`.
    """

    output = DenseOutput
    tiny: ClassVar[dict[str, Any]] = {"backbone": "test_resnet", "channels": 32, "aux_channels": 16}
    RENAMES: ClassVar[dict[str, RenameTable]] = {
        "mmseg": (
            *MMSEG,
            (r"^head\.reduce\.", "decode_head.convs.0."),
            (r"^head\.attention\.scale$", "decode_head.cca.gamma.scale"),
            (r"^head\.attention\.(query|key|value)\.", r"decode_head.cca.\1_conv."),
            (r"^head\.smooth\.", "decode_head.convs.1."),
            (r"^head\.mix\.", "decode_head.conv_cat."),
            (r"^head\.classify\.", "decode_head.conv_seg."),
            (r"^aux_head\.classify\.", "auxiliary_head.conv_seg."),
            (r"^aux_head\.", "auxiliary_head."),
            (r"^(\w+_head\.(?:convs\.\d|conv_cat))\.norm\.", r"\1.bn."),
        )
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
        recurrence: int = 2,
        dropout: float = 0.1,
        aux_channels: int | None = 256,
        align_corners: bool = False,
    ) -> None:
        super().__init__()
        self.align_corners = align_corners
        self.backbone = Backbone(backbone, pretrained=pretrained, in_channels=in_channels, output_stride=output_stride)
        *_, before_last, last = self.backbone.channels
        self.head = CCHead(last, num_classes, channels=channels, recurrence=recurrence, dropout=dropout)
        self.aux_head: FCNHead | None = None
        if aux_channels is not None:
            self.aux_head = FCNHead(before_last, num_classes, channels=aux_channels, dropout=dropout)

    def forward(self, images: Tensor) -> DenseOutput:
        """(B, in_channels, H, W) in 0..255 -> logits (B, num_classes, h, w) at the backbone's output stride."""
        *_, before_last, last = self.backbone(images)
        aux = (self.aux_head(before_last),) if self.training and self.aux_head is not None else ()
        return DenseOutput(self.head(last), aux, self.align_corners)


class CCHead(nn.Module):
    """Criss-cross attention between two convolutions, then a classifier of every cell; see `CCNet` for the arguments."""

    def __init__(self, in_channels: int, num_classes: int, *, channels: int, recurrence: int, dropout: float) -> None:
        super().__init__()
        self.recurrence = recurrence
        self.reduce = ConvNormReLU(in_channels, channels)
        self.attention = CrissCrossAttention(channels)
        self.smooth = ConvNormReLU(channels, channels)
        self.mix = ConvNormReLU(in_channels + channels, channels)
        self.dropout = nn.Dropout2d(dropout)
        self.classify = nn.Conv2d(channels, num_classes, 1)
        # The attention stays as torch initializes it.
        initialize_as_mmseg(nn.ModuleList([self.reduce, self.smooth, self.mix]), self.classify)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, h, w) -> (B, num_classes, h, w)."""
        hidden = self.reduce(x)
        for _ in range(self.recurrence):
            hidden = self.attention(hidden)
        mixed = self.mix(torch.cat([x, self.smooth(hidden)], dim=1))
        return self.classify(self.dropout(mixed))


class CrissCrossAttention(nn.Module):
    """x + scale * what each cell gathers from the h + w - 1 cells of its row and its column.

    Of the (h w) x (h w) pairs of cells only those of a row and those of a column are ever computed: two batches of small
    products, (h w) (h + w) numbers.

    Attributes:
        scale: () factor, 0 in the beginning.
    """

    def __init__(self, channels: int, *, reduction: int = 8) -> None:
        super().__init__()
        self.query = nn.Conv2d(channels, channels // reduction, 1)
        self.key = nn.Conv2d(channels, channels // reduction, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.scale = nn.Parameter(torch.tensor(0.0))

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, h, w) -> the same."""
        height = x.shape[2]
        query, key, value = (project(x).permute(0, 2, 3, 1) for project in (self.query, self.key, self.value))
        in_row = query @ key.mT  # (B, h, w, w)
        in_column = _columns(query) @ _columns(key).mT  # (B, w, h, h)
        # A cell is in its row and in its column; it counts once.
        itself = torch.eye(height, dtype=torch.bool, device=x.device)
        in_column = in_column.masked_fill(itself, -torch.inf)
        weights = torch.cat([_columns(in_column), in_row], dim=3).softmax(dim=3)  # (B, h, w, h + w)
        from_column = _columns(_columns(weights[..., :height]) @ _columns(value))
        gathered = from_column + weights[..., height:] @ value  # (B, h, w, channels)
        return x + self.scale * gathered.permute(0, 3, 1, 2)


def _columns(x: Tensor) -> Tensor:
    """(B, h, w, D) <-> (B, w, h, D)."""
    return x.transpose(1, 2)
