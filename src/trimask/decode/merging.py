"""Instances that may overlap and a class for each pixel -> segments that do not overlap. Pure functions.

Source: Kirillov et al., "Panoptic Segmentation", CVPR 2019, arXiv:1801.00868, section 6, with the numbers of detectron2's
`combine_semantic_and_instance_outputs` (Apache-2.0): the better instance lies on top, stuff fills what is left.

**Deviation**: the least area of stuff, meant for pictures of COCO's size, never is more than its share of one.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

from trimask.types import Instances, Panoptic

STUFF_AREA = 4096  # pixels
USUAL_AREA = 480 * 640  # of a picture of COCO


def merge_panoptic(
    instances: Instances,
    labels: Tensor,
    certainty: Tensor,
    *,
    things: Collection[int],
    score_threshold: float = 0.5,
    overlap_threshold: float = 0.5,
    stuff_area: int = STUFF_AREA,
) -> Panoptic:
    """One picture's panoptic answer.

    Args:
        instances: best score first.
        labels: (H, W) int64, class of each pixel; pixels of labels that are no stuff stay empty.
        certainty: (C,) of each class of pixels, the score of its segment.
        things: labels of the countable classes.
        score_threshold: instances with a lower score are left out.
        overlap_threshold: an instance is left out if better ones cover more than this share of it.
        stuff_area: pixels that a segment of stuff has at least.
    """
    height, width = labels.shape
    segments = torch.zeros(height, width, dtype=torch.int32, device=labels.device)
    rows: list[tuple[int, float]] = []
    kept = int((instances.scores >= score_threshold).sum())
    corners = instances.boxes[:kept].round().long().tolist()
    for mask, label, score, corner in zip(
        instances.masks[:kept], instances.labels.tolist(), instances.scores.tolist(), corners, strict=False
    ):
        left, above, right, below = (max(0, side + step) for side, step in zip(corner, (-1, -1, 2, 2), strict=True))
        inside, taken = mask[above:below, left:right], segments[above:below, left:right]
        free = inside & (taken == 0)
        area, left_over = int(inside.sum()), int(free.sum())
        if area == 0 or area - left_over > overlap_threshold * area:
            continue
        rows.append((label, score))
        taken[free] = len(rows)
    least = min(stuff_area, round(stuff_area * height * width / USUAL_AREA))
    areas = torch.bincount(labels[segments == 0], minlength=len(certainty)).tolist()
    found = [
        label for label, area in enumerate(areas[: len(certainty)]) if label not in things and area >= max(least, 1)
    ]
    number_of = torch.zeros(max(len(areas), 1), dtype=torch.int32, device=labels.device)
    for label in found:
        rows.append((label, float(certainty[label])))
        number_of[label] = len(rows)
    segments = torch.where(segments == 0, number_of[labels], segments)
    names = torch.tensor([label for label, _ in rows], dtype=torch.int64, device=labels.device)
    scores = torch.tensor([score for _, score in rows], dtype=torch.float32, device=labels.device)
    return Panoptic(segments, names, scores)
