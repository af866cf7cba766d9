"""Panoptic-FPN: Mask R-CNN, and on the same feature pyramid a class for each pixel.

Source: Kirillov, Girshick, He, Dollár, "Panoptic Feature Pyramid Networks", CVPR 2019, arXiv:1901.02446, in the form of
detectron2's configs/COCO-PanopticSegmentation (Apache-2.0), whose weights are read. Its instances are those of Mask R-CNN, its
branch for pixels is that of Semantic FPN with group normalization (`make parity` for both).

Pixels are of a class of stuff or of "a thing", the last of C + 1 logits. Both branches have a row for every class, so that the
network need not know which classes are countable; rows that the data gives no example for learn to be wrong.

**Deviations**
- The convolutions of the branch for pixels have no bias before their norm, as in detectron2; the classifier begins near zero.
- See `networks.mask_rcnn`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from trimask.layers.fpn_head import SemanticHead
from trimask.networks.mask_rcnn import DETECTRON2, NUM_LEVELS, MaskRCNN, convert_detectron2
from trimask.outputs import PanopticRegionDraft, PanopticRegionOutput, RegionOutput
from trimask.weights import RenameTable

_NEVER = -100.0  # a logit whose probability is 0


def _convert_detectron2(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Things are the first classes, stuff follows; there "a thing" is the first of the pixels' classes, and stuff follows."""
    kept = convert_detectron2(weights)
    score, pixels = "roi_heads.box_predictor.cls_score.", "sem_seg_head.predictor."
    if f"{score}bias" not in kept or f"{pixels}bias" not in kept:
        return kept
    num_things, num_stuff = len(kept[f"{score}bias"]) - 1, len(kept[f"{pixels}bias"]) - 1
    for kind, never in (("weight", 0.0), ("bias", _NEVER)):
        things, background = kept[score + kind].split([num_things, 1])
        kept[score + kind] = torch.cat([things, _rows(things, num_stuff, never), background])
        for name in ("roi_heads.box_predictor.bbox_pred.", "roi_heads.mask_head.predictor."):
            value = kept[name + kind]
            kept[name + kind] = torch.cat([value, _rows(value, len(value) // num_things * num_stuff, 0.0)])
        thing, stuff = kept[pixels + kind].split([1, num_stuff])
        kept[pixels + kind] = torch.cat([_rows(thing, num_things, never), stuff, thing])
    return kept


def _rows(like: Tensor, count: int, value: float) -> Tensor:
    return like.new_full((count, *like.shape[1:]), value)


_PIXELS: tuple[tuple[str, str], ...] = (
    *((rf"^semantic\.levels\.{level}\.(\d)\.conv\.", rf"sem_seg_head.p{level + 2}.\1.") for level in range(NUM_LEVELS)),
    *(
        (rf"^semantic\.levels\.{level}\.(\d)\.norm\.", rf"sem_seg_head.p{level + 2}.\1.norm.")
        for level in range(NUM_LEVELS)
    ),
    (r"^semantic\.classify\.", "sem_seg_head.predictor."),
)


class PanopticFPN(MaskRCNN):
    """Things and stuff; see above.

    Args:
        num_classes: C, things and stuff.
        semantic_channels: of the branch for pixels, a multiple of 32.
        options: of `MaskRCNN`.

    Raises:
        ValueError: see `MaskRCNN` and `SemanticHead`.
    """

    output = PanopticRegionOutput  # type: ignore[assignment]
    tiny: ClassVar[dict[str, Any]] = {**MaskRCNN.tiny, "semantic_channels": 32}
    RENAMES: ClassVar[dict[str, RenameTable]] = {
        "detectron2": (*_PIXELS, *DETECTRON2, (r"\.rpn_head\.conv\.conv0\.", ".rpn_head.conv.")),
    }
    CONVERSIONS: ClassVar[dict[str, Any]] = {"detectron2": _convert_detectron2}

    def __init__(
        self,
        num_classes: int,
        *,
        backbone: str = "resnet50",
        pretrained: bool | str = True,
        channels: int = 256,
        semantic_channels: int = 128,
        **options: Any,
    ) -> None:
        super().__init__(num_classes, backbone=backbone, pretrained=pretrained, channels=channels, **options)
        strides = self.backbone.strides[-NUM_LEVELS:]
        self.semantic = SemanticHead(
            channels,
            num_classes + 1,
            strides=strides,
            channels=semantic_channels,
            norm="group",
            align_corners=False,
            dropout=0.0,
        )
        self.cell = strides[0]

    def forward(self, images: Tensor) -> PanopticRegionOutput | PanopticRegionDraft:  # type: ignore[override]
        """(B, in_channels, H, W) in 0..255 -> see above."""
        levels = self.pyramid(images)
        logits = self.semantic(levels[:NUM_LEVELS])
        regions = self.regions(levels, (images.shape[-2], images.shape[-1]))
        if isinstance(regions, RegionOutput):
            return PanopticRegionOutput(regions, logits, self.cell)
        return PanopticRegionDraft(regions, logits, self.cell)
