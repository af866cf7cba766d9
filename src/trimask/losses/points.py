"""Random points of pictures: what masks are there, what the truth is there, and which points are worth looking at.

Sources: `point_sample` and `get_uncertain_point_coords_with_randomness` of PointRend (Kirillov et al., CVPR 2020,
arXiv:1912.08193) as Mask2Former uses them. A point is (x, y) in 0..1 of the picture; between pixel centers values are bilinear,
and what lies beyond the border counts as 0, as in `F.grid_sample`.

The truth is read from maps of row numbers at the four pixels around a point, which gives each mask's bilinear value there
without any mask: time and memory do not grow with the number of segments.

**Deviation**: a point next to an unknown pixel is unknown itself, and unknown points are chosen last.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

UNKNOWN = -2  # in a map of rows: a pixel that nobody may learn from; -1 is a pixel of no row, k >= 0 one of row k

_CHUNK_BYTES = 64 * 2**20  # of candidate points that exist at a time


def random_points(num_sets: int, num_points: int, like: Tensor) -> Tensor:
    """(num_sets, num_points, 2) uniform in 0..1."""
    return torch.rand(num_sets, num_points, 2, device=like.device, dtype=like.dtype)


def values_at(maps: Tensor, points: Tensor) -> Tensor:
    """(N, K, h, w) maps at (N, P, 2) points of each -> (N, K, P)."""
    return F.grid_sample(maps, 2 * points[:, :, None] - 1, mode="bilinear", align_corners=False)[..., 0]


def rows_around(rows: Tensor, pictures: Tensor, points: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """The four pixels around each point, one after the other.

    Args:
        rows: (B, L, H, W) row of each pixel in each layer; `UNKNOWN` in the first.
        pictures: (N,) which picture each set of points belongs to.
        points: (N, P, 2).

    Yields: (L, N, P) the rows there, -1 beyond the border; and (N, P) the bilinear weight of that pixel, 0 beyond the border.
    """
    num_layers, height, width = rows.shape[1:]
    position = points * points.new_tensor([width, height]) - 0.5
    corner = position.floor()
    fraction = position - corner
    flat = rows.flatten()
    base = (pictures * num_layers)[:, None] + torch.arange(num_layers, device=rows.device)[:, None, None]  # (L, N, 1)
    for right in (0, 1):
        x = corner[..., 0].long() + right
        across = fraction[..., 0] if right else 1 - fraction[..., 0]
        for below in (0, 1):
            y = corner[..., 1].long() + below
            weight = across * (fraction[..., 1] if below else 1 - fraction[..., 1])
            within = (x >= 0) & (x < width) & (y >= 0) & (y < height)
            pixel = y.clamp(0, height - 1) * width + x.clamp(0, width - 1)
            found = flat[base * (height * width) + pixel]
            yield torch.where(within, found, -1), weight * within


def truth_at(rows: Tensor, pictures: Tensor, points: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """One mask a set of points.

    Args: rows, pictures, points: as in `rows_around`. wanted: (N,) row of the mask.
    Returns: (N, P) the mask's value 0..1, and (N, P) 1 where the truth is known, else 0.
    """
    values, known = torch.zeros_like(points[..., 0]), torch.ones_like(points[..., 0])
    for found, weight in rows_around(rows, pictures, points):
        values += weight * (found == wanted[:, None]).any(dim=0)
        known *= found[0] != UNKNOWN
    return values, known


def all_truths_at(rows: Tensor, points: Tensor, counts: list[int]) -> tuple[list[Tensor], Tensor]:
    """Every mask of each picture at the same points.

    Args: rows: (B, L, H, W). points: (B, P, 2). counts: number of rows of each picture.
    Returns: one (M, P) a picture of values 0..1, and (B, P) 1 where the truth is known, else 0.
    """
    pictures = torch.arange(len(rows), device=rows.device)
    known = torch.ones_like(points[..., 0])
    values = [points.new_zeros(count + 1, points.shape[1]) for count in counts]  # one more for the pixels of no row
    for found, weight in rows_around(rows, pictures, points):
        known *= found[0] != UNKNOWN
        place = found.clamp(min=-1).long() + 1  # (L, B, P)
        for picture, value in enumerate(values):
            value.scatter_add_(0, place[:, picture], weight[picture].expand_as(place[:, picture]))
    return [value[1:] for value in values], known


@torch.no_grad()
def uncertain_points(
    masks: Tensor, rows: Tensor, pictures: Tensor, *, num_points: int, oversample: float, importance: float
) -> Tensor:
    """For each mask, points where it is least certain, and some anywhere.

    Args:
        masks: (N, h, w) logits.
        rows, pictures: as in `rows_around`.
        num_points: P.
        oversample: candidates drawn for each point that is given.
        importance: share of the points that are the least certain candidates.

    Returns: (N, P, 2).
    """
    num_candidates, num_chosen = int(num_points * oversample), int(importance * num_points)
    at_once = max(1, _CHUNK_BYTES // (masks.dtype.itemsize * 4 * num_candidates))
    chosen = [
        _least_certain(chunk, rows, of, num_candidates, num_chosen)
        for chunk, of in zip(masks.split(at_once), pictures.split(at_once), strict=True)
    ]
    anywhere = random_points(len(masks), num_points - num_chosen, masks)
    return torch.cat([torch.cat(chosen), anywhere], dim=1)


def _least_certain(masks: Tensor, rows: Tensor, pictures: Tensor, num_candidates: int, num_chosen: int) -> Tensor:
    """(N, num_chosen, 2) of as many random candidates a mask."""
    points = random_points(len(masks), num_candidates, masks)
    certainty = values_at(masks[:, None], points)[:, 0].abs()
    height, width = rows.shape[2:]
    x, y = (points * points.new_tensor([width, height])).long().unbind(-1)  # rounding can give the border itself
    nearest = rows[pictures[:, None], 0, y.clamp(max=height - 1), x.clamp(max=width - 1)]
    certainty = torch.where(nearest == UNKNOWN, torch.inf, certainty)
    index = certainty.topk(num_chosen, dim=1, largest=False, sorted=False).indices
    return points.gather(1, index[..., None].expand(-1, -1, 2))
