"""The two stages of Mask R-CNN on a feature pyramid: where objects may be, and what lies in given boxes.

Source: Mask R-CNN (He et al., ICCV 2017, arXiv:1703.06870) on a feature pyramid (Lin et al., CVPR 2017, arXiv:1612.03144). The
heads are torchvision's modules (BSD-3), RoIAlign and suppression its operators; what goes between them is written anew.

Two libraries count differently, and weights want what they were trained with (`conventions`):

| | "torchvision" | "detectron2" |
|---|---|---|
| sides of anchors | whole pixels | fractions |
| stride of the pooled level | size of the padded picture / size of the level | 64 |
| center of a pixel, in RoIAlign and in masks | its index | its index + 0.5 |
| samples of RoIAlign in a cell | 2 x 2 | as many as there are pixels |

**Deviations**
- Boxes and masks have no weights for the background, as in detectron2; torchvision's are never used.
- The last layer of masks is evaluated for the class of each box alone: same result, a C-th of the work.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads
from torchvision.models.detection.rpn import RPNHead

from trimask.decode.boxes import Detections, Weights, best_detections, cell_anchors, grid_anchors
from trimask.layers.roi_align import roi_align
from trimask.types import Size

Conventions = Literal["torchvision", "detectron2"]
Norm = Callable[[int], nn.Module]

SIDES = (32.0, 64.0, 128.0, 256.0, 512.0)  # of the anchors, one a level
RATIOS = (0.5, 1.0, 2.0)
BOX_WEIGHTS: Weights = (10.0, 10.0, 5.0, 5.0)  # of the second stage's deltas
BOX_CELLS, MASK_CELLS = 7, 14  # a side of what is pooled; masks are doubled at the end
USUAL_SIDE, USUAL_LEVEL = 224, 2  # a box of ImageNet's size is pooled at the level of stride 16


class Candidates(NamedTuple):
    """What the first stage says, level by level: logits (B, K), deltas (B, K, 4) and anchors (K, 4)."""

    logits: tuple[Tensor, ...]
    deltas: tuple[Tensor, ...]
    anchors: tuple[Tensor, ...]


class ProposalHead(nn.Module):
    """How much each anchor looks like an object, and how a box around that would differ from it.

    Args:
        channels: of the pyramid.
        strides: of its levels, finest first; one side of anchors each.
        num_convs: before the two answers.
        conventions: see above.
    """

    def __init__(
        self, channels: int, strides: Sequence[int], *, num_convs: int = 1, conventions: Conventions = "torchvision"
    ) -> None:
        super().__init__()
        self.strides, self.rounded = tuple(strides), conventions == "torchvision"
        self.head = RPNHead(channels, len(RATIOS), conv_depth=num_convs)

    def forward(self, levels: Sequence[Tensor]) -> Candidates:
        """(B, D, h, w) of each level, finest first. Candidates are listed cell by cell."""
        logits, deltas = self.head(list(levels))
        return Candidates(
            tuple(x.permute(0, 2, 3, 1).flatten(1) for x in logits),
            tuple(x.permute(0, 2, 3, 1).reshape(len(x), -1, 4) for x in deltas),
            tuple(self._anchors(levels)),
        )

    def _anchors(self, levels: Sequence[Tensor]) -> list[Tensor]:
        padded = [side * self.strides[0] for side in levels[0].shape[-2:]]
        found = []
        for level, stride, side in zip(levels, self.strides, SIDES, strict=True):
            dtype = torch.promote_types(level.dtype, torch.float32)
            cell = cell_anchors(side, RATIOS, rounded=self.rounded).to(level.device, dtype)
            height, width = level.shape[-2:]
            strides = (padded[0] // height, padded[1] // width) if self.rounded else (stride, stride)
            found.append(grid_anchors(cell, (height, width), strides))
        return found


class RegionHeads(nn.Module):
    """Class, box and mask of what lies in given boxes.

    Args:
        num_classes: C, without background.
        channels: of the pyramid.
        strides: of the levels that are pooled from.
        box_channels: of the two layers behind the pooled boxes.
        mask_channels: of the four convolutions and the transposed one behind the pooled masks.
        box_convs: convolutions before the box's one layer, which then is one instead of two.
        norm: makes the normalization of these and of the mask's convolutions, for a width.
        conventions: see above.
        least_score, overlap, top: see `best_detections`.
    """

    def __init__(
        self,
        num_classes: int,
        channels: int,
        strides: Sequence[int],
        *,
        box_channels: int = 1024,
        mask_channels: int = 256,
        box_convs: int = 0,
        norm: Norm | None = None,
        conventions: Conventions = "torchvision",
        least_score: float = 0.05,
        overlap: float = 0.5,
        top: int = 100,
    ) -> None:
        super().__init__()
        self.strides, self.aligned = tuple(strides), conventions == "detectron2"
        self.least_score, self.overlap, self.top = least_score, overlap, top
        self.box_head: nn.Module
        if box_convs:
            cells = (channels, BOX_CELLS, BOX_CELLS)
            self.box_head = FastRCNNConvFCHead(cells, [channels] * box_convs, [box_channels], norm_layer=norm)
        else:
            self.box_head = TwoMLPHead(channels * BOX_CELLS**2, box_channels)
        self.classify = nn.Linear(box_channels, num_classes + 1)
        self.refine = nn.Linear(box_channels, num_classes * 4)
        self.mask_head = MaskRCNNHeads(channels, [mask_channels] * 4, 1, norm_layer=norm)
        self.upsample = nn.ConvTranspose2d(mask_channels, mask_channels, 2, stride=2)
        self.mask = nn.Conv2d(mask_channels, num_classes, 1)
        for layer in (self.upsample, self.mask):  # as torchvision's predictor
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(layer.get_parameter("bias"))

    def boxes(self, levels: Sequence[Tensor], boxes: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """(P, C + 1) class logits, background last, and (P, C, 4) deltas of the boxes of all pictures.

        Args: levels: (B, D, h, w), as many as there are strides. boxes: (P_b, 4) of each picture.
        """
        x = self.box_head(self._pooled(levels, boxes, BOX_CELLS))
        return self.classify(x), self.refine(x).unflatten(1, (-1, 4))

    def masks(self, levels: Sequence[Tensor], boxes: Sequence[Tensor], labels: Tensor) -> Tensor:
        """(P, 28, 28) mask logits of these classes, (P,), in the boxes of all pictures."""
        x = self.mask_head(self._pooled(levels, boxes, MASK_CELLS))
        x = self._doubled(x).relu()  # (P, 2, 2, 14, 14, D), the place within a cell first
        weight = self.mask.weight.flatten(1)[labels]  # (P, D)
        logits = torch.einsum("prshwd,pd->phrws", x, weight.to(x.dtype)).flatten(3, 4).flatten(1, 2)
        return logits + self.mask.get_parameter("bias")[labels, None, None].to(logits.dtype)

    def detect(self, levels: Sequence[Tensor], proposals: Sequence[Tensor], size: Size) -> list[Detections]:
        """The final boxes of each picture; see `best_detections`."""
        logits, deltas = self.boxes(levels, proposals)
        counts = [len(boxes) for boxes in proposals]
        return [
            best_detections(
                *rows,
                size,
                weights=BOX_WEIGHTS,
                least_score=self.least_score,
                overlap=self.overlap,
                top=self.top,
            )
            for rows in zip(logits.split(counts), deltas.split(counts), proposals, strict=True)
        ]

    def _doubled(self, x: Tensor) -> Tensor:
        """(P, D, h, w) -> (P, 2, 2, h, w, D): the transposed convolution, whose windows do not overlap, as one product."""
        weight = self.upsample.weight.permute(2, 3, 1, 0).flatten(0, 2)  # (2 * 2 * D, D)
        cells = F.linear(x.permute(0, 2, 3, 1), weight, self.upsample.get_parameter("bias").repeat(4))
        return cells.unflatten(3, (2, 2, -1)).permute(0, 3, 4, 1, 2, 5)

    def _pooled(self, levels: Sequence[Tensor], boxes: Sequence[Tensor], cells: int) -> Tensor:
        """(P, D, cells, cells) features in the boxes, each from the level that suits its size."""
        flat = torch.cat(list(boxes))
        num_boxes = torch.tensor([len(rows) for rows in boxes], device=flat.device)
        picture = torch.arange(len(boxes), device=flat.device).repeat_interleave(num_boxes, output_size=len(flat))
        regions = torch.cat([picture[:, None].to(flat.dtype), flat], dim=1)
        level_of = self._levels_of(flat)
        order = level_of.argsort(stable=True)
        counts = torch.bincount(level_of, minlength=len(self.strides)).tolist()
        pooled = [
            roi_align(features, rows, cells, 1 / stride, samples=0 if self.aligned else 2, aligned=self.aligned)
            for features, rows, stride in zip(levels, regions[order].split(counts), self.strides, strict=True)
        ]
        return torch.cat(pooled).index_select(0, order.argsort())

    def _levels_of(self, boxes: Tensor) -> Tensor:
        """(P,) index of a level: a box twice as large is pooled one level higher."""
        side = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1).sqrt()
        level = (USUAL_LEVEL + (side / USUAL_SIDE).log2() + 1e-6).floor()
        return level.clamp(0, len(self.strides) - 1).long()
