"""Cells of grids -> instances at the picture's size. Pure functions.

Source: SOLO (Wang et al., ECCV 2020, arXiv:1912.04488) and SOLOv2 (Wang et al., NeurIPS 2020, arXiv:2003.10152); `get_seg` of
WXinlong/SOLO (non-commercial licence) and mmdetection 3.3 (Apache-2.0), read for their rules and written anew. In their order:
a cell whose score is no local maximum says nothing; pairs of cell and class above a score get a mask; masks of fewer cells than
the level's stride are dropped; a score is multiplied with the mean probability inside the mask; matrix NMS lowers the scores of
masks that better ones of their class overlap; those that are still above a score are brought to the picture's size.

Masks are made for candidates alone, so many at a time as fit into `decode.strips.strip_bytes`; never more than the best
`num_candidates` of them are kept, a byte a cell. At the picture's size each mask is computed where it can lie: a hundred small
ones at 800 x 1088 take a fifth of the processor time of bringing all to that size in full, and the same masks come out.

**Deviations**
- Masks go to the picture's size in one step; the official code goes by way of the network's input size.
- Only classes that are things take part.
- Boxes are those of the masks, and masks that vanish at the picture's size are left out; officially there are no boxes.
- Where linear matrix NMS divides 0 by 0 (the same mask three times), the score is lowered by what else is known; there it is nan.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from trimask.decode.strips import row_strips, strip_bytes
from trimask.types import Instances, Size, mask_boxes

Kernel = Literal["gaussian", "linear"]


# --- what a network says of a grid ---


@dataclass(frozen=True)
class Filters:
    """Filters over maps of features; each makes a mask, or a factor of masks.

    Attributes:
        maps: (B, D, h, w).
        weights: (B, n, D, k, k), or (1, n, D, k, k) where all pictures have the same.
        bias: (n,), or None.
        scale: what the filters make of the maps is enlarged so many times.
    """

    maps: Tensor
    weights: Tensor
    bias: Tensor | None = None
    scale: int = 1

    @property
    def size(self) -> Size:
        """Of the masks."""
        return self.scale * self.maps.shape[-2], self.scale * self.maps.shape[-1]

    def logits(self, picture: int, chosen: Tensor) -> Tensor:
        """(m,) numbers of filters -> (m, *size) of this picture, in the precision of the maps."""
        weights = self.weights[min(picture, len(self.weights) - 1)].index_select(0, chosen).to(self.maps.dtype)
        bias = None if self.bias is None else self.bias.index_select(0, chosen).to(self.maps.dtype)
        found = F.conv2d(self.maps[picture : picture + 1], weights, bias, padding=weights.shape[-1] // 2)
        if self.scale > 1:
            found = F.interpolate(found, self.size, mode="bilinear", align_corners=False)
        return found[0]

    def all_logits(self) -> Tensor:
        """(B, n, *size); many maps."""
        everything = torch.arange(self.weights.shape[1], device=self.maps.device)
        return torch.stack([self.logits(picture, everything) for picture in range(len(self.maps))])

    def picture(self, index: int) -> Filters:
        only = slice(index, index + 1)
        weights = self.weights[only] if len(self.weights) > 1 else self.weights
        return Filters(self.maps[only], weights, self.bias, self.scale)


@dataclass(frozen=True)
class GridLevel:
    """The S x S cells of one level, which stand for objects of one range of sizes.

    Attributes:
        categories: (B, C, S, S) class logits, a sigmoid each.
        factors: one with a filter for each cell, row by row; or two, with one for each column and one for each row, and then a
            mask is the product of the probabilities of its column and its row.
        stride: a mask of at most so many cells of the finest map is none.
    """

    categories: Tensor
    factors: tuple[Filters, ...]
    stride: int

    def chosen(self, cells: Tensor) -> tuple[Tensor, ...]:
        """(n,) numbers of cells -> the (n,) numbers of their filters in each factor."""
        if len(self.factors) == 1:
            return (cells,)
        num_columns = self.categories.shape[-1]
        return cells % num_columns, cells // num_columns

    def picture(self, index: int) -> GridLevel:
        factors = tuple(filters.picture(index) for filters in self.factors)
        return GridLevel(self.categories[index : index + 1], factors, self.stride)


def cell_masks(level: GridLevel, picture: int, cells: Tensor, size: Size | None = None) -> Tensor:
    """(n, h, w) probabilities of these (n,) cells' masks; each factor is brought to `size` if one is given."""
    product: Tensor | None = None
    for filters, chosen in zip(level.factors, level.chosen(cells), strict=True):
        logits = filters.logits(picture, chosen)
        factor = logits.to(torch.promote_types(logits.dtype, torch.float32)).sigmoid()
        if size is not None and factor.shape[-2:] != size:
            factor = F.interpolate(factor[None], size, mode="bilinear", align_corners=False)[0]
        product = factor if product is None else product * factor
    assert product is not None
    return product


# --- instances ---


class Found(NamedTuple):
    """N masks and whence they come: (N, h, w) bool at the size of the finest map, and (N,) each."""

    masks: Tensor
    areas: Tensor
    scores: Tensor
    labels: Tensor
    levels: Tensor
    cells: Tensor

    def rows(self, index: Tensor) -> Found:
        return Found(*(field[index] for field in self))


def grid_instances(
    levels: Sequence[GridLevel],
    picture: int,
    size: Size,
    *,
    covered: tuple[float, float],
    things: Collection[int],
    top: int = 100,
    score_threshold: float = 0.1,
    mask_threshold: float = 0.5,
    final_threshold: float = 0.05,
    num_candidates: int = 500,
    kernel: Kernel = "gaussian",
    sigma: float = 2.0,
) -> Instances:
    """What the cells of all levels see in one picture, best score first.

    Args:
        levels: of a batch; the first has the finest map of masks.
        picture: of the batch.
        size: (height, width) of the answer.
        covered: height and width of the picture in cells of the finest map, whose remainder is padding.
        things: labels that count.
        top: instances at most.
        score_threshold: of a class, for a cell to become a candidate.
        mask_threshold: probability from which a pixel belongs to a mask.
        final_threshold: of the score after matrix NMS.
        num_candidates: with which matrix NMS begins, at most.
        kernel, sigma: see `matrix_nms`.
    """
    cells, device = levels[0].factors[0].size, levels[0].categories.device
    found = _candidates(levels, picture, cells, things, score_threshold, mask_threshold, num_candidates)
    scores = matrix_nms(found.masks, found.labels, found.scores, found.areas, kernel=kernel, sigma=sigma)
    order = scores.argsort(descending=True, stable=True)
    order = order[scores[order] >= final_threshold][:top]
    found, scores = found.rows(order), scores[order]
    upsampling = _Upsampling(cells, covered, size, device)
    masks = torch.zeros(len(order), *size, dtype=torch.bool, device=device)
    boxes = torch.zeros(len(order), 4, device=device)
    for rows, probabilities in _in_chunks(levels, picture, found, cells):
        spans = mask_boxes(probabilities > mask_threshold).long().tolist()
        for row, probability, span in zip(rows.tolist(), probabilities, spans, strict=True):
            boxes[row] = upsampling.paste(masks[row], probability, span, mask_threshold)
    left = boxes[:, 2] > boxes[:, 0]
    if not left.all():
        masks, boxes, scores, found = masks[left], boxes[left], scores[left], found.rows(left)
    return Instances(masks, found.labels, scores, boxes)


def point_nms(scores: Tensor) -> Tensor:
    """(..., S, S) scores; 0 where the cell above, to the left or above to the left is better."""
    best = F.max_pool2d(scores, 2, stride=1, padding=1)[..., :-1, :-1]
    return torch.where(best == scores, scores, 0)


def _candidates(
    levels: Sequence[GridLevel],
    picture: int,
    cells: Size,
    things: Collection[int],
    score_threshold: float,
    mask_threshold: float,
    most: int,
) -> Found:
    """The best masks of all cells and classes above the threshold, best score first; scores are those of mask and class."""
    device = levels[0].categories.device
    allowed = torch.tensor(sorted(things), dtype=torch.int64, device=device)
    pairs = [_pairs(level.categories[picture], allowed, score_threshold) for level in levels]
    scores, labels, places = (torch.cat(parts) for parts in zip(*pairs, strict=True))
    numbers = torch.arange(len(levels), device=device).repeat_interleave(
        torch.tensor([len(pair[0]) for pair in pairs], device=device)
    )
    nothing = torch.empty(0, *cells, dtype=torch.bool, device=device)
    found = Found(nothing, *(field[:0] for field in (scores, scores, labels, numbers, places)))
    everything = Found(nothing, scores, scores, labels, numbers, places)
    for rows, probabilities in _in_chunks(levels, picture, everything, cells):
        masks = probabilities > mask_threshold
        areas = masks.sum(dim=(1, 2)).float()
        certainty = (probabilities * masks).sum(dim=(1, 2)) / areas.clamp(min=1)
        stride = torch.tensor([level.stride for level in levels], device=device)[numbers[rows]]
        chunk = Found(masks, areas, scores[rows] * certainty, labels[rows], numbers[rows], places[rows])
        chunk = chunk.rows(areas > stride)
        found = Found(*(torch.cat(both) for both in zip(found, chunk, strict=True)))
        if len(found.scores) > 2 * most:
            found = _best(found, most)
    return _best(found, most)


def _pairs(categories: Tensor, things: Tensor, threshold: float) -> tuple[Tensor, Tensor, Tensor]:
    """(C, S, S) logits -> (n,) scores, labels and cells of the things above the threshold."""
    scores = point_nms(categories.float().sigmoid()).flatten(1)[things]  # (T, S * S)
    cells, kinds = scores.T.gt(threshold).nonzero().unbind(1)  # cell by cell, as officially
    return scores[kinds, cells], things[kinds], cells


def _best(found: Found, most: int) -> Found:
    return found.rows(found.scores.argsort(descending=True, stable=True)[:most])


def _in_chunks(levels: Sequence[GridLevel], picture: int, found: Found, cells: Size) -> Iterator[tuple[Tensor, Tensor]]:
    """Rows of `found`, level by level, and the (n, h, w) probabilities of their masks, so many at a time as fit the budget."""
    at_once = max(1, strip_bytes(found.cells.device) // (4 * cells[0] * cells[1]))
    for number, level in enumerate(levels):
        for rows in (found.levels == number).nonzero()[:, 0].split(at_once):
            if len(rows):
                yield rows, cell_masks(level, picture, found.cells[rows], cells)


# --- matrix NMS ---


def matrix_nms(
    masks: Tensor,
    labels: Tensor,
    scores: Tensor,
    areas: Tensor | None = None,
    *,
    kernel: Kernel = "gaussian",
    sigma: float = 2.0,
) -> Tensor:
    """Scores lowered by how much better masks of the same label overlap, all at once.

    The factor of a mask is the least, over the better masks, of f(IoU with it) / f(largest IoU of that one with an even better
    one): a mask that is itself lowered lowers others less. f(IoU) is exp(-sigma * IoU^2) or 1 - IoU.

    Args: masks: (N, h, w) bool. labels, scores, areas: (N,); of equal scores the first is better.
    Returns: (N,).
    """
    if kernel not in get_args(Kernel):
        raise ValueError(f"`kernel` is one of {', '.join(get_args(Kernel))}; got {kernel!r}.")
    if len(masks) == 0:
        return scores
    order = scores.argsort(descending=True, stable=True)
    flat, ordered = masks.flatten(1)[order], labels[order]
    sizes = (flat.sum(dim=1) if areas is None else areas[order]).double()
    common = _intersections(flat)
    overlap = common / (sizes[:, None] + sizes - common).clamp(min=1)
    same = (ordered[:, None] == ordered).triu(diagonal=1)  # of a better row with a worse column
    overlap = torch.where(same, overlap, 0)
    largest = overlap.amax(dim=0)[:, None]  # with any better one
    if kernel == "gaussian":
        factors = torch.exp(-sigma * (overlap**2 - largest**2))
    else:
        factors = ((1 - overlap) / (1 - largest)).nan_to_num(nan=1.0)
    lowered = torch.empty_like(scores)
    lowered[order] = scores[order] * factors.amin(dim=0).to(scores.dtype)
    return lowered


def _intersections(flat: Tensor) -> Tensor:
    """(N, P) bool -> (N, N) float64 common pixels of each two, in so many pixels at a time as fit the budget as fp32."""
    common = torch.zeros(len(flat), len(flat), dtype=torch.float64, device=flat.device)
    for start, stop in row_strips(flat.shape[1], 4 * len(flat), strip_bytes(flat.device)):
        part = flat[:, start:stop].float()
        common += part @ part.T
    return common


# --- to the picture's size ---


class _Axis:
    """Where the pixels of one side lie between the cells of a map of which `covered` cells are the picture."""

    def __init__(self, num_cells: int, covered: float, num_pixels: int, device: torch.device) -> None:
        position = (torch.arange(num_pixels, dtype=torch.float64) + 0.5) * (covered / num_pixels) - 0.5
        position = position.clamp(0, num_cells - 1)
        before = position.floor()
        self._before: list[int] = before.long().tolist()
        self.before = before.long().to(device)
        self.after = (self.before + 1).clamp(max=num_cells - 1)
        self.fraction = (position - before).float().to(device)

    def seeing(self, start: int, stop: int) -> tuple[int, int]:
        """The pixels, from and to, whose value depends on one of the cells start..stop - 1."""
        return bisect_left(self._before, start - 1), bisect_right(self._before, stop - 1)


class _Upsampling:
    """Bilinear, as `F.interpolate` has it, of that part of a map that is not zero after a threshold.

    Args: cells, covered, size: see `grid_instances`.
    """

    def __init__(self, cells: Size, covered: tuple[float, float], size: Size, device: torch.device) -> None:
        self.rows, self.columns = (_Axis(*side, device) for side in zip(cells, covered, size, strict=True))

    def paste(self, mask: Tensor, probability: Tensor, span: Sequence[int], threshold: float) -> Tensor:
        """Fills a (H, W) mask where the (h, w) probabilities, upsampled, exceed the threshold.

        Args: span: xyxy of the cells that do; elsewhere no pixel can.
        Returns: (4,) xyxy of the mask; zeros if it is empty.
        """
        top, bottom = self.rows.seeing(span[1], span[3])
        left, right = self.columns.seeing(span[0], span[2])
        columns = slice(left, right)
        before, after, fraction = (x[columns] for x in (self.columns.before, self.columns.after, self.columns.fraction))
        budget = strip_bytes(mask.device)
        for start, stop in row_strips(bottom - top, 4 * max(1, right - left), budget) if bottom > top else ():
            rows = slice(top + start, top + stop)
            first, second = (probability.index_select(0, x[rows]) for x in (self.rows.before, self.rows.after))
            mixed = torch.lerp(first, second, self.rows.fraction[rows, None]).T.contiguous()  # (w, r)
            wide = torch.lerp(mixed.index_select(0, before), mixed.index_select(0, after), fraction[:, None])
            mask[rows, columns] = wide.T.gt(threshold)
        box = (
            mask_boxes(mask[None, top:bottom, columns])[0]
            if bottom > top and right > left
            else mask.new_zeros(4).float()
        )
        return torch.where(box[2] > box[0], box + box.new_tensor([left, top, left, top]), 0)
