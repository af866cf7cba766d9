"""Boxes with small masks -> instances at the picture's size. Pure functions.

Source: Mask R-CNN (He et al., ICCV 2017, arXiv:1703.06870); the value of a pixel is that of detectron2's `paste_masks_in_image`
(Apache-2.0), bilinear between the cells' centers at the exact place of the box, 0 beyond the outermost ones. Own code: bilinear
weights of rows and columns are separate, so that a mask is two small matrix products over the pixels of its box, by strips.
No full-size map of floating-point numbers exists.

**Deviation**: torchvision rounds boxes to whole pixels first.
"""

from __future__ import annotations

import math
from collections.abc import Collection

import torch
from torch import Tensor
from torchvision.ops import clip_boxes_to_image

from trimask.decode.strips import Rows, row_strips, strip_bytes
from trimask.types import Instances, Size

THRESHOLD = 0.5  # probability from which on a pixel is inside


def region_instances(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor,
    masks: Tensor,
    *,
    frame: Size,
    size: Size,
    things: Collection[int],
    top: int = 100,
    aligned: bool = True,
) -> Instances:
    """One picture's detections at its own size. Those of other classes, without a score, or without a pixel are left out:
    boxes, scores, labels and masks with one index.

    Args:
        boxes: (N, 4) in pixels of the frame, which they may exceed, best score first.
        scores, labels: (N,).
        masks: (N, m, m) logits of what lies in the boxes.
        frame: size that the picture had in the network.
        size: to answer at.
        things: labels of the countable classes.
        top: detections at most.
        aligned: see `paste_masks`.
    """
    counts = torch.isin(labels, torch.tensor(sorted(things), device=labels.device, dtype=labels.dtype))
    keep = torch.where(counts & (scores > 0))[0][:top]
    scale = boxes.new_tensor([size[1] / frame[1], size[0] / frame[0]]).repeat(2)
    boxes = boxes[keep] * scale
    inside = paste_masks(masks[keep].sigmoid(), boxes, size, aligned=aligned)
    seen = torch.where(inside.flatten(1).any(dim=1))[0]
    if len(seen) < len(keep):
        keep, boxes, inside = keep[seen], boxes[seen], inside[seen]
    # behind a cut, a box may reach into what the picture was padded with
    return Instances(inside, labels[keep], scores[keep].float(), clip_boxes_to_image(boxes.float(), size))


def paste_masks(masks: Tensor, boxes: Tensor, size: Size, *, aligned: bool = True, rows: Rows | None = None) -> Tensor:
    """(N, m, m) probabilities in (N, 4) boxes -> (N, H, W) bool.

    Args:
        size: of the picture.
        aligned: the center of a pixel lies half a pixel behind its index; without, at its index, as RoIAlign of the first
            detectors, and still torchvision's, counts.
        rows: only these of the picture.
    """
    start, stop = rows or (0, size[0])
    inside = torch.zeros(len(masks), stop - start, size[1], dtype=torch.bool, device=masks.device)
    masks = masks.to(torch.promote_types(masks.dtype, torch.float32))
    shift = 0.5 if aligned else 0.0
    for canvas, mask, box in zip(inside, masks, boxes.double().tolist(), strict=True):
        left, right = _covered(box[0] - shift, box[2] - shift, (0, size[1]))
        above, below = _covered(box[1] - shift, box[3] - shift, (start, stop))
        if left >= right or above >= below:
            continue
        across = _weights(mask, box[0] - shift, box[2] - shift, (left, right))  # (w, m)
        columns = mask @ across.T  # (m, w)
        budget = strip_bytes(mask.device)
        for first, last in row_strips(below - above, mask.element_size() * (right - left), budget):
            span = above + first, above + last
            strip = _weights(mask, box[1] - shift, box[3] - shift, span) @ columns  # (h, w)
            torch.ge(strip, THRESHOLD, out=canvas[span[0] - start : span[1] - start, left:right])
    return inside


def _covered(begin: float, end: float, limits: Rows) -> Rows:
    """(start, stop) of the pixels in begin..end; beyond it no probability reaches a half."""
    return max(math.ceil(begin), limits[0]), min(math.floor(end) + 1, limits[1])


def _weights(mask: Tensor, begin: float, end: float, span: Rows) -> Tensor:
    """(stop - start, m): how much each cell of a mask that spans begin..end counts at each pixel."""
    cells = torch.arange(mask.shape[-1], device=mask.device, dtype=mask.dtype)
    pixels = torch.arange(*span, device=mask.device, dtype=mask.dtype)
    place = (pixels - begin) * (mask.shape[-1] / max(end - begin, 1e-6)) - 0.5  # in cells
    return (1 - (place[:, None] - cells).abs()).clamp(min=0)
