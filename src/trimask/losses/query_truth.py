"""Targets as queries are to answer them: for each question, which segments are masks and which pixels nobody knows.

Source: own; the rules of the papers' data loaders (detectron2's and Mask2Former's dataset mappers, MIT and Apache-2.0) are:

| question | one mask is | elsewhere | here |
|---|---|---|---|
| "semantic" | all pixels of a class | unlabelled pixels are negatives of every mask | they are unknown |
| "instances" | one thing | crowds are dropped, so that they are negatives | they are unknown |
| "panoptic" | one segment | both | both unknown |

What is unknown reaches neither the matching nor the losses. Of the instance question stuff is known to be no instance; pixels of
no segment are background if the data annotates things alone, as COCO's instances, and else unknown.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from trimask.losses.points import UNKNOWN
from trimask.types import Target

Question = Literal["semantic", "instances", "panoptic"]
Unlabelled = Literal["unknown", "background"]

_NOBODY, _ABSENT = -1, -3  # a known pixel of no mask; and a pixel of a layer in which no segment lies


@dataclass(frozen=True)
class QueryTruth:
    """The masks of a batch, as maps of their rows.

    Attributes:
        rows: (B, L, H, W) int32; row of the mask, -1 where there is none, `UNKNOWN` (in the first layer) where nobody knows.
        labels: one (M,) int64 a picture.
    """

    rows: Tensor
    labels: tuple[Tensor, ...]

    @cached_property
    def framed(self) -> Tensor:
        """(B, L, H + 2, W + 2) the rows in a frame of -1: what lies beyond the border is in no mask."""
        return F.pad(self.rows, (1, 1, 1, 1), value=_NOBODY)

    @cached_property
    def unknown(self) -> Tensor | None:
        """(B, H, W) bool; None if everything is known. Another device than the CPU is not asked, as it would be waited for."""
        unknown = self.rows[:, 0] == UNKNOWN
        return None if unknown.is_cpu and not unknown.any() else unknown

    @property
    def counts(self) -> list[int]:
        return [len(labels) for labels in self.labels]


@dataclass(frozen=True)
class TruthRule:
    """How targets become masks.

    Attributes:
        question: see above.
        things: labels of countable classes; None if all are.
        unlabelled: what a pixel of no segment is.
        ignore_index: label of segments that are as good as unlabelled.
    """

    question: Question
    things: frozenset[int] | None = None
    unlabelled: Unlabelled = "unknown"
    ignore_index: int = 255

    def __post_init__(self) -> None:
        if self.question not in get_args(Question):
            raise ValueError(f"The question is one of {', '.join(get_args(Question))}; got {self.question!r}.")
        if self.unlabelled not in get_args(Unlabelled):
            raise ValueError(f"`unlabelled` is one of {', '.join(get_args(Unlabelled))}; got {self.unlabelled!r}.")

    def __call__(self, targets: Sequence[Target], num_classes: int) -> QueryTruth:
        """Targets of one size, that of the padded pictures.

        Raises:
            ValueError: a label that the network does not have, or targets of several sizes.
        """
        if len({target.size for target in targets}) > 1:
            raise ValueError(f"Targets of one batch have one size; got {sorted({t.size for t in targets})}.")
        tables, kept = [], []
        for labels, crowd in _on_host(targets):
            self._check(labels, num_classes)
            table, found = self._codes(labels, crowd)
            tables.append(table)
            kept.append(found)
        codes = _looked_up(targets, tables, top_only=self.question == "semantic")
        rows = codes.masked_fill(codes < 0, _NOBODY)
        rows[:, 0][self._unknown(codes)] = UNKNOWN
        device = rows.device
        truth = QueryTruth(rows, tuple(torch.tensor(found, dtype=torch.int64, device=device) for found in kept))
        hidden = self.question == "semantic" and any(len(target.segments) > 1 for target in targets)
        return _without_hidden(truth) if hidden else truth

    def _check(self, labels: Sequence[int], num_classes: int) -> None:
        known = [label for label in labels if label != self.ignore_index]
        if known and not 0 <= min(known) <= max(known) < num_classes:
            raise ValueError(
                f"A target has labels {min(known)}..{max(known)}, but the network has the classes 0..{num_classes - 1}; "
                "build it with the number of classes of the data."
            )

    def _codes(self, labels: Sequence[int], crowd: Sequence[bool]) -> tuple[list[int], list[int]]:
        """Of one picture: what each id means, 0 first, and the label of each row."""
        codes = [_ABSENT]
        found: list[int] = []
        row_of_class: dict[int, int] = {}
        for label, is_crowd in zip(labels, crowd, strict=True):
            if label == self.ignore_index:
                codes.append(_ABSENT)
            elif self.question == "semantic":
                row = row_of_class.setdefault(label, len(row_of_class))
                codes.append(row)
            elif self.question == "instances" and self.things is not None and label not in self.things:
                codes.append(_NOBODY)
            elif is_crowd:
                codes.append(UNKNOWN)
            else:
                codes.append(len(found))
                found.append(label)
        return codes, list(row_of_class) if self.question == "semantic" else found

    def _unknown(self, codes: Tensor) -> Tensor:
        """(B, L, H, W) -> (B, H, W): no mask lies there, and either a crowd does or nothing at all."""
        if codes.shape[1] == 1:
            code = codes[:, 0]
            return (code == UNKNOWN) | (code == _ABSENT) if self.unlabelled == "unknown" else code == UNKNOWN
        unknown = (codes == UNKNOWN).any(dim=1)
        if self.unlabelled == "unknown":
            unknown |= (codes == _ABSENT).all(dim=1)
        return unknown & (codes < 0).all(dim=1)


def _on_host(targets: Sequence[Target]) -> list[tuple[list[int], list[bool]]]:
    """(labels, is_crowd) of each picture; the device is waited for once."""
    both = torch.stack([torch.cat([t.labels for t in targets]), torch.cat([t.is_crowd for t in targets]).long()])
    parts = both.cpu().split([len(target.labels) for target in targets], dim=1)
    return [(part[0].tolist(), part[1].bool().tolist()) for part in parts]


def _looked_up(targets: Sequence[Target], tables: Sequence[Sequence[int]], *, top_only: bool) -> Tensor:
    """(B, L, H, W) int32: the ids of all pictures by their tables; of the topmost layer alone where that is asked for."""
    layers = max(len(target.segments) for target in targets)
    ids = torch.stack([F.pad(t.segments, (0, 0, 0, 0, 0, layers - len(t.segments))) for t in targets]).int()
    if top_only:
        top = ids[:, 0]
        for layer in ids[:, 1:].unbind(1):
            top = torch.where(layer > 0, layer, top)
        ids = top[:, None]
    starts = list(accumulate((len(table) for table in tables[:-1]), initial=0))
    ids = ids + torch.tensor(starts, dtype=ids.dtype, device=ids.device)[:, None, None, None]
    table = torch.tensor([code for codes in tables for code in codes], dtype=torch.int32, device=ids.device)
    return table.index_select(0, ids.flatten()).view_as(ids)


def _without_hidden(truth: QueryTruth) -> QueryTruth:
    """Classes that others cover altogether have no mask."""
    rows, labels = truth.rows.clone(), []
    for picture, names in zip(rows, truth.labels, strict=True):
        seen = torch.bincount((picture.flatten() - UNKNOWN).long(), minlength=len(names) - UNKNOWN)[-UNKNOWN:] > 0
        new = torch.cat([seen.new_tensor([0, 0], dtype=torch.int32), seen.cumsum(0).int()]) - 1
        new[0], new[1] = UNKNOWN, _NOBODY
        picture.copy_(new[(picture - UNKNOWN).long()])
        labels.append(names[seen])
    return QueryTruth(rows, tuple(labels))


def rule_for(question: Question, things: Collection[int], num_classes: int, ignore_index: int) -> TruthRule:
    """The rule for data of these classes: without stuff, what is no instance is background."""
    alone = question == "instances" and len(things) == num_classes
    return TruthRule(question, frozenset(things), "background" if alone else "unknown", ignore_index)
