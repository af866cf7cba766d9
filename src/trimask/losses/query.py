"""The criterion for `QueryOutput`: each mask of the truth is matched with one query, which is taught its class and its mask.

Sources: MaskFormer (Cheng et al., NeurIPS 2021, arXiv:2107.06278) and Mask2Former (Cheng et al., CVPR 2022, arXiv:2112.01527),
`SetCriterion` of facebookresearch/Mask2Former (MIT), which EoMT takes over; read and written anew. Defaults are those of
Mask2Former and EoMT. MaskFormer's: `class_weight=1, mask_weight=20, dice_weight=1, points=None, mask_loss="focal"`.
Equal to the losses of transformers at the same points (tests/losses/test_query.py).

Masks of the truth are never made: `losses.points` reads their values where they are needed from maps of row numbers.

**Deviations**
- Crowds, and pixels that nobody has labelled, count nowhere (see `losses.query_truth`); in the official code they are negatives.
- All layers are matched at the same points of a picture; there each layer draws its own.
- The class loss is divided by the class weights of all processes, not of each one's own, so that any number of processes learns
  the same as one. With fewer masks than processes the mask losses are divided by the number of masks; there by that of processes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, get_args

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from trimask.decode.strips import strip_bytes
from trimask.losses.matching import ALPHA, GAMMA, MaskLoss, assign, class_costs, dice_costs, mask_costs
from trimask.losses.points import UNKNOWN, all_truths_at, random_points, truth_at, uncertain_points, values_at
from trimask.losses.query_truth import QueryTruth, Question, TruthRule, Unlabelled, rule_for
from trimask.outputs import QueryOutput
from trimask.types import ClassSpec, Target


class Pairs(NamedTuple):
    """K queries and the masks that they are matched with, (K,) each: picture, query, and row in the picture's truth."""

    pictures: Tensor
    queries: Tensor
    rows: Tensor


class QueryCriterion(nn.Module):
    """Scores a `QueryOutput`: `class`, `mask` and `dice` of the last layer, and the sum of all earlier ones under `aux`.

    Matching and losses are computed in fp32 at least. A picture without masks, and a process that has only such pictures, gives
    the same keys, and gradients of 0 for the masks.

    Args:
        question: what is asked of the network; a task says it with `set_question`.
        class_weight, mask_weight, dice_weight: of the losses and, alike, of the costs in the matching.
        no_object_weight: of queries without a mask in the class loss, relative to the others.
        points: drawn of each mask; None for all pixels, and matching at the cells of the predicted masks.
        oversample, importance: see `losses.points.uncertain_points`.
        mask_loss: "cross_entropy" or "focal" (0.25, 2).
        unlabelled: what a pixel of no segment is; by default what suits the question and the data, see `losses.query_truth`.
        ignore_index: label of segments that count as unlabelled.
    """

    def __init__(
        self,
        *,
        question: Question = "panoptic",
        class_weight: float = 2.0,
        mask_weight: float = 5.0,
        dice_weight: float = 5.0,
        no_object_weight: float = 0.1,
        points: int | None = 12544,
        oversample: float = 3.0,
        importance: float = 0.75,
        mask_loss: MaskLoss = "cross_entropy",
        unlabelled: Unlabelled | None = None,
        ignore_index: int = 255,
    ) -> None:
        super().__init__()
        weights = {"class_weight": class_weight, "mask_weight": mask_weight, "dice_weight": dice_weight}
        if min(weights.values()) < 0 or not any(weights.values()) or no_object_weight < 0:
            raise ValueError(f"Weights of losses are not negative, and not all of them 0; got {weights}.")
        if points is not None and (points < 1 or oversample < 1 or not 0 <= importance <= 1):
            raise ValueError(
                "`points` is at least 1 or null, `oversample` at least 1 and `importance` lies in 0..1; got "
                f"{points}, {oversample} and {importance}."
            )
        if mask_loss not in get_args(MaskLoss):
            raise ValueError(f"`mask_loss` is one of {', '.join(get_args(MaskLoss))}; got {mask_loss!r}.")
        self.class_weight, self.mask_weight, self.dice_weight = class_weight, mask_weight, dice_weight
        self.no_object_weight, self.mask_loss = no_object_weight, mask_loss
        self.points, self.oversample, self.importance = points, oversample, importance
        self.unlabelled, self.ignore_index = unlabelled, ignore_index
        background = question == "instances" and unlabelled is None
        self.rule = TruthRule(
            question,
            unlabelled="background" if background else unlabelled or "unknown",
            ignore_index=ignore_index,
        )

    def set_question(self, question: Question, classes: ClassSpec) -> None:
        """Told once by the task: what it asks for, of which classes."""
        rule = rule_for(question, classes.things, len(classes), classes.ignore_index)
        if self.unlabelled is not None:
            rule = TruthRule(question, rule.things, self.unlabelled, classes.ignore_index)
        self.rule = rule

    def extra_repr(self) -> str:
        return f"{self.rule}, points={self.points}, mask_loss={self.mask_loss!r}"

    def forward(self, output: QueryOutput, targets: Sequence[Target]) -> dict[str, Tensor]:
        """The loss is the sum of the answer.

        Raises:
            ValueError: a target has a class that the network does not have.
        """
        with torch.autocast(output.masks.device.type, enabled=False):
            truth = self.rule(targets, output.classes.shape[-1] - 1)
            layers = [output, *output.aux]
            num_masks, class_total = self._totals(output, truth)
            values = [
                torch.stack(
                    [
                        self.class_weight * self._class_loss(layer, pairs, truth) / class_total,
                        *self._mask_losses(layer, pairs, truth) / num_masks,
                    ]
                )
                for layer, pairs in zip(layers, self._match(layers, truth), strict=True)
            ]
        answer = dict(zip(("class", "mask", "dice"), values[0].unbind(), strict=True))
        if output.aux:
            answer["aux"] = torch.stack(values[1:]).sum()
        return answer

    def _totals(self, output: QueryOutput, truth: QueryTruth) -> tuple[Tensor, Tensor]:
        """() what the mask losses and the class loss are divided by: a process's even share of all that there is."""
        num_pictures, num_queries = output.classes.shape[:2]
        matched = sum(min(num_queries, count) for count in truth.counts)
        weights = matched + self.no_object_weight * (num_pictures * num_queries - matched)
        totals = torch.tensor([sum(truth.counts), weights], dtype=torch.float64).to(
            output.masks.device, torch.promote_types(output.masks.dtype, torch.float32)
        )
        num_processes = 1
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(totals)
            num_processes = dist.get_world_size()
        num_masks, class_total = totals.unbind()
        tiny = torch.finfo(totals.dtype).tiny  # without a weight for no object there may be nothing to divide by
        return num_masks.clamp(min=1) / num_processes, class_total.clamp(min=tiny) / num_processes

    # --- matching ---

    @torch.no_grad()
    def _match(self, layers: Sequence[QueryOutput], truth: QueryTruth) -> list[Pairs]:
        """The pairs of each layer."""
        points, masks, known = self._matching_points(layers[0], truth)
        present = [picture for picture, count in enumerate(truth.counts) if count > 0]
        costs = [
            self._costs(layer, picture, points, masks[picture], known[picture], truth.labels[picture])
            for layer in layers
            for picture in present
        ]
        found = assign(costs)
        return [
            _joined(present, found[index * len(present) : (index + 1) * len(present)], truth.rows.device)
            for index in range(len(layers))
        ]

    def _matching_points(self, output: QueryOutput, truth: QueryTruth) -> tuple[Tensor | None, list[Tensor], Tensor]:
        """(B, P, 2) points, one (M, P) truth a picture, and (B, P) whether it is known. Without points, all cells."""
        like = output.masks.new_empty((), dtype=torch.promote_types(output.masks.dtype, torch.float32))
        if self.points is not None:
            points = random_points(len(output), self.points, like)
            return points, *all_truths_at(truth.framed, points, truth.counts)
        rows = F.interpolate(truth.rows.to(like.dtype), output.masks.shape[-2:], mode="nearest").flatten(2)  # (B, L, P)
        masks = [
            (picture[None] == torch.arange(count, device=rows.device)[:, None, None]).any(dim=1).to(like.dtype)
            for picture, count in zip(rows, truth.counts, strict=True)
        ]
        return None, masks, (rows[:, 0] != UNKNOWN).to(like.dtype)

    def _costs(
        self, layer: QueryOutput, picture: int, points: Tensor | None, masks: Tensor, known: Tensor, labels: Tensor
    ) -> Tensor:
        """(Q, M) of one picture."""
        logits = layer.masks[picture].to(masks.dtype)
        logits = logits.flatten(1) if points is None else values_at(logits[None], points[picture, None])[0]  # (Q, P)
        return (
            self.class_weight * class_costs(layer.classes[picture].to(masks.dtype), labels)
            + self.mask_weight * mask_costs(logits, masks, known, self.mask_loss)
            + self.dice_weight * dice_costs(logits, masks, known)
        )

    # --- losses ---

    def _class_loss(self, layer: QueryOutput, pairs: Pairs, truth: QueryTruth) -> Tensor:
        """() cross-entropy summed over all queries, each with its weight."""
        logits = layer.classes.to(torch.promote_types(layer.classes.dtype, torch.float32))
        no_object = logits.shape[-1] - 1
        classes = torch.full(logits.shape[:2], no_object, device=logits.device)
        starts = torch.tensor([0, *truth.counts[:-1]], device=logits.device).cumsum(0)
        classes[pairs.pictures, pairs.queries] = torch.cat(truth.labels)[starts[pairs.pictures] + pairs.rows]
        weight = logits.new_ones(no_object + 1)
        weight[no_object] = self.no_object_weight
        return F.cross_entropy(logits.flatten(0, 1), classes.flatten(), weight, reduction="sum")

    def _mask_losses(self, layer: QueryOutput, pairs: Pairs, truth: QueryTruth) -> Tensor:
        """(2,) weighted pixel loss and Dice loss, summed over the pairs."""
        masks = layer.masks[pairs.pictures, pairs.queries]  # with no pair still a function of the masks
        masks = masks.to(torch.promote_types(masks.dtype, torch.float32))
        weights = masks.new_tensor([self.mask_weight, self.dice_weight])
        if len(masks) == 0:
            return weights * masks.sum()
        if self.points is None:
            return weights * self._full_losses(masks, pairs, truth)
        points = uncertain_points(
            masks.detach(),
            truth.unknown,
            pairs.pictures,
            num_points=self.points,
            oversample=self.oversample,
            importance=self.importance,
        )
        values, known = truth_at(truth.framed, pairs.pictures, points, pairs.rows)

        def losses(masks: Tensor) -> Tensor:
            return self._pixel_and_dice(values_at(masks[:, None], points)[:, 0], values, known)

        # Made again for the gradient: a dozen maps of all points would otherwise be kept for each layer.
        return weights * checkpoint(losses, masks, use_reentrant=False, preserve_rng_state=False)

    def _full_losses(self, masks: Tensor, pairs: Pairs, truth: QueryTruth) -> Tensor:
        """As `_mask_losses` over all pixels; so many masks at a time as fit, which are made again for the gradient."""
        height, width = truth.rows.shape[-2:]
        at_once = max(1, strip_bytes(masks.device) // (masks.dtype.itemsize * height * width))

        def losses(chunk: Tensor, pictures: Tensor, rows: Tensor) -> Tensor:
            logits = F.interpolate(chunk[:, None], (height, width), mode="bilinear", align_corners=False).flatten(1)
            found = truth.rows[pictures].flatten(2)  # (N, L, P)
            values = (found == rows[:, None, None]).any(dim=1).to(logits.dtype)
            return self._pixel_and_dice(logits, values, (found[:, 0] != UNKNOWN).to(logits.dtype))

        chunks = zip(*(x.split(at_once) for x in (masks, pairs.pictures, pairs.rows)), strict=True)
        parts = [checkpoint(losses, *chunk, use_reentrant=False, preserve_rng_state=False) for chunk in chunks]
        return torch.stack(parts).sum(dim=0)

    def _pixel_and_dice(self, logits: Tensor, values: Tensor, known: Tensor) -> Tensor:
        """(N, P) each -> (2,) summed over the masks: the mean over known points, and 1 - Dice."""
        certain = logits.sigmoid()
        pixel = F.binary_cross_entropy_with_logits(logits, values, reduction="none")
        if self.mask_loss == "focal":
            right = certain * values + (1 - certain) * (1 - values)
            pixel = pixel * (1 - right) ** GAMMA * (ALPHA * values + (1 - ALPHA) * (1 - values))
        mean = (pixel * known).sum(dim=1) / known.sum(dim=1).clamp(min=1)
        certain, values = certain * known, values * known
        dice = 1 - (2 * (certain * values).sum(dim=1) + 1) / (certain.sum(dim=1) + values.sum(dim=1) + 1)
        return torch.stack([mean.sum(), dice.sum()])


def _joined(pictures: Sequence[int], found: Sequence[tuple[Tensor, Tensor]], device: torch.device) -> Pairs:
    """Pairs of some pictures, one behind the other."""
    if not found:
        nothing = torch.empty(0, dtype=torch.int64, device=device)
        return Pairs(nothing, nothing, nothing)
    of = [picture for picture, (queries, _) in zip(pictures, found, strict=True) for _ in range(len(queries))]
    queries, rows = (torch.cat([pair[side] for pair in found]) for side in (0, 1))
    return Pairs(torch.tensor(of, device=device), queries, rows)
