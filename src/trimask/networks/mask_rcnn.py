"""Mask R-CNN: boxes that may hold objects, and a class, a better box and a small mask for each of them.

Source: He, Gkioxari, Dollár, Girshick, "Mask R-CNN", ICCV 2017, arXiv:1703.06870, on the feature pyramid of Lin et al., CVPR
2017, arXiv:1612.03144. Equal to torchvision's `maskrcnn_resnet50_fpn` and `_v2` (BSD-3) with the same weights: detections, and
losses with the same samples (`make parity`, tests/losses/test_region.py). Weights of detectron2 (Apache-2.0) are read, too.

| | as | settings |
|---|---|---|
| torchvision, V1 | `maskrcnn_resnet50_fpn` | the defaults |
| torchvision, V2 | `maskrcnn_resnet50_fpn_v2` | `rpn_convs=2, box_convs=4, norm="batch", frozen_norm=False` |
| detectron2, 1x and 3x | configs/COCO-InstanceSegmentation | `conventions="detectron2", stride_in_1x1=True` |
| detectron2, LSJ | configs/new_baselines | the same and those of V2, `frozen_stride=0` |

In training the network answers a `RegionDraft`, since what its second stage looks at is chosen by the criterion; in evaluation a
`RegionOutput`.

**Deviations**
- Pictures are not resized inside; that is for transforms and for `inference`.
- Of a training batch all pictures are as large as the padded one, whose padding is black, and background; there it has the mean
  color, and boxes are clipped to each picture.
- Parts: see `layers.regions`; answers: see `decode.boxes` and `decode.regions`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from trimask.layers.backbone import Backbone, FrozenNorm
from trimask.layers.backbone_names import NECK_DETECTRON2
from trimask.layers.fpn_neck import FPNNeck
from trimask.layers.normalization import IMAGENET_STD
from trimask.layers.regions import Conventions, ProposalHead, RegionHeads
from trimask.outputs import RegionDraft, RegionOutput
from trimask.types import Size
from trimask.weights import RenameTable, is_counter

NUM_LEVELS = 4
PROPOSALS = {"torchvision": (2000, 1000), "detectron2": (1000, 1000)}  # of a picture, in training and evaluation
CANDIDATES = 2000, 1000  # of each level
OVERLAP = 0.7  # of proposals

Norm = Literal["batch"]

# --- other libraries' weights ---

_OF_CLASSES = "box_predictor.bbox_pred", "mask_predictor.mask_fcn_logits"  # torchvision's, besides the scores

# The 80 classes of COCO among the ids 1 to 90 of its files.
_COCO_IDS = [number for number in range(1, 91) if number not in {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}]


def _convert_torchvision(weights: Mapping[str, Tensor], kept: list[int] | None = None) -> dict[str, Tensor]:
    """Background last, and of boxes and masks none. Older files have shorter names.

    Args: kept: rows of the classes; by default all but the first.

    Raises:
        ValueError: there is no box for the background, so that the weights are another library's.
    """
    converted = {_new_name(name): value for name, value in weights.items()}
    score, box, mask = (f"roi_heads.{name}." for name in ("box_predictor.cls_score", *_OF_CLASSES))
    if not {f"{layer}{kind}" for layer in (score, box, mask) for kind in ("weight", "bias")} <= converted.keys():
        return converted  # what is missing is named where names are compared
    num_rows = _num_rows(weights)
    if len(converted[f"{box}bias"]) != 4 * num_rows:
        raise ValueError("torchvision's weights have boxes and masks for the background; these do not.")
    rows = kept or list(range(1, num_rows))
    for kind in ("weight", "bias"):
        converted[score + kind] = converted[score + kind][[*rows, 0]]
        for name, size in ((box, 4), (mask, 1)):
            converted[name + kind] = converted[name + kind].unflatten(0, (-1, size))[rows].flatten(0, 1)
    return converted


def _num_rows(weights: Mapping[str, Tensor]) -> int:
    """Classes with the background; 0 if they are called otherwise."""
    return len(weights.get("roi_heads.box_predictor.cls_score.bias", ()))


def _new_name(name: str) -> str:
    """Of torchvision 0.13, for those of the files before."""
    if name in ("rpn.head.conv.weight", "rpn.head.conv.bias"):
        return name.replace(".conv.", ".conv.0.0.")
    if ".mask_fcn" in name and ".mask_head." in name:
        before, _, after = name.partition("mask_fcn")
        number, _, kind = after.partition(".")
        return f"{before}{int(number) - 1}.0.{kind}"
    if name.startswith("backbone.fpn.") and len(name.split(".")) == 5:
        before, _, kind = name.rpartition(".")
        return f"{before}.0.{kind}"
    return name


def _convert_torchvision_coco(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Released for COCO, V2: of the 90 ids those that have a class.

    Raises:
        ValueError: the weights are of another number of classes.
    """
    if (rows := _num_rows(weights)) != 91:
        raise ValueError(f"torchvision's weights for COCO have 91 classes; these have {rows}.")
    return _convert_torchvision(weights, _COCO_IDS)


def _convert_torchvision_coco_v1(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Released for COCO, V1: the frozen norms had an epsilon of 0. Ours is made up for in their scales.

    Raises:
        ValueError: the weights are of another number of classes, or their norms were not frozen.
    """
    if any(is_counter(name) for name in weights):
        raise ValueError("torchvision's first weights for COCO have frozen batch norms; these count batches.")
    converted = _convert_torchvision_coco(weights)
    for name, variance in weights.items():
        if name.endswith(".running_var"):
            scale = name.replace("running_var", "weight")
            converted[scale] = converted[scale] * ((variance.double() + 1e-5) / variance.double()).sqrt().float()
    return converted


def convert_detectron2(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Pictures there are BGR and have a standard deviation of 1; what follows from the configuration is not read."""
    kept = {name: value for name, value in weights.items() if not name.startswith("pixel_")}
    kept = {name: value for name, value in kept.items() if ".anchor_generator." not in name}
    stem = "backbone.bottom_up.stem.conv1.weight"
    if stem in kept:
        kept[stem] = kept[stem].flip(1) * torch.tensor(IMAGENET_STD)[:, None, None]
    return kept


_STAGES = tuple((rf"^backbone\.body\.layer{stage}\.", f"backbone.bottom_up.res{stage + 1}.") for stage in (1, 2, 3, 4))
DETECTRON2: tuple[tuple[str, str], ...] = (
    (r"^backbone\.(mean|std)$", ""),
    (r"^backbone\.body\.conv1\.", "backbone.bottom_up.stem.conv1."),
    (r"^backbone\.body\.bn1\.", "backbone.bottom_up.stem.conv1.norm."),
    *_STAGES,
    (r"^(backbone\.bottom_up\.res.*)\.bn(\d)\.", r"\1.conv\2.norm."),
    (r"^(backbone\.bottom_up\.res.*)\.downsample\.0\.", r"\1.shortcut."),
    (r"^(backbone\.bottom_up\.res.*)\.downsample\.1\.", r"\1.shortcut.norm."),
    *NECK_DETECTRON2,
    (r"^(backbone\.fpn_\w+)\.0\.", r"\1."),
    (r"^(backbone\.fpn_\w+)\.1\.", r"\1.norm."),
    (r"^rpn\.head\.conv\.(\d)\.0\.", r"proposal_generator.rpn_head.conv.conv\1."),
    (r"^rpn\.head\.cls_logits\.", "proposal_generator.rpn_head.objectness_logits."),
    (r"^rpn\.head\.bbox_pred\.", "proposal_generator.rpn_head.anchor_deltas."),
    (r"^heads\.box_head\.fc6\.", "roi_heads.box_head.fc1."),
    (r"^heads\.box_head\.fc7\.", "roi_heads.box_head.fc2."),
    (r"^heads\.box_head\.5\.", "roi_heads.box_head.fc1."),
    *((rf"^heads\.box_head\.{i}\.0\.", f"roi_heads.box_head.conv{i + 1}.") for i in range(4)),
    *((rf"^heads\.box_head\.{i}\.1\.", f"roi_heads.box_head.conv{i + 1}.norm.") for i in range(4)),
    (r"^heads\.classify\.", "roi_heads.box_predictor.cls_score."),
    (r"^heads\.refine\.", "roi_heads.box_predictor.bbox_pred."),
    *((rf"^heads\.mask_head\.{i}\.0\.", f"roi_heads.mask_head.mask_fcn{i + 1}.") for i in range(4)),
    *((rf"^heads\.mask_head\.{i}\.1\.", f"roi_heads.mask_head.mask_fcn{i + 1}.norm.") for i in range(4)),
    (r"^heads\.upsample\.", "roi_heads.mask_head.deconv."),
    (r"^heads\.mask\.", "roi_heads.mask_head.predictor."),
)
_TORCHVISION: tuple[tuple[str, str], ...] = (
    (r"^backbone\.(mean|std)$", ""),
    (r"^neck\.laterals\.(\d)\.(?=[wb])", r"backbone.fpn.inner_blocks.\1.0."),
    (r"^neck\.smooth\.(\d)\.(?=[wb])", r"backbone.fpn.layer_blocks.\1.0."),
    (r"^neck\.laterals\.", "backbone.fpn.inner_blocks."),
    (r"^neck\.smooth\.", "backbone.fpn.layer_blocks."),
    (r"^heads\.(box_head|mask_head)\.", r"roi_heads.\1."),
    (r"^heads\.classify\.", "roi_heads.box_predictor.cls_score."),
    (r"^heads\.refine\.", "roi_heads.box_predictor.bbox_pred."),
    (r"^heads\.upsample\.", "roi_heads.mask_predictor.conv5_mask."),
    (r"^heads\.mask\.", "roi_heads.mask_predictor.mask_fcn_logits."),
)


class MaskRCNN(nn.Module):
    """Instances; see above.

    Args:
        num_classes: C, without background.
        backbone: timm name; its last four levels are used.
        pretrained: see `Backbone`.
        in_channels: channels of the pictures.
        channels: of the pyramid.
        box_channels, mask_channels: see `RegionHeads`.
        rpn_convs: convolutions of the first stage before its answers.
        box_convs: convolutions of the second stage before its layer for boxes.
        norm: "batch" for batch norms in the pyramid and behind the convolutions of the second stage.
        frozen_stride, frozen_norm: see `Backbone`. The defaults suit pretrained weights; from random ones everything must learn.
        stride_in_1x1: the first 1x1 convolution of a ResNet's block has the stride, as in the first ResNets.
        conventions: see `layers.regions`.
        least_score, overlap, top: see `decode.boxes.best_detections`.

    Raises:
        ValueError: see `Backbone`; or fewer than four levels of strides 4, 8, 16, 32, or a stride that cannot be moved.
    """

    output = RegionOutput
    tiny: ClassVar[dict[str, Any]] = {
        "backbone": "test_resnet",
        "channels": 32,
        "box_channels": 64,
        "mask_channels": 32,
        "frozen_stride": 0,
        "frozen_norm": False,
        "top": 16,
    }
    RENAMES: ClassVar[dict[str, RenameTable]] = {
        "torchvision": _TORCHVISION,
        "torchvision_coco": _TORCHVISION,
        "torchvision_coco_v1": _TORCHVISION,
        "detectron2": (
            *DETECTRON2,
            # one convolution has no number there
            (r"\.rpn_head\.conv\.conv0\.", ".rpn_head.conv."),
        ),
        "detectron2_lsj": DETECTRON2,
    }
    CONVERSIONS: ClassVar[dict[str, Any]] = {
        "torchvision": _convert_torchvision,
        "torchvision_coco": _convert_torchvision_coco,
        "torchvision_coco_v1": _convert_torchvision_coco_v1,
        "detectron2": convert_detectron2,
        "detectron2_lsj": convert_detectron2,
    }

    def __init__(
        self,
        num_classes: int,
        *,
        backbone: str = "resnet50",
        pretrained: bool | str = True,
        in_channels: int = 3,
        channels: int = 256,
        box_channels: int = 1024,
        mask_channels: int = 256,
        rpn_convs: int = 1,
        box_convs: int = 0,
        norm: Norm | None = None,
        frozen_stride: int = 4,
        frozen_norm: FrozenNorm = True,
        stride_in_1x1: bool = False,
        conventions: Conventions = "torchvision",
        least_score: float = 0.05,
        overlap: float = 0.5,
        top: int = 100,
    ) -> None:
        super().__init__()
        self.backbone = Backbone(
            backbone,
            pretrained=pretrained,
            in_channels=in_channels,
            pad_to_stride=True,
            frozen_stride=frozen_stride,
            frozen_norm=frozen_norm,
            stride_in_1x1=stride_in_1x1,
        )
        strides = self.backbone.strides[-NUM_LEVELS:]
        if strides != [4, 8, 16, 32]:
            raise ValueError(f"A detector needs maps of strides 4, 8, 16 and 32; {backbone!r} ends in {strides}.")
        make_norm = nn.BatchNorm2d if norm == "batch" else None
        self.neck = FPNNeck(self.backbone.channels[-NUM_LEVELS:], channels, num_extra=1, norm=make_norm)
        self.rpn = ProposalHead(channels, [*strides, 64], num_convs=rpn_convs, conventions=conventions)
        self.heads = RegionHeads(
            num_classes,
            channels,
            strides,
            box_channels=box_channels,
            mask_channels=mask_channels,
            box_convs=box_convs,
            norm=make_norm,
            conventions=conventions,
            least_score=least_score,
            overlap=overlap,
            top=top,
        )
        self.num_classes, self.num_proposals = num_classes, PROPOSALS[conventions]

    def forward(self, images: Tensor) -> RegionOutput | RegionDraft:
        """(B, in_channels, H, W) in 0..255 -> see above."""
        return self.regions(self.pyramid(images), (images.shape[-2], images.shape[-1]))

    def pyramid(self, images: Tensor) -> list[Tensor]:
        """(B, in_channels, H, W) -> (B, D, h, w) of the strides 4 to 64."""
        return self.neck(self.backbone(images)[-NUM_LEVELS:])

    def regions(self, levels: Sequence[Tensor], size: Size) -> RegionOutput | RegionDraft:
        """Both stages in evaluation; in training the first, and a way to ask the second.

        Args: levels: (B, D, h, w) of the strides 4 to 64. size: of the pictures.
        """
        when = 0 if self.training else 1
        candidates = self.rpn(levels)
        draft = RegionDraft(
            logits=candidates.logits,
            deltas=candidates.deltas,
            anchors=candidates.anchors,
            levels=tuple(levels[:NUM_LEVELS]),
            size=size,
            heads=self.heads,
            num_classes=self.num_classes,
            per_level=CANDIDATES[when],
            in_all=self.num_proposals[when],
            overlap=OVERLAP,
        )
        return draft if self.training else self._detected(draft)

    def _detected(self, draft: RegionDraft) -> RegionOutput:
        found = self.heads.detect(draft.levels, draft.proposals(), draft.size)
        labels = torch.cat([one.labels for one in found])
        masks = self.heads.masks(draft.levels, [one.boxes for one in found], labels).split(
            [len(one.labels) for one in found]
        )
        boxes, scores, labels, masks = (
            torch.stack([filled(rows, self.heads.top) for rows in column])
            for column in (*zip(*found, strict=True), masks)
        )
        return RegionOutput(boxes, scores, labels, masks, draft.size, self.num_classes, self.heads.aligned)


def filled(rows: Tensor, count: int) -> Tensor:
    """(n, ...) -> (count, ...), with zeros at the end."""
    return torch.cat([rows, rows.new_zeros(count - len(rows), *rows.shape[1:])])
