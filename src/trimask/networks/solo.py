"""SOLO: an object is the cell of a grid that its center lies in, and each cell has a mask of its own.

Source: Wang, Kong, Shen, Jiang, Li, "SOLO: Segmenting Objects by Locations", ECCV 2020, arXiv:1912.04488, on the pyramid of
Lin et al. 2017; official code WXinlong/SOLO (non-commercial licence), and mmdetection 3.3 (Apache-2.0), both read and written
anew. Equal to mmdetection's SOLO, decoupled SOLO and its light form with the same weights (`make parity`).

| form | masks | towers | published for |
|---|---|---|---|
| "vanilla" | one filter a cell | one of 7 convolutions | SOLO |
| "decoupled" | product of one filter a column and one a row | two of 7 | Decoupled SOLO |
| "decoupled_light" | the same | one of 4, and short sides of 512 px | Decoupled SOLO light |

**Deviations**
- The maps of all S x S masks, 1600 on the finest level, are never made: the output holds features and filters, and masks are made
  of the cells that have an object in training, and of those that see one in evaluation.
- Vanilla masks are enlarged behind their filters instead of the features before: a 1x1 convolution commutes with bilinear
  enlargement, so that the result is the same.
- Pictures are padded with the mean color to whole cells of the coarsest level inside the network, and answers are of the picture
  alone; there the data loader pads and the answer is cut.
- Deformable convolutions, which the light form can have, are not offered.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trimask.decode.grids import Filters, GridLevel
from trimask.layers.backbone import Backbone, FrozenNorm
from trimask.layers.backbone_names import MMSEG, NECK_MMDET, convert_mmseg
from trimask.layers.fpn_neck import FPNNeck
from trimask.layers.grid_head import (
    GRIDS,
    NUM_MAPS,
    coordinates,
    grid_levels,
    grid_strides,
    initialize_as_published,
    require_grids,
    tower,
)
from trimask.outputs import GridOutput
from trimask.weights import RenameTable

Form = Literal["vanilla", "decoupled", "decoupled_light"]


def _convert_solo(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The decoupled forms name their classifier otherwise."""
    return convert_mmseg({name.replace(".dsolo_cate.", ".solo_cate."): value for name, value in weights.items()})


class SOLO(nn.Module):
    """A class and a mask for each cell of five grids; see above.

    Args:
        num_classes: of objects.
        backbone: timm name; its last four maps are used.
        pretrained: see `Backbone`.
        in_channels: channels of the pictures.
        form: see above.
        grids: cells a side of each level, for small objects first.
        channels: width of the towers.
        num_convs: length of the towers; published are 7, and 4 for the light form.
        pyramid_channels: width of the pyramid.
        drop_path: rate of stochastic depth in the backbone.
        frozen_stride, frozen_norm: see `Backbone`; published are 4 and "statistics".

    Raises:
        ValueError: see `Backbone`; or an unknown form, not five grids, or a width that has no 32 groups.
    """

    output = GridOutput
    tiny: ClassVar[dict[str, Any]] = {
        "backbone": "test_resnet",
        "grids": (10, 9, 7, 5, 2),
        "channels": 32,
        "num_convs": 2,
        "pyramid_channels": 32,
    }
    RENAMES: ClassVar[dict[str, RenameTable]] = {
        "mmdet": (
            *MMSEG,
            *NECK_MMDET,
            (r"^category_tower\.", "mask_head.cls_convs."),
            (r"^mask_tower\.", "mask_head.mask_convs."),
            (r"^column_tower\.", "mask_head.mask_convs_x."),
            (r"^row_tower\.", "mask_head.mask_convs_y."),
            (r"^cells\.", "mask_head.conv_mask_list."),
            (r"^columns\.", "mask_head.conv_mask_list_x."),
            (r"^rows\.", "mask_head.conv_mask_list_y."),
            (r"^classify\.", "mask_head.conv_cls."),
            (r"^(mask_head\..*)\.norm\.", r"\1.gn."),
        ),
        "solo": (
            *MMSEG,
            *NECK_MMDET,
            (r"^category_tower\.", "bbox_head.cate_convs."),
            (r"^mask_tower\.", "bbox_head.ins_convs."),
            (r"^column_tower\.", "bbox_head.ins_convs_x."),
            (r"^row_tower\.", "bbox_head.ins_convs_y."),
            (r"^cells\.", "bbox_head.solo_ins_list."),
            (r"^columns\.", "bbox_head.dsolo_ins_list_x."),
            (r"^rows\.", "bbox_head.dsolo_ins_list_y."),
            (r"^classify\.", "bbox_head.solo_cate."),
            (r"^(bbox_head\..*)\.norm\.", r"\1.gn."),
        ),
    }
    CONVERSIONS: ClassVar[dict[str, Any]] = {"mmdet": convert_mmseg, "solo": _convert_solo}

    def __init__(
        self,
        num_classes: int,
        *,
        backbone: str = "resnet50",
        pretrained: bool | str = True,
        in_channels: int = 3,
        form: Form = "vanilla",
        grids: Sequence[int] = GRIDS,
        channels: int = 256,
        num_convs: int = 7,
        pyramid_channels: int = 256,
        drop_path: float = 0.0,
        frozen_stride: int = 0,
        frozen_norm: FrozenNorm = False,
    ) -> None:
        super().__init__()
        if form not in get_args(Form):
            raise ValueError(f"`form` is one of {', '.join(get_args(Form))}; got {form!r}.")
        require_grids(grids)
        self.form, self.grids = form, tuple(grids)
        self.backbone = Backbone(
            backbone,
            pretrained=pretrained,
            in_channels=in_channels,
            drop_path=drop_path,
            pad_to_stride=True,
            frozen_stride=frozen_stride,
            frozen_norm=frozen_norm,
        )
        self.strides = self.backbone.strides[-NUM_MAPS:]
        maps = self.backbone.channels[-NUM_MAPS:]
        self.neck = FPNNeck(maps, pyramid_channels, num_extra=1, initialize=nn.init.xavier_uniform_)
        if form == "decoupled":
            self.column_tower = tower(pyramid_channels + 1, channels, num_convs)
            self.row_tower = tower(pyramid_channels + 1, channels, num_convs)
        else:
            self.mask_tower = tower(pyramid_channels + 2, channels, num_convs)
        if form == "vanilla":
            self.cells = nn.ModuleList(nn.Conv2d(channels, side * side, 1) for side in grids)
        else:
            self.columns = nn.ModuleList(nn.Conv2d(channels, side, 3, padding=1) for side in grids)
            self.rows = nn.ModuleList(nn.Conv2d(channels, side, 3, padding=1) for side in grids)
        self.category_tower = tower(pyramid_channels, channels, num_convs)
        self.classify = nn.Conv2d(channels, num_classes, 3, padding=1)
        head = [part for name, part in self.named_children() if name not in ("backbone", "neck")]
        filters: list[Any] = [conv for part in head if isinstance(part, nn.ModuleList) for conv in part]
        initialize_as_published(head, [self.classify, *filters])

    def forward(self, images: Tensor) -> GridOutput:
        """(B, in_channels, H, W) in 0..255 -> cells of five grids, and masks at the stride of the finest map."""
        pyramid = self.neck(self.backbone(images)[-NUM_MAPS:])
        given = zip(grid_levels(pyramid), self.grids, grid_strides(self.strides), strict=True)
        levels = [
            GridLevel(self._categories(x, side), self._factors(x, number), stride)
            for number, (x, side, stride) in enumerate(given)
        ]
        return GridOutput(tuple(levels), (images.shape[-2], images.shape[-1]), self.strides[0])

    def _categories(self, x: Tensor, side: int) -> Tensor:
        x = F.interpolate(x, (side, side), mode="bilinear", align_corners=False)
        return self.classify(self.category_tower(x))

    def _factors(self, x: Tensor, number: int) -> tuple[Filters, ...]:
        place = coordinates(x)
        if self.form == "vanilla":
            maps = self.mask_tower(torch.cat([x, place], dim=1))
            return (_filters(maps, self.cells[number], scale=2),)
        if self.form == "decoupled":
            columns = _doubled(self.column_tower(torch.cat([x, place[:, :1]], dim=1)))
            rows = _doubled(self.row_tower(torch.cat([x, place[:, 1:]], dim=1)))
        else:
            columns = rows = _doubled(self.mask_tower(torch.cat([x, place], dim=1)))
        return _filters(columns, self.columns[number]), _filters(rows, self.rows[number])


def _filters(maps: Tensor, conv: Any, scale: int = 1) -> Filters:
    weight, bias = conv.weight[None], conv.bias
    if not torch.is_grad_enabled():  # then nothing of the output shall ask for gradients, wherever it is used
        weight, bias = weight.detach(), bias.detach()
    return Filters(maps, weight, bias, scale)


def _doubled(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
