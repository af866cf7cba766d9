"""Mask and class logits of queries -> class maps, instances and panoptic segments at the picture's size. Pure functions.

Sources, read and written anew: `semantic_inference`, `instance_inference` and `panoptic_inference` of Mask2Former (Cheng et al.,
CVPR 2022, arXiv:2112.01527; facebookresearch/Mask2Former, MIT) and of MaskFormer (Cheng et al., NeurIPS 2021, arXiv:2107.06278;
facebookresearch/MaskFormer), which EoMT (tue-mps/eomt, MIT) repeats. Where they differ in the panoptic merge:

| | class score above | kept of its mask at least | which pixels a segment gets |
|---|---|---|---|
| MaskFormer | 0.8 | 0.8 | all that its query wins |
| Mask2Former, EoMT, transformers | 0.8 | 0.8 | those that it wins and that lie inside its mask (probability >= 0.5) |

Only queries that are kept are brought to the picture's size, and of those so many, or so many rows, at a time as fit into a
budget: `decode.strips.strip_bytes` of fp32 logits.

**Deviations**
- Masks go to the picture's size in one step; the official code goes by way of the network's input size.
- Instances whose mask is empty are left out (there they stay, with the score 0), and boxes are those of the masks (there they
  are zeros unless asked for).
- The score of merged stuff is that of its best query; officially segments have none.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

from trimask.decode.strips import Cells, Rows, RowUpsampling, row_strips, strip_bytes, upsample, upsample_rows, winners
from trimask.types import Instances, Panoptic, Size, mask_boxes

EPSILON = 1e-6  # of the mean over a mask, as published


# --- semantic ---


def query_score_rows(masks: Tensor, classes: Tensor, size: Size, rows: Rows, covered: Cells | None = None) -> Tensor:
    """These rows of the class scores at `size`: for each class the sum over queries of class and mask probability.

    Args: masks: (B, Q, h, w) logits. classes: (B, Q, C + 1) logits, no-object last. covered: see `strips.upsample`.
    Returns: (B, C, stop - start, W) fp32, not negative; more than 1 where several queries see the same.
    """
    probabilities = upsample_rows(masks.float(), size, rows, covered=covered).sigmoid_()
    return torch.einsum("bqc,bqhw->bchw", class_probabilities(classes), probabilities)


def query_semantic(masks: Tensor, classes: Tensor, size: Size, covered: Cells | None = None) -> Tensor:
    """(B, Q, h, w) and (B, Q, C + 1) logits -> (B, H, W) int64 winning class; full-size scores never exist."""
    num_pictures, num_queries = masks.shape[:2]
    labels = torch.empty(num_pictures, *size, dtype=torch.int64, device=masks.device)
    bytes_per_row = 4 * num_pictures * (num_queries + classes.shape[-1]) * size[1]
    weights, upsampling = class_probabilities(classes), RowUpsampling(masks, size, covered=covered)
    for rows in row_strips(size[0], bytes_per_row, strip_bytes(masks.device)):
        strip = upsampling(masks[:, :, upsampling.source(rows)].float().contiguous(), rows)
        scores = torch.einsum("bqc,bqhw->bchw", weights, strip.sigmoid())
        labels[:, slice(*rows)] = winners(scores)
    return labels


def query_probabilities(scores: Tensor) -> Tensor:
    """(B, C, H, W) class scores -> probabilities that sum to at most 1; what is missing is the share of no class."""
    return scores / scores.sum(dim=1, keepdim=True).clamp(min=1)


def class_probabilities(classes: Tensor) -> Tensor:
    """(..., C + 1) logits -> (..., C) fp32 probabilities, without that of no object."""
    return classes.float().softmax(dim=-1)[..., :-1]


# --- instances ---


def query_instances(
    masks: Tensor, classes: Tensor, size: Size, *, things: Collection[int], top: int = 100, covered: Cells | None = None
) -> Instances:
    """The `top` best pairs of query and class, of which the things are kept; one query may stand for several classes.

    A score is the class probability times the mean mask probability inside the mask.

    Args: masks: (Q, h, w) logits. classes: (Q, C + 1) logits, no-object last. covered: see `strips.upsample`.
    """
    scores, queries, labels = _best_pairs(classes, things, top)
    used, place = queries.unique(return_inverse=True)
    inside, certainty = _full_masks(masks[used], size, covered)
    scores = scores * certainty[place]
    order = scores.argsort(descending=True, stable=True)
    boxes = mask_boxes(inside)
    order = order[(boxes[place[order], 2] > boxes[place[order], 0])]  # not the empty ones
    return Instances(inside[place[order]], labels[order], scores[order], boxes[place[order]])


def _best_pairs(classes: Tensor, things: Collection[int], top: int) -> tuple[Tensor, Tensor, Tensor]:
    """(N,) score, query and label of the best pairs whose label is a thing."""
    probabilities = class_probabilities(classes)
    scores, pairs = probabilities.flatten().topk(min(top, probabilities.numel()))
    queries, labels = pairs // probabilities.shape[1], pairs % probabilities.shape[1]
    keep = torch.isin(labels, torch.tensor(sorted(things), device=labels.device, dtype=labels.dtype))
    return scores[keep], queries[keep], labels[keep]


def _full_masks(masks: Tensor, size: Size, covered: Cells | None) -> tuple[Tensor, Tensor]:
    """(N, h, w) logits -> (N, H, W) bool, and (N,) mean probability inside; so many at a time as fit the budget."""
    inside = torch.empty(len(masks), *size, dtype=torch.bool, device=masks.device)
    certainty = torch.empty(len(masks), device=masks.device)
    at_once = max(1, strip_bytes(masks.device) // (4 * size[0] * size[1]))
    for start in range(0, len(masks), at_once):
        chunk = slice(start, start + at_once)
        logits = upsample(masks[chunk, None].float(), size, covered=covered)[:, 0]
        inside[chunk] = logits > 0
        certain = logits.sigmoid_().mul_(inside[chunk]).sum(dim=(1, 2))
        certainty[chunk] = certain / (inside[chunk].sum(dim=(1, 2)) + EPSILON)
    return inside, certainty


# --- panoptic ---


def query_panoptic(
    masks: Tensor,
    classes: Tensor,
    size: Size,
    *,
    things: Collection[int],
    score_threshold: float = 0.8,
    overlap_threshold: float = 0.8,
    inside_only: bool = True,
    covered: Cells | None = None,
) -> Panoptic:
    """Each pixel to the query that is most certain of it; segments that others have mostly covered are removed.

    Args:
        masks, classes, covered: as for `query_instances`.
        things: labels of which every query is a segment of its own; those of any other label become one segment.
        score_threshold: queries take part whose best class is an object with a probability above this.
        overlap_threshold: a query that wins fewer pixels than this share of its own mask is removed; its pixels stay empty.
        inside_only: a segment gets the pixels inside its mask alone; without, all that it wins, as in MaskFormer.
    """
    scores, labels = classes.float().softmax(dim=-1).max(dim=-1)
    keep = (labels < classes.shape[-1] - 1) & (scores > score_threshold)
    scores, labels = scores[keep], labels[keep]
    if len(scores) == 0:
        return Panoptic(torch.zeros(size, dtype=torch.int32, device=masks.device), labels, scores)
    winner, inside, areas = _compete(masks[keep], scores, size, covered)
    segment_of, rows = _merge(labels.tolist(), scores.tolist(), areas.tolist(), things, overlap_threshold, inside_only)
    segments = torch.tensor(segment_of, dtype=torch.int32, device=masks.device)[winner.int()]
    if inside_only:
        segments = torch.where(inside, segments, 0)
    found = torch.tensor([label for label, _ in rows], dtype=torch.int64, device=masks.device)
    certain = torch.tensor([score for _, score in rows], dtype=torch.float32, device=masks.device)
    return Panoptic(segments, found, certain)


def _compete(masks: Tensor, scores: Tensor, size: Size, covered: Cells | None) -> tuple[Tensor, Tensor, Tensor]:
    """Which of K queries wins a pixel by score times mask probability, strip by strip.

    Returns: (H, W) int16 winner; (H, W) bool whether the pixel lies inside the winner's mask; (3, K) pixels that a query
        wins, that lie inside its mask, and both.
    """
    num_queries = len(masks)
    winner = torch.empty(size, dtype=torch.int16, device=masks.device)
    inside = torch.empty(size, dtype=torch.bool, device=masks.device)
    own = torch.zeros(num_queries, dtype=torch.int64, device=masks.device)
    upsampling = RowUpsampling(masks[None], size, covered=covered)
    for rows in row_strips(size[0], 4 * num_queries * size[1], strip_bytes(masks.device)):
        logits = upsampling(masks[None, :, upsampling.source(rows)].float().contiguous(), rows)[0]  # (K, r, W)
        probabilities = logits.sigmoid()
        own += (probabilities >= 0.5).sum(dim=(1, 2))
        best = winners((probabilities * scores[:, None, None])[None])[0]
        winner[slice(*rows)] = best
        inside[slice(*rows)] = probabilities.gather(0, best[None])[0] >= 0.5
    flat, within = winner.flatten().int(), inside.flatten()
    won = torch.bincount(flat, minlength=num_queries)
    both = torch.bincount(flat[within], minlength=num_queries)
    return winner, inside, torch.stack([won, own, both])


def _merge(
    labels: list[int],
    scores: list[float],
    areas: list[list[int]],
    things: Collection[int],
    overlap_threshold: float,
    inside_only: bool,
) -> tuple[list[int], list[tuple[int, float]]]:
    """The segment of each query, 0 for none, and (label, score) of each segment, the first of which is 1."""
    segment_of = [0] * len(labels)
    rows: list[tuple[int, float]] = []
    stuff: dict[int, int] = {}  # label -> segment
    for query, (label, score, won, own, both) in enumerate(zip(labels, scores, *areas, strict=True)):
        if won == 0 or own == 0 or (inside_only and both == 0) or won / own < overlap_threshold:
            continue
        if label in stuff:
            segment_of[query] = stuff[label]
            rows[stuff[label] - 1] = (label, max(score, rows[stuff[label] - 1][1]))
            continue
        rows.append((label, score))
        segment_of[query] = len(rows)
        if label not in things:
            stuff[label] = len(rows)
    return segment_of, rows
