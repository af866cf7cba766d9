"""Boxes of two-stage detectors: how they are written relative to anchors, and which of many are kept. Pure functions.

Sources: Faster R-CNN (Ren et al., NeurIPS 2015, arXiv:1506.01497) and its feature pyramid (Lin et al., CVPR 2017,
arXiv:1612.03144); arithmetic, order and thresholds of torchvision's `BoxCoder`, `AnchorGenerator`, `RegionProposalNetwork` and
`RoIHeads` (BSD-3), read and written anew on the operators of torchvision.ops.

**Deviations**
- Deltas are decoded in fp32 at least, and those of anchors alone that are among the best of their level.
- Proposals are ranked by logits; torchvision ranks by their sigmoid, which is 1 for all logits above 17.
- The background is the last class, as in detectron2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.ops import batched_nms, clip_boxes_to_image

from trimask.types import Size

Weights = tuple[float, float, float, float]  # of the deltas (x, y, w, h)

MAX_LOG_SCALE = math.log(1000 / 16)  # a box is at most so much larger than its anchor
LEAST_PROPOSAL, LEAST_DETECTION = 1e-3, 1e-2  # pixels a side; smaller boxes are dropped


class Detections(NamedTuple):
    """What is found in one picture, best first: boxes (N, 4), scores (N,), labels (N,)."""

    boxes: Tensor
    scores: Tensor
    labels: Tensor


# --- a box as deltas to an anchor ---


def encode_boxes(boxes: Tensor, anchors: Tensor, weights: Weights) -> Tensor:
    """(N, 4) boxes relative to (N, 4) anchors: shift of the center in sizes of the anchor, logarithm of the scale."""
    center, size = _center_and_size(boxes)
    anchor_center, anchor_size = _center_and_size(anchors)
    deltas = torch.cat([(center - anchor_center) / anchor_size, (size / anchor_size).log()], dim=-1)
    return deltas * deltas.new_tensor(weights)


def decode_boxes(deltas: Tensor, anchors: Tensor, weights: Weights) -> Tensor:
    """The inverse: (..., 4) deltas and (..., 4) anchors, which may be broadcast -> (..., 4) boxes."""
    deltas = deltas.to(anchors.dtype) / anchors.new_tensor(weights)
    anchor_center, anchor_size = _center_and_size(anchors)
    center = deltas[..., :2] * anchor_size + anchor_center
    half = 0.5 * deltas[..., 2:].clamp(max=MAX_LOG_SCALE).exp() * anchor_size
    return torch.cat([center - half, center + half], dim=-1)


def _center_and_size(boxes: Tensor) -> tuple[Tensor, Tensor]:
    size = boxes[..., 2:] - boxes[..., :2]
    return boxes[..., :2] + 0.5 * size, size


# --- anchors ---


def cell_anchors(side: float, ratios: Sequence[float], *, rounded: bool) -> Tensor:
    """(A, 4) boxes around 0 with the area of a square of this side.

    Args:
        ratios: heights divided by widths.
        rounded: to whole pixels, as in torchvision; detectron2 keeps fractions.
    """
    heights = torch.tensor([side * math.sqrt(ratio) for ratio in ratios])
    widths = torch.tensor([side / math.sqrt(ratio) for ratio in ratios])
    boxes = torch.stack([-widths, -heights, widths, heights], dim=1) / 2
    return boxes.round() if rounded else boxes


def grid_anchors(cell: Tensor, size: Size, strides: Size) -> Tensor:
    """(A, 4) boxes of a cell -> (h * w * A, 4): at each cell of a map of `size`, row by row."""
    y = torch.arange(size[0], device=cell.device, dtype=cell.dtype) * strides[0]
    x = torch.arange(size[1], device=cell.device, dtype=cell.dtype) * strides[1]
    corner = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).reshape(-1, 1, 2)
    return (corner.repeat(1, 1, 2) + cell).reshape(-1, 4)


# --- which boxes are kept ---


@torch.no_grad()
def best_proposals(
    logits: Sequence[Tensor],
    deltas: Sequence[Tensor],
    anchors: Sequence[Tensor],
    size: Size,
    *,
    per_level: int,
    in_all: int,
    overlap: float,
) -> list[Tensor]:
    """The boxes that look most like objects, best first: (P, 4) for each picture.

    Args:
        logits, deltas, anchors: (B, K), (B, K, 4) and (K, 4) of each level of the pyramid.
        size: of the pictures, which boxes are clipped to.
        per_level: candidates of each level.
        in_all: boxes of each picture at most.
        overlap: IoU above which the better one of two boxes of a level stays alone.
    """
    scores, boxes, levels = [], [], []
    for level, (logit, delta, anchor) in enumerate(zip(logits, deltas, anchors, strict=True)):
        score, place = logit.topk(min(per_level, logit.shape[1]), dim=1)
        found = delta.gather(1, place[..., None].expand(-1, -1, 4))
        scores.append(score.to(anchor.dtype))
        boxes.append(clip_boxes_to_image(decode_boxes(found, anchor[place], (1.0, 1.0, 1.0, 1.0)), size))
        levels.append(torch.full_like(place[0], level))
    kept, level_of = [], torch.cat(levels)
    for score, box in zip(torch.cat(scores, dim=1), torch.cat(boxes, dim=1), strict=True):
        large = torch.where(_is_large(box, LEAST_PROPOSAL))[0]
        score, box = score[large], box[large]
        kept.append(box[batched_nms(box, score, level_of[large], overlap)[:in_all]])
    return kept


def best_detections(
    logits: Tensor,
    deltas: Tensor,
    proposals: Tensor,
    size: Size,
    *,
    weights: Weights,
    least_score: float,
    overlap: float,
    top: int,
) -> Detections:
    """Of one picture: every pair of proposal and class is a candidate; of overlapping ones of a class the best stays.

    Args:
        logits: (P, C + 1), background last.
        deltas: (P, C, 4).
        proposals: (P, 4).
        size: of the picture, which boxes are clipped to.
        weights: of the deltas.
        least_score: probability above which there is a candidate.
        overlap: IoU above which the better one of two boxes of a class stays alone.
        top: detections at most.
    """
    scores = logits.to(proposals.dtype).softmax(dim=-1)[:, :-1]  # (P, C)
    place, labels = torch.where(scores > least_score)
    scores = scores[place, labels]
    boxes = clip_boxes_to_image(decode_boxes(deltas[place, labels], proposals[place], weights), size)
    large = torch.where(_is_large(boxes, LEAST_DETECTION))[0]
    boxes, scores, labels = boxes[large], scores[large], labels[large]
    keep = batched_nms(boxes, scores, labels, overlap)[:top]
    return Detections(boxes[keep], scores[keep], labels[keep])


def _is_large(boxes: Tensor, least: float) -> Tensor:
    return ((boxes[..., 2:] - boxes[..., :2]) >= least).all(dim=-1)
