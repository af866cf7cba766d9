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

from trimask.decode.strips import strip_bytes

UNKNOWN = -2  # in a map of rows: a pixel that nobody may learn from; -1 is a pixel of no row, k >= 0 one of row k


def random_points(num_sets: int, num_points: int, like: Tensor) -> Tensor:
    """(num_sets, num_points, 2) uniform in 0..1."""
    return torch.rand(num_sets, num_points, 2, device=like.device, dtype=like.dtype)


def values_at(maps: Tensor, points: Tensor) -> Tensor:
    """(N, K, h, w) maps at (N, P, 2) points of each -> (N, K, P)."""
    return F.grid_sample(maps, 2 * points[:, :, None] - 1, mode="bilinear", align_corners=False)[..., 0]


def rows_around(framed: Tensor, pictures: Tensor, points: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """The four pixels around each point, one after the other.

    Args:
        framed: (B, L, H + 2, W + 2) row of each pixel in each layer, `UNKNOWN` in the first; around the picture a frame of -1.
        pictures: (N,) which picture each set of points belongs to.
        points: (N, P, 2).

    Yields: (L, N, P) the rows there, -1 beyond the border; and (N, P) the bilinear weight of that pixel.
    """
    num_layers, height, width = framed.shape[1:]
    position = points * points.new_tensor([width - 2, height - 2]) + 0.5  # in pixels of the frame
    corner = position.floor()
    right, below = (position - corner).unbind(-1)
    left, above = 1 - right, 1 - below
    x, y = corner.long().unbind(-1)
    layer = pictures * num_layers + torch.arange(num_layers, device=framed.device)[:, None]  # (L, N)
    first = layer[..., None] * (height * width) + (y * width + x)
    flat = framed.flatten()
    for step, weight in ((0, left * above), (1, right * above), (width, left * below), (width + 1, right * below)):
        yield flat.index_select(0, (first + step).flatten()).view_as(first), weight


def truth_at(framed: Tensor, pictures: Tensor, points: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """One mask a set of points.

    Args: framed, pictures, points: as in `rows_around`. wanted: (N,) row of the mask.
    Returns: (N, P) the mask's value 0..1, and (N, P) 1 where the truth is known, else 0.
    """
    values, known = torch.zeros_like(points[..., 0]), torch.ones_like(points[..., 0])
    for found, weight in rows_around(framed, pictures, points):
        values += weight * (found == wanted[:, None]).any(dim=0)
        known *= found[0] != UNKNOWN
    return values, known


def all_truths_at(framed: Tensor, points: Tensor, counts: list[int]) -> tuple[list[Tensor], Tensor]:
    """Every mask of each picture at the same points.

    Args: framed: as in `rows_around`. points: (B, P, 2). counts: number of rows of each picture.
    Returns: one (M, P) a picture of values 0..1, and (B, P) 1 where the truth is known, else 0.
    """
    pictures = torch.arange(len(framed), device=framed.device)
    known = torch.ones_like(points[..., 0])
    values = [points.new_zeros(count + 1, points.shape[1]) for count in counts]  # one more for the pixels of no row
    for found, weight in rows_around(framed, pictures, points):
        known *= found[0] != UNKNOWN
        place = found.clamp(min=-1).long() + 1  # (L, B, P)
        for picture, value in enumerate(values):
            value.scatter_add_(0, place[:, picture], weight[picture].expand_as(place[:, picture]))
    return [value[1:] for value in values], known


@torch.no_grad()
def uncertain_points(
    masks: Tensor, unknown: Tensor | None, pictures: Tensor, *, num_points: int, oversample: float, importance: float
) -> Tensor:
    """For each mask, points where it is least certain, and some anywhere.

    Args:
        masks: (N, h, w) logits.
        unknown: (B, H, W) bool, pixels that are chosen last; None if there are none.
        pictures: (N,) which picture each mask belongs to.
        num_points: P.
        oversample: candidates drawn for each point that is given.
        importance: share of the points that are the least certain candidates.

    Returns: (N, P, 2).
    """
    num_candidates, num_chosen = int(num_points * oversample), int(importance * num_points)
    at_once = max(1, strip_bytes(masks.device) // (masks.dtype.itemsize * 4 * num_candidates))
    chosen = [
        _least_certain(chunk, unknown, of, num_candidates, num_chosen)
        for chunk, of in zip(masks.split(at_once), pictures.split(at_once), strict=True)
    ]
    anywhere = random_points(len(masks), num_points - num_chosen, masks)
    return torch.cat([torch.cat(chosen), anywhere], dim=1)


def _least_certain(
    masks: Tensor, unknown: Tensor | None, pictures: Tensor, num_candidates: int, num_chosen: int
) -> Tensor:
    """(N, num_chosen, 2) of as many random candidates a mask."""
    points = random_points(len(masks), num_candidates, masks)
    certainty = values_at(masks[:, None], points)[:, 0].abs_()
    if unknown is not None:
        height, width = unknown.shape[1:]
        x, y = (points * points.new_tensor([width, height])).long().unbind(-1)  # rounding can give the border itself
        pixel = (pictures * height)[:, None] + y.clamp_(max=height - 1)
        pixel = pixel.mul_(width).add_(x.clamp_(max=width - 1))
        certainty.masked_fill_(unknown.flatten().index_select(0, pixel.flatten()).view_as(pixel), torch.inf)
    index = certainty.topk(num_chosen, dim=1, largest=False, sorted=False).indices
    return points.gather(1, index[..., None].expand(-1, -1, 2))
