"""The criterion for `GridOutput`: a cell near an object's center of mass is taught its class and its mask, all others no class.

Source: SOLO (Wang et al., ECCV 2020, arXiv:1912.04488) and SOLOv2 (NeurIPS 2020, arXiv:2003.10152); `loss` of WXinlong/SOLO
(non-commercial licence) and mmdetection 3.3 (Apache-2.0), read for their rules and written anew. Equal to mmdetection's losses
(tests/losses/test_grid.py).

An object belongs to the levels in whose range the root of its box's area lies; the ranges overlap. There its cells are those that
its center region touches, a box around its center of mass of `center` times its own size, three a side at most. Defaults are the
ranges of both papers; those of the light forms are [1, 64], [32, 128], [64, 256], [128, 512], [256, 2048] (SOLO) and [1, 56],
[28, 112], [56, 224], [112, 448], [224, 896] (SOLOv2).

Masks of the truth are never made in full: boxes and centers come from counts along rows and columns, and a mask's values are read
from a map of row numbers at the cells of the predicted masks, the four pixels around a cell's center, as OpenCV's bilinear
reduction of a mask has it. Masks are predicted for cells that have an object, so many at a time as fit into
`decode.strips.strip_bytes`, and made again for the gradient.

**Deviations**
- Crowds, and pixels that nobody has labelled, count nowhere (see `losses.query_truth`): not in masks, and a cell whose center
  lies there is taught nothing unless it has an object; in the official code they are negatives.
- Boxes are those of the masks; officially those of the annotation.
- Losses are divided by the cells of all processes, not of each one's own, so that any number of processes learns the same as one.
- Without any object the mask loss is 0; in WXinlong's code it is nan.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from trimask.decode.grids import Filters, GridLevel, cell_masks
from trimask.decode.strips import strip_bytes
from trimask.losses.matching import ALPHA, GAMMA
from trimask.losses.points import UNKNOWN
from trimask.losses.query_truth import QueryTruth, Question, TruthRule, Unlabelled, rule_for
from trimask.outputs import GridOutput
from trimask.types import ClassSpec, Size, Target

SCALE_RANGES = ((1, 96), (48, 192), (96, 384), (192, 768), (384, 2048))  # pixels; baselines of SOLO and SOLOv2
SMOOTHING = 1e-3  # of the Dice loss, as published
Contested = Literal["all", "last"]


class Objects(NamedTuple):
    """M objects of a batch, (M,) each, but for the centers of mass and the sides of the boxes, (M, 2) in pixels, y first."""

    pictures: Tensor
    rows: Tensor
    labels: Tensor
    centers: Tensor
    sides: Tensor


class Claims(NamedTuple):
    """Cells that objects lay claim to, (K,) each, level by level and object by object: level, object, and number of the cell."""

    levels: Tensor
    objects: Tensor
    cells: Tensor


class GridCriterion(nn.Module):
    """Scores a `GridOutput`: `category`, a focal loss (0.25, 2) of all cells and classes, and `mask`, the Dice loss of masks.

    Losses are computed in fp32 at least. A picture without objects, and a process that has only such pictures, gives the same
    keys, and gradients of 0 for the masks.

    Args:
        question: what is asked of the network; a task says it with `set_question`. Grids answer "instances" alone.
        scale_ranges: (least, largest) root of the area of a box, in pixels, for each level.
        center: side of the center region, relative to the box.
        contested: of several objects that claim one cell its class is that of the last; "all" teach their masks, as in SOLOv2,
            or the "last" alone, as in SOLO.
        category_weight, mask_weight: of the losses.
        unlabelled: what a pixel of no segment is; by default what suits the data, see `losses.query_truth`.
        ignore_index: label of segments that count as unlabelled.
    """

    def __init__(
        self,
        *,
        question: Question = "instances",
        scale_ranges: Sequence[tuple[float, float]] = SCALE_RANGES,
        center: float = 0.2,
        contested: Contested = "all",
        category_weight: float = 1.0,
        mask_weight: float = 3.0,
        unlabelled: Unlabelled | None = None,
        ignore_index: int = 255,
    ) -> None:
        super().__init__()
        if min(category_weight, mask_weight) < 0 or not category_weight + mask_weight:
            raise ValueError(
                f"Weights of losses are not negative, and not both 0; got {category_weight} and {mask_weight}."
            )
        if any(low > high for low, high in scale_ranges) or not 0 <= center <= 1:
            raise ValueError(
                f"`scale_ranges` are (least, largest) and `center` lies in 0..1; got {list(scale_ranges)} and {center}."
            )
        if contested not in get_args(Contested):
            raise ValueError(f"`contested` is one of {', '.join(get_args(Contested))}; got {contested!r}.")
        self.scale_ranges, self.center, self.contested = tuple(scale_ranges), center, contested
        self.category_weight, self.mask_weight = category_weight, mask_weight
        self.unlabelled, self.ignore_index = unlabelled, ignore_index
        self.rule = TruthRule(_instances(question), unlabelled=unlabelled or "background", ignore_index=ignore_index)

    def set_question(self, question: Question, classes: ClassSpec) -> None:
        """Told once by the task: what it asks for, of which classes."""
        rule = rule_for(_instances(question), classes.things, len(classes), classes.ignore_index)
        if self.unlabelled is not None:
            rule = TruthRule(question, rule.things, self.unlabelled, classes.ignore_index)
        self.rule = rule

    def extra_repr(self) -> str:
        return f"{self.rule}, scale_ranges={self.scale_ranges}, center={self.center}, contested={self.contested!r}"

    def forward(self, output: GridOutput, targets: Sequence[Target]) -> dict[str, Tensor]:
        """The loss is the sum of the answer.

        Raises:
            ValueError: a target has a class that the network does not have, or there are not as many ranges as levels.
        """
        if len(output.levels) != len(self.scale_ranges):
            raise ValueError(
                f"The network answers {len(output.levels)} levels, and `scale_ranges` has {len(self.scale_ranges)}."
            )
        with torch.autocast(output.levels[0].categories.device.type, enabled=False):
            truth = self.rule(targets, output.num_scores)
            rows = _padded(truth.rows, output)
            sides = [level.categories.shape[-1] for level in output.levels]
            objects = find_objects(rows, truth)
            claims = claim_cells(objects, sides, (rows.shape[-2], rows.shape[-1]), self.scale_ranges, self.center)
            winners = [_winners(claims, objects, level, side, len(output)) for level, side in enumerate(sides)]
            if self.contested == "last":
                claims = _undisputed(claims, objects, winners)
            num_cells, num_processes = _over_processes(len(claims.cells), output)
            category = self._category_loss(output, objects, winners, rows) / ((num_cells + 1) / num_processes)
            mask = self._mask_loss(output, objects, claims, rows) / (num_cells.clamp(min=1) / num_processes)
        return {"category": self.category_weight * category, "mask": self.mask_weight * mask}

    def _category_loss(self, output: GridOutput, objects: Objects, winners: list[Tensor], rows: Tensor) -> Tensor:
        """() summed over the cells of all levels."""
        labels = torch.cat([objects.labels, objects.labels.new_tensor([output.num_scores])])  # the last of no object
        total: list[Tensor] = []
        for level, winner in zip(output.levels, winners, strict=True):
            logits = _precise(level.categories).movedim(1, -1)  # (B, S, S, C)
            truth = F.one_hot(labels[winner], output.num_scores + 1)[..., :-1].to(logits.dtype)
            known = (winner >= 0) | _known_centers(rows, winner.shape[-1])
            certain = logits.sigmoid()
            wrong = certain + truth - 2 * certain * truth
            weight = wrong**GAMMA * (ALPHA * truth + (1 - ALPHA) * (1 - truth)) * known[..., None]
            loss = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
            total.append((loss * weight).sum())
        return torch.stack(total).sum()

    def _mask_loss(self, output: GridOutput, objects: Objects, claims: Claims, rows: Tensor) -> Tensor:
        """() 1 - Dice summed over the claims."""
        levels = [_precise_level(level) for level in output.levels]
        values = [_nothing(level) for level in levels]
        samples = {size: _samples(rows, size) for size in {level.factors[0].size for level in levels}}
        pictures = objects.pictures[claims.objects]
        for number, level in enumerate(levels):
            size = level.factors[0].size
            at_once = max(1, strip_bytes(rows.device) // (4 * size[0] * size[1]))
            for picture in range(len(output)):
                members = ((claims.levels == number) & (pictures == picture)).nonzero()[:, 0]
                for chunk in members.split(at_once) if len(members) else ():
                    wanted = objects.rows[claims.objects[chunk]]
                    arguments = level, picture, claims.cells[chunk], samples[size][picture], wanted
                    # Made again for the gradient: the maps of all cells would otherwise be kept.
                    values.append(checkpoint(_dice_losses, *arguments, use_reentrant=False, preserve_rng_state=False))
        return torch.stack(values).sum()


def _dice_losses(level: GridLevel, picture: int, cells: Tensor, samples: Tensor, wanted: Tensor) -> Tensor:
    """() summed over (n,) cells.

    Args: samples: (L, 4, h, w) rows of the picture at the pixels around each cell's center. wanted: (n,) row of each mask.
    """
    known = (samples[0] != UNKNOWN).all(dim=0)  # (h, w)
    inside = (samples == wanted[:, None, None, None, None]).any(dim=1).sum(dim=1) >= 2
    masks = cell_masks(level, picture, cells) * known
    truth = (inside & known).to(masks.dtype)
    common, ours, theirs = ((x * y).sum(dim=(1, 2)) for x, y in ((masks, truth), (masks, masks), (truth, truth)))
    return (1 - 2 * common / (ours + theirs + 2 * SMOOTHING)).sum()


# --- truth ---


def find_objects(rows: Tensor, truth: QueryTruth) -> Objects:
    """What there is to be seen in (B, L, H, W) rows; an object without a pixel is none."""
    counts = torch.tensor(truth.counts, device=rows.device)
    total = sum(truth.counts)
    pictures = torch.arange(len(counts), device=rows.device).repeat_interleave(counts, output_size=total)
    first = counts.cumsum(0) - counts  # number of each picture's first object in the batch
    picture, _, down, right = (place := (rows >= 0).nonzero()).unbind(1)
    numbers = rows[tuple(place.unbind(1))].long() + first[picture]
    height, width = rows.shape[-2:]
    profiles = [
        torch.bincount(numbers * length + position, minlength=total * length).view(total, length)
        for position, length in ((down, height), (right, width))
    ]
    found = profiles[0].sum(dim=1) > 0
    centers, sides = zip(*(_center_and_side(profile[found]) for profile in profiles), strict=True)
    within = torch.arange(total, device=rows.device) - first[pictures]
    labels = torch.cat(truth.labels)
    return Objects(
        pictures[found], within[found], labels[found], torch.stack(centers, dim=1), torch.stack(sides, dim=1)
    )


def _center_and_side(profile: Tensor) -> tuple[Tensor, Tensor]:
    """(M, P) pixels of each object at each position -> (M,) float64 mean position and number of positions from first to last."""
    position = torch.arange(profile.shape[1], device=profile.device)
    center = (profile * position).sum(dim=1).double() / profile.sum(dim=1)
    taken = profile > 0
    last = torch.where(taken, position, -1).amax(dim=1)
    first = torch.where(taken, position, profile.shape[1]).amin(dim=1)
    return center, (last + 1 - first).double()


def claim_cells(
    objects: Objects,
    sides: Sequence[int],
    size: Size,
    scale_ranges: Sequence[tuple[float, float]],
    center: float,
) -> Claims:
    """The cells that each object claims on each level.

    Args: sides: cells a side of each level. size: pixels that the grids cover.
    """
    device = objects.centers.device
    number = torch.tensor(sides, device=device, dtype=torch.float64)[
        :, None, None
    ]  # levels, then objects, then y and x
    low, high = torch.tensor(scale_ranges, device=device, dtype=torch.float64).T[..., None]
    scale = objects.sides.prod(dim=1).sqrt()
    in_range = (scale >= low) & (scale <= high)  # (levels, M)
    pixels = torch.tensor(size, device=device, dtype=torch.float64)
    reach = objects.sides * (center / 2)
    own, least, most = (
        (place * number / pixels).floor().long()
        for place in (objects.centers, objects.centers - reach, objects.centers + reach)
    )  # (levels, M, 2)
    around = torch.arange(-1, 2, device=device)
    places = own[..., None] + around  # (levels, M, 2, 3)
    limit = number.long()[..., None]
    fits = (places >= least[..., None].clamp(min=0)) & (places <= torch.minimum(most[..., None], limit - 1))
    claimed = fits[:, :, 0, :, None] & fits[:, :, 1, None, :] & in_range[..., None, None]
    level, object_, row, column = claimed.nonzero().unbind(1)
    down, right = places[level, object_, 0, row], places[level, object_, 1, column]
    return Claims(level, object_, down * torch.tensor(sides, device=device)[level] + right)


def _winners(claims: Claims, objects: Objects, level: int, side: int, num_pictures: int) -> Tensor:
    """(B, S, S) of one level: the last object that claims a cell; -1 where none does."""
    mine = claims.levels == level
    place = objects.pictures[claims.objects[mine]] * side * side + claims.cells[mine]
    winners = torch.full((num_pictures * side * side,), -1, device=place.device)
    return winners.scatter_reduce_(0, place, claims.objects[mine], "amax").view(num_pictures, side, side)


def _undisputed(claims: Claims, objects: Objects, winners: list[Tensor]) -> Claims:
    """Those of the objects that win their cells."""
    wins = torch.zeros_like(claims.cells, dtype=torch.bool)
    for level, winner in enumerate(winners):
        mine = claims.levels == level
        owner = winner.flatten(1)[objects.pictures[claims.objects[mine]], claims.cells[mine]]
        wins[mine] = owner == claims.objects[mine]
    return Claims(*(field[wins] for field in claims))


def _padded(rows: Tensor, output: GridOutput) -> Tensor:
    """(B, L, H, W) rows at the size that the grids cover; nothing lies in what is added."""
    height, width = (output.cell * side for side in output.levels[0].factors[0].size)
    return F.pad(rows, (0, width - rows.shape[-1], 0, height - rows.shape[-2]), value=-1)


def _samples(rows: Tensor, size: Size) -> Tensor:
    """(B, L, H, W) -> (B, L, 4, h, w): the pixels around the center of each cell; for cells of one pixel four times that."""
    steps = [whole // cells for whole, cells in zip(rows.shape[-2:], size, strict=True)]
    starts = [((step - 1) // 2, step // 2) for step in steps]
    return torch.stack([rows[..., y :: steps[0], x :: steps[1]] for y in starts[0] for x in starts[1]], dim=2)


def _known_centers(rows: Tensor, side: int) -> Tensor:
    """(B, S, S) whether it is known what lies at the center of a cell."""
    down, right = (
        ((torch.arange(side, device=rows.device) + 0.5) * (length / side)).long() for length in rows.shape[-2:]
    )
    return rows[:, 0][:, down[:, None], right] != UNKNOWN


# --- outputs ---


def _precise(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _precise_level(level: GridLevel) -> GridLevel:
    factors = tuple(Filters(_precise(f.maps), f.weights, f.bias, f.scale) for f in level.factors)
    return GridLevel(level.categories, factors, level.stride)


def _nothing(level: GridLevel) -> Tensor:
    """() 0, still a function of everything that masks are made of, so that each process has all gradients."""
    parts = [part for f in level.factors for part in (f.maps, f.weights, f.bias) if part is not None]
    return torch.stack([_precise(part[:0]).sum() for part in parts]).sum()


def _over_processes(count: int, output: GridOutput) -> tuple[Tensor, int]:
    """() the sum of all processes' counts, and how many there are."""
    like = _precise(output.levels[0].categories)
    total = like.new_tensor(float(count))
    if not (dist.is_available() and dist.is_initialized()):
        return total, 1
    dist.all_reduce(total)
    return total, dist.get_world_size()


def _instances(question: Question) -> Question:
    if question != "instances":
        raise ValueError(f'Grids answer "instances" alone; got the question {question!r}.')
    return question
