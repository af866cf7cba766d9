"""The criterion for `RegionDraft`: boxes of the two stages are matched with objects, some are drawn, and five losses measured.

Source: Faster R-CNN (Ren et al., NeurIPS 2015, arXiv:1506.01497) and Mask R-CNN (He et al., ICCV 2017, arXiv:1703.06870); rules
and numbers are those of torchvision's `RegionProposalNetwork` and `RoIHeads` (BSD-3), read and written anew. Random samples are
drawn in the same order, so that from the same seed all losses are equal (tests/losses/test_region.py). Those of detectron2 and
mmdetection (Apache-2.0): `smooth=0, whole_cells=True`.

**Deviations**
- A box that lies mostly within crowds and shows no object is neither positive nor negative; the others drop crowds, so that what
  they show counts as background.
- Masks of the truth are read from the id layers, see `losses.region_truth`.
- detectron2 divides the first stage's losses by the number of samples that there should be, here by how many there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import box_iou

from trimask.decode.boxes import Weights, encode_boxes
from trimask.losses.region_truth import RegionRule, RegionTruth
from trimask.outputs import RegionDraft
from trimask.types import ClassSpec, Target

NEGATIVE, UNUSED = -1, -2  # instead of the row of an object
PROPOSAL_WEIGHTS: Weights = (1.0, 1.0, 1.0, 1.0)  # of the first stage's deltas
BOX_WEIGHTS: Weights = (10.0, 10.0, 5.0, 5.0)  # and of the second's


class Chosen(NamedTuple):
    """Boxes of one picture that are learned from: which of them, (K,), and the row of each one's object, or `NEGATIVE`."""

    places: Tensor
    rows: Tensor


class RegionCriterion(nn.Module):
    """Scores a `RegionDraft`: `objectness` and `proposal_box` of the first stage, `class`, `box` and `mask` of the second.

    Losses are computed in fp32 at least. A picture without objects teaches what is background; a process that has only such
    pictures gives the same keys.

    Args:
        num_anchors, positive_anchors: drawn of each picture in the first stage, and the share of positive ones at most.
        anchor_overlap: an anchor with a smaller IoU than the first number is negative, from the second one on positive, and so
            is the best one of each object.
        num_boxes, positive_boxes: the same of the second stage.
        box_overlap: a proposal is positive from this IoU on, and else negative.
        smooth: where the L1 loss of deltas becomes quadratic; 0 for nowhere.
        whole_cells: a cell of a mask is taught 1 if at least half of it is covered, else 0; without, the share that is covered.
        ignore_index: label of segments that count as unlabelled.
    """

    def __init__(
        self,
        *,
        num_anchors: int = 256,
        positive_anchors: float = 0.5,
        anchor_overlap: tuple[float, float] = (0.3, 0.7),
        num_boxes: int = 512,
        positive_boxes: float = 0.25,
        box_overlap: float = 0.5,
        smooth: float = 1 / 9,
        whole_cells: bool = False,
        ignore_index: int = 255,
    ) -> None:
        super().__init__()
        if min(num_anchors, num_boxes) < 1 or smooth < 0:
            raise ValueError(
                f"`num_anchors` and `num_boxes` are at least 1, `smooth` at least 0; got {num_anchors}, {num_boxes}, {smooth}."
            )
        shares = (positive_anchors, *anchor_overlap, positive_boxes, box_overlap)
        if not all(0 <= share <= 1 for share in shares) or anchor_overlap[0] > anchor_overlap[1]:
            raise ValueError(f"Shares and overlaps lie in 0..1, and `anchor_overlap` rises; got {shares}.")
        self.num_anchors, self.positive_anchors, self.anchor_overlap = num_anchors, positive_anchors, anchor_overlap
        self.num_boxes, self.positive_boxes, self.box_overlap = num_boxes, positive_boxes, box_overlap
        self.smooth, self.whole_cells = smooth, whole_cells
        self.rule = RegionRule(ignore_index=ignore_index)

    def set_question(self, question: str, classes: ClassSpec) -> None:
        """Told once by the task: which classes are countable."""
        self.rule = RegionRule(classes.things, classes.ignore_index)

    def forward(self, output: RegionDraft, targets: Sequence[Target]) -> dict[str, Tensor]:
        """The loss is the sum of the answer.

        Raises:
            ValueError: a target has a class that the network does not have.
        """
        truths = self.rule(targets, output.num_classes)
        return self._first_stage(output, truths) | self._second_stage(output, truths)

    # --- first stage ---

    def _first_stage(self, draft: RegionDraft, truths: Sequence[RegionTruth]) -> dict[str, Tensor]:
        anchors = torch.cat(draft.anchors)
        logits = in_full(torch.cat(draft.logits, dim=1))  # (B, K)
        deltas = in_full(torch.cat(draft.deltas, dim=1))
        chosen = [self._chosen_anchors(anchors, truth) for truth in truths]
        positive = [one.rows >= 0 for one in chosen]
        said = torch.cat([row[one.places] for row, one in zip(logits, chosen, strict=True)])
        objectness = F.binary_cross_entropy_with_logits(said, torch.cat(positive).to(said.dtype), reduction="sum")
        offered, wanted = [], []
        for delta, truth, one, good in zip(deltas, truths, chosen, positive, strict=True):
            offered.append(delta[one.places[good]])
            wanted.append(
                encode_boxes(truth.boxes[one.rows[good]].to(anchors), anchors[one.places[good]], PROPOSAL_WEIGHTS)
            )
        box = self._distance(torch.cat(offered), torch.cat(wanted))
        count = max(len(said), 1)
        return {"objectness": objectness / count, "proposal_box": box / count}

    @torch.no_grad()
    def _chosen_anchors(self, anchors: Tensor, truth: RegionTruth) -> Chosen:
        rows = match(truth.boxes.to(anchors), anchors, *self.anchor_overlap, best_too=True)
        return draw(_without_crowds(rows, anchors, truth), self.num_anchors, self.positive_anchors)

    # --- second stage ---

    def _second_stage(self, draft: RegionDraft, truths: Sequence[RegionTruth]) -> dict[str, Tensor]:
        boxes, chosen = [], []
        for proposals, truth in zip(draft.proposals(), truths, strict=True):
            candidates = torch.cat([proposals, truth.boxes.to(proposals)])
            one = self._chosen_boxes(candidates, truth)
            boxes.append(candidates[one.places])
            chosen.append(one)
        logits, deltas = map(in_full, draft.heads.boxes(draft.levels, boxes))
        background = logits.shape[1] - 1
        labels = torch.cat([_labels(truth, one.rows, background) for truth, one in zip(truths, chosen, strict=True)])
        good = torch.where(labels < background)[0]
        wanted = [
            encode_boxes(truth.boxes[one.rows[one.rows >= 0]].to(box), box[one.rows >= 0], BOX_WEIGHTS)
            for truth, one, box in zip(truths, chosen, boxes, strict=True)
        ]
        count = max(len(labels), 1)
        return {
            "class": F.cross_entropy(logits, labels, reduction="sum") / count,
            "box": self._distance(deltas[good, labels[good]], torch.cat(wanted)) / count,
            "mask": self._mask_loss(draft, truths, boxes, chosen, labels[good]),
        }

    @torch.no_grad()
    def _chosen_boxes(self, boxes: Tensor, truth: RegionTruth) -> Chosen:
        rows = match(truth.boxes.to(boxes), boxes, self.box_overlap, self.box_overlap, best_too=False)
        return draw(_without_crowds(rows, boxes, truth), self.num_boxes, self.positive_boxes)

    def _mask_loss(
        self,
        draft: RegionDraft,
        truths: Sequence[RegionTruth],
        boxes: Sequence[Tensor],
        chosen: Sequence[Chosen],
        labels: Tensor,
    ) -> Tensor:
        """() mean over all cells of the positive boxes; also without any, a function of the network."""
        inside = [box[one.rows >= 0] for box, one in zip(boxes, chosen, strict=True)]
        logits = in_full(draft.heads.masks(draft.levels, inside, labels))
        wanted = torch.cat(
            [
                truth.masks(box, one.rows[one.rows >= 0], logits.shape[-1], aligned=draft.heads.aligned)
                for truth, box, one in zip(truths, inside, chosen, strict=True)
            ]
        )
        if self.whole_cells:
            wanted = wanted >= 0.5
        loss = F.binary_cross_entropy_with_logits(logits, wanted.to(logits.dtype), reduction="sum")
        return loss / max(logits.numel(), 1)

    def _distance(self, offered: Tensor, wanted: Tensor) -> Tensor:
        """() summed over all boxes."""
        if self.smooth == 0:
            return F.l1_loss(offered, wanted.to(offered.dtype), reduction="sum")
        return F.smooth_l1_loss(offered, wanted.to(offered.dtype), reduction="sum", beta=self.smooth)


def _labels(truth: RegionTruth, rows: Tensor, background: int) -> Tensor:
    """(K,) class of each row's object."""
    return torch.cat([truth.labels, truth.labels.new_tensor([background])])[rows]  # NEGATIVE is the last


def _without_crowds(rows: Tensor, boxes: Tensor, truth: RegionTruth) -> Tensor:
    if truth.crowds is None:
        return rows
    return torch.where((rows == NEGATIVE) & truth.is_crowded(boxes), UNUSED, rows)


def match(objects: Tensor, boxes: Tensor, low: float, high: float, *, best_too: bool) -> Tensor:
    """(M, 4) and (N, 4) -> (N,) row of the object that each box overlaps most; `NEGATIVE` below `low`, `UNUSED` below `high`.

    Args: best_too: the boxes that overlap an object most are no less positive for an overlap below `high`.
    """
    if len(objects) == 0:
        return torch.full((len(boxes),), NEGATIVE, device=boxes.device)
    overlap = box_iou(objects, boxes)
    most, rows = overlap.max(dim=0)
    matched = torch.where(most < high, UNUSED, rows).masked_fill_(most < low, NEGATIVE)
    if best_too:
        best = ((overlap == overlap.max(dim=1, keepdim=True).values) & (overlap > 0)).any(dim=0)
        matched = torch.where(best, rows, matched)
    return matched


def draw(rows: Tensor, count: int, share: float) -> Chosen:
    """Of boxes with the row of an object, or `NEGATIVE`, so many at random; positive ones up to this share."""
    positive, negative = torch.where(rows >= 0)[0], torch.where(rows == NEGATIVE)[0]
    num_positive = min(len(positive), int(count * share))
    num_negative = min(len(negative), count - num_positive)
    order = torch.randperm(len(positive), device=rows.device), torch.randperm(len(negative), device=rows.device)
    places = torch.cat([positive[order[0][:num_positive]], negative[order[1][:num_negative]]]).sort().values
    return Chosen(places, rows[places])


def in_full(x: Tensor) -> Tensor:
    """In fp32 at least."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
