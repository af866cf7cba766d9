"""Targets as a two-stage detector is to find them: boxes, classes, and masks within given boxes, read from the id layers.

Source: own. The mask of a box is torchvision's `project_masks_on_boxes` (BSD-3), RoIAlign of the object's full-size mask with as
many samples in a cell as there are pixels. Samples lie on a grid and are bilinear, so that the same numbers are two products of
small matrices with the object's pixels within its own box; no full-size mask exists.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from trimask.types import Target

CROWDED = 0.7  # share of a box within crowds from which on it is no background; Detectron's `CROWD_FILTER_THRESH`


@dataclass(frozen=True)
class RegionTruth:
    """The objects of one picture.

    Attributes:
        boxes: (M, 4).
        labels: (M,) int64.
        ids: (M,) of the objects in the layers.
        segments: (L, H, W) the id layers.
        crowds: (H + 1, W + 1) how many pixels of crowds lie above and to the left; None if there are none.
    """

    boxes: Tensor
    labels: Tensor
    ids: Tensor
    segments: Tensor
    crowds: Tensor | None

    def is_crowded(self, boxes: Tensor) -> Tensor:
        """(N,) bool: most of the box lies within crowds."""
        if self.crowds is None:
            return torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
        height, width = self.segments.shape[-2:]
        left, above, right, below = boxes.round().long().unbind(1)
        left, right = left.clamp(0, width), right.clamp(0, width)
        above, below = above.clamp(0, height), below.clamp(0, height)
        inside = (
            self.crowds[below, right] - self.crowds[above, right] - self.crowds[below, left] + self.crowds[above, left]
        )
        area = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1)
        return inside > CROWDED * area.clamp(min=1)

    def masks(self, boxes: Tensor, owners: Tensor, cells: int, *, aligned: bool) -> Tensor:
        """(P, cells, cells) in 0..1: how much of each cell of a box its object covers.

        Args:
            boxes: (P, 4).
            owners: (P,) row of each box's object.
            aligned: see `decode.regions.paste_masks`.
        """
        size = (self.segments.shape[-2], self.segments.shape[-1])
        masks = boxes.new_zeros(len(boxes), cells, cells)
        frames = torch.cat([self.ids[:, None], self.boxes.long()], dim=1).tolist()
        for owner in owners.unique().tolist():
            here = torch.where(owners == owner)[0]
            number, left, above, right, below = frames[owner]
            pixels = (self.segments[:, above:below, left:right] == number).any(dim=0).to(boxes.dtype)
            down = _shares(boxes[here, 1], boxes[here, 3], cells, size[0], (above, below), aligned)  # (R, cells, h)
            across = _shares(boxes[here, 0], boxes[here, 2], cells, size[1], (left, right), aligned)  # (R, cells, w)
            with torch.autocast(boxes.device.type, enabled=False):
                masks[here] = (down @ pixels) @ across.transpose(1, 2)
        return masks


def _shares(begin: Tensor, end: Tensor, cells: int, limit: int, span: tuple[int, int], aligned: bool) -> Tensor:
    """(R,) intervals -> (R, cells, n): how much the n pixels of a span count in each cell of each interval.

    Args: limit: pixels of the whole picture. span: (start, stop).
    """
    shift = 0.5 if aligned else 0.0
    length = end - begin if aligned else (end - begin).clamp(min=1)
    counts = (length / cells).ceil().clamp(min=1)  # samples of a cell
    step = torch.arange(int(counts.max()), device=begin.device, dtype=begin.dtype)  # (S,)
    cell = torch.arange(cells, device=begin.device, dtype=begin.dtype)
    within = (step + 0.5) / counts[:, None]  # (R, S), in cells
    place = (begin - shift)[:, None, None] + (cell[:, None] + within[:, None]) * (length / cells)[:, None, None]
    counted = (step < counts[:, None])[:, None] & (place >= -1) & (place <= limit)  # (R, cells, S)
    place = place.clamp(0, limit - 1)
    low = place.floor()
    high_share = place - low
    shares = begin.new_zeros(len(begin), cells, span[1] - span[0] + 1)  # the last one is thrown away
    for pixel, share in ((low, 1 - high_share), (low + 1, high_share)):
        inside = counted & (pixel >= span[0]) & (pixel < span[1])
        column = torch.where(inside, pixel - span[0], span[1] - span[0]).long()
        shares.scatter_add_(2, column, share / counts[:, None, None])
    return shares[..., :-1]


@dataclass(frozen=True)
class RegionRule:
    """Which segments are objects.

    Attributes:
        things: labels of countable classes; None if all are.
        ignore_index: label of segments that are none.
    """

    things: frozenset[int] | None = None
    ignore_index: int = 255

    def __call__(self, targets: Sequence[Target], num_classes: int) -> list[RegionTruth]:
        """Targets of one size, that of the padded pictures.

        Raises:
            ValueError: a label that the network does not have.
        """
        return [self._truth(target, num_classes) for target in targets]

    def _truth(self, target: Target, num_classes: int) -> RegionTruth:
        labels, crowd = target.labels.tolist(), target.is_crowd.tolist()
        known = [label for label in labels if label != self.ignore_index]
        if known and not 0 <= min(known) <= max(known) < num_classes:
            raise ValueError(
                f"A target has labels {min(known)}..{max(known)}, but the network has the classes 0..{num_classes - 1}; "
                "build it with the number of classes of the data."
            )
        counted = [label in known if self.things is None else label in self.things for label in labels]
        objects = [row for row, counts in enumerate(counted) if counts and not crowd[row]]
        rows = torch.tensor(objects, dtype=torch.int64, device=target.labels.device)
        boxes = target.boxes[rows]
        seen = torch.where((boxes[:, 2:] > boxes[:, :2]).all(dim=1))[0]
        rows, boxes = rows[seen], boxes[seen]
        crowds = [row + 1 for row, counts in enumerate(counted) if counts and crowd[row]]
        return RegionTruth(boxes, target.labels[rows], rows + 1, target.segments, _summed(target.segments, crowds))


def _summed(segments: Tensor, ids: Collection[int]) -> Tensor | None:
    """(H + 1, W + 1) sums over everything above and to the left of the pixels of these segments."""
    if not ids:
        return None
    wanted = torch.tensor(sorted(ids), device=segments.device, dtype=segments.dtype)
    inside = torch.isin(segments, wanted).any(dim=0).to(torch.int64)
    return F.pad(inside.cumsum(0).cumsum(1), (1, 0, 1, 0))
