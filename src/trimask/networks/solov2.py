"""SOLOv2: as SOLO, but each cell predicts the filter that makes its mask, of one map of features for all.

Source: Wang, Zhang, Kong, Li, Shen, "SOLOv2: Dynamic and Fast Instance Segmentation", NeurIPS 2020, arXiv:2003.10152; official
code WXinlong/SOLO (non-commercial licence), AdelaiDet (the same) and mmdetection 3.3 (Apache-2.0), read and written anew. Equal
to mmdetection's SOLOv2 and its light form with the same weights (`make parity`).

Published sizes: towers of 4 convolutions of 512 channels and filters of 256; light, for short sides of 448 px: 2, 256 and 128.

**Deviations**
- Masks are made where they are asked for, as in SOLO here; pictures are padded inside the network, as there.
- Deformable convolutions are not offered.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trimask.decode.grids import Filters, GridLevel
from trimask.layers.backbone import Backbone, FrozenNorm
from trimask.layers.backbone_names import (
    DETECTRON2,
    MMSEG,
    NECK_DETECTRON2,
    NECK_MMDET,
    convert_detectron2,
    convert_mmseg,
)
from trimask.layers.fpn_neck import FPNNeck
from trimask.layers.grid_head import (
    GRIDS,
    NUM_MAPS,
    ConvGroupNormReLU,
    coordinates,
    grid_levels,
    grid_strides,
    initialize_as_published,
    require_grids,
    tower,
)
from trimask.layers.normalization import IMAGENET_STD
from trimask.outputs import GridOutput
from trimask.weights import RenameTable

MOST_CONVS = 8  # of a tower whose names AdelaiDet's table knows


def _convert_adelaidet(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Pictures there are BGR and have a standard deviation of 1."""
    kept = {n.replace("bottom_up.", ""): value for n, value in weights.items() if not n.startswith("pixel_")}
    stem = "backbone.stem.conv1.weight"
    if stem in kept:
        kept[stem] = kept[stem].flip(1) * torch.tensor(IMAGENET_STD)[:, None, None]
    return convert_detectron2(kept)


class SOLOv2(nn.Module):
    """A class and a filter for each cell of five grids, and one map of features; see above.

    Args:
        num_classes: of objects.
        backbone: timm name; its last four maps are used.
        pretrained: see `Backbone`.
        in_channels: channels of the pictures.
        grids: cells a side of each level, for small objects first.
        channels: width of the towers.
        num_convs: length of the towers.
        mask_channels: width of the branch of the features.
        filter_channels: of the features, and so the length of a filter.
        pyramid_channels: width of the pyramid.
        drop_path: rate of stochastic depth in the backbone.
        frozen_stride, frozen_norm: see `Backbone`; published are 4 and "statistics".
        stride_in_1x1: see `Backbone`; AdelaiDet's weights have it so.

    Raises:
        ValueError: see `Backbone`; or not five grids, or a width that has no 32 groups.
    """

    output = GridOutput
    tiny: ClassVar[dict[str, Any]] = {
        "backbone": "test_resnet",
        "grids": (10, 9, 7, 5, 2),
        "channels": 32,
        "num_convs": 2,
        "mask_channels": 32,
        "filter_channels": 32,
        "pyramid_channels": 32,
    }
    RENAMES: ClassVar[dict[str, RenameTable]] = {
        "mmdet": (
            *MMSEG,
            *NECK_MMDET,
            (r"^category_tower\.", "mask_head.cls_convs."),
            (r"^filter_tower\.", "mask_head.kernel_convs."),
            (r"^classify\.", "mask_head.conv_cls."),
            (r"^filters\.", "mask_head.conv_kernel."),
            (r"^features\.levels\.(\d)\.(\d)\.", r"mask_head.mask_feature_head.convs_all_levels.\1.conv\2."),
            (r"^features\.join\.", "mask_head.mask_feature_head.conv_pred."),
            (r"^(mask_head\..*)\.norm\.", r"\1.gn."),
        ),
        "solo": (
            *MMSEG,
            *NECK_MMDET,
            (r"^category_tower\.", "bbox_head.cate_convs."),
            (r"^filter_tower\.", "bbox_head.kernel_convs."),
            (r"^classify\.", "bbox_head.solo_cate."),
            (r"^filters\.", "bbox_head.solo_kernel."),
            (r"^features\.levels\.(\d)\.(\d)\.", r"mask_feat_head.convs_all_levels.\1.conv\2."),
            (r"^features\.join\.", "mask_feat_head.conv_pred.0."),
            (r"^((?:bbox_head|mask_feat_head)\..*)\.norm\.", r"\1.gn."),
        ),
        "adelaidet": (
            *DETECTRON2,
            *NECK_DETECTRON2,
            *(
                (rf"^{ours}_tower\.{number}\.{part}\.", f"ins_head.{theirs}_tower.{3 * number + step}.")
                for number in range(MOST_CONVS)
                for ours, theirs in (("category", "cate"), ("filter", "kernel"))
                for step, part in enumerate(("conv", "norm"))
            ),
            (r"^classify\.", "ins_head.cate_pred."),
            (r"^filters\.", "ins_head.kernel_pred."),
            (r"^features\.levels\.(\d)\.(\d)\.conv\.", r"mask_head.convs_all_levels.\1.conv\2.0."),
            (r"^features\.levels\.(\d)\.(\d)\.norm\.", r"mask_head.convs_all_levels.\1.conv\2.1."),
            (r"^features\.join\.conv\.", "mask_head.conv_pred.0."),
            (r"^features\.join\.norm\.", "mask_head.conv_pred.1."),
        ),
    }
    CONVERSIONS: ClassVar[dict[str, Any]] = {
        "mmdet": convert_mmseg,
        "solo": convert_mmseg,
        "adelaidet": _convert_adelaidet,
    }

    def __init__(
        self,
        num_classes: int,
        *,
        backbone: str = "resnet50",
        pretrained: bool | str = True,
        in_channels: int = 3,
        grids: Sequence[int] = GRIDS,
        channels: int = 512,
        num_convs: int = 4,
        mask_channels: int = 128,
        filter_channels: int = 256,
        pyramid_channels: int = 256,
        drop_path: float = 0.0,
        frozen_stride: int = 0,
        frozen_norm: FrozenNorm = False,
        stride_in_1x1: bool = False,
    ) -> None:
        super().__init__()
        require_grids(grids)
        self.grids = tuple(grids)
        self.backbone = Backbone(
            backbone,
            pretrained=pretrained,
            in_channels=in_channels,
            drop_path=drop_path,
            pad_to_stride=True,
            frozen_stride=frozen_stride,
            frozen_norm=frozen_norm,
            stride_in_1x1=stride_in_1x1,
        )
        self.strides = self.backbone.strides[-NUM_MAPS:]
        maps = self.backbone.channels[-NUM_MAPS:]
        self.neck = FPNNeck(maps, pyramid_channels, num_extra=1, initialize=nn.init.xavier_uniform_)
        self.category_tower = tower(pyramid_channels, channels, num_convs)
        self.classify = nn.Conv2d(channels, num_classes, 3, padding=1)
        self.filter_tower = tower(pyramid_channels + 2, channels, num_convs)
        self.filters = nn.Conv2d(channels, filter_channels, 3, padding=1)
        self.features = MaskFeatures(pyramid_channels, mask_channels, filter_channels)
        head = [part for name, part in self.named_children() if name not in ("backbone", "neck")]
        initialize_as_published(head, [self.classify])

    def forward(self, images: Tensor) -> GridOutput:
        """(B, in_channels, H, W) in 0..255 -> cells of five grids, and masks at the stride of the finest map."""
        pyramid = self.neck(self.backbone(images)[-NUM_MAPS:])
        features = self.features(pyramid[:NUM_MAPS])
        levels = []
        for x, side, stride in zip(grid_levels(pyramid), self.grids, grid_strides(self.strides), strict=True):
            x = torch.cat([x, coordinates(x)], dim=1)
            x = F.interpolate(x, (side, side), mode="bilinear", align_corners=False)
            filters = self.filters(self.filter_tower(x)).flatten(2).mT[..., None, None]  # (B, S * S, D, 1, 1)
            categories = self.classify(self.category_tower(x[:, :-2]))
            levels.append(GridLevel(categories, (Filters(features, filters),), stride))
        return GridOutput(tuple(levels), (images.shape[-2], images.shape[-1]), self.strides[0])


class MaskFeatures(nn.Module):
    """Four levels of a pyramid -> one map at the size of the finest; the coarsest also knows where its cells lie.

    A level goes through as many convolutions, each followed by twofold enlargement, as it is coarser than the finest; that one
    goes through one convolution.
    """

    def __init__(self, in_channels: int, channels: int, out_channels: int) -> None:
        super().__init__()
        self.levels = nn.ModuleList()
        for level in range(NUM_MAPS):
            width = in_channels + 2 if level == NUM_MAPS - 1 else in_channels
            self.levels.append(tower(width, channels, max(1, level)))
        self.join = ConvGroupNormReLU(channels, out_channels, 1)

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """(B, in_channels, h_i, w_i) -> (B, out_channels, h_0, w_0)."""
        *finer, coarsest = levels
        coarsest = torch.cat([coarsest, coordinates(coarsest)], dim=1)
        total: Tensor | None = None
        for number, (x, convs) in enumerate(zip([*finer, coarsest], self.levels, strict=True)):
            for conv in convs:  # type: ignore[attr-defined]
                x = conv(x)
                if number:
                    x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
            total = x if total is None else total + x
        return self.join(total)
