"""Boxes, each with a class and a small mask: what two-stage detectors answer in evaluation, and their draft of it in training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol

from torch import Tensor

from trimask.decode.boxes import best_proposals
from trimask.decode.regions import region_instances
from trimask.types import ClassSpec, Instances, Size


class SecondStage(Protocol):
    """What a `RegionDraft` lets its criterion ask of the network about boxes; see `layers.regions.RegionHeads`."""

    aligned: bool

    def boxes(self, levels: Sequence[Tensor], boxes: Sequence[Tensor]) -> tuple[Tensor, Tensor]: ...

    def masks(self, levels: Sequence[Tensor], boxes: Sequence[Tensor], labels: Tensor) -> Tensor: ...


FEW = 16  # proposals of a picture whose second stage stands for that of all, where tensors are compared


@dataclass(frozen=True)
class RegionDraft:
    """What a two-stage detector answers in training: its first stage, and the second for the boxes that a criterion chooses.

    Attributes:
        logits, deltas, anchors: (B, K), (B, K, 4) and (K, 4) of each level of the pyramid; deltas as in `decode.boxes`.
        levels: (B, D, h, w) of the pyramid that the second stage looks at.
        size: (height, width) of the pictures.
        heads: the second stage.
        num_classes: C.
        per_level, in_all, overlap: see `decode.boxes.best_proposals`.
    """

    logits: tuple[Tensor, ...]
    deltas: tuple[Tensor, ...]
    anchors: tuple[Tensor, ...]
    levels: tuple[Tensor, ...]
    size: Size
    heads: SecondStage
    num_classes: int
    per_level: int
    in_all: int
    overlap: float

    def __len__(self) -> int:
        return len(self.logits[0])

    def proposals(self) -> list[Tensor]:
        """(P, 4) boxes of each picture, best first, without a gradient."""
        return best_proposals(
            self.logits,
            self.deltas,
            self.anchors,
            self.size,
            per_level=self.per_level,
            in_all=self.in_all,
            overlap=self.overlap,
        )

    def tensors(self) -> list[Tensor]:
        """Both stages, the second for the best few proposals: class logits, deltas, and the mask of each one's best class."""
        proposals = [boxes[:FEW] for boxes in self.proposals()]
        classes, deltas = self.heads.boxes(self.levels, proposals)
        masks = self.heads.masks(self.levels, proposals, classes[:, :-1].argmax(dim=1))
        return [*self.logits, *self.deltas, classes, deltas, masks]


@dataclass(frozen=True)
class RegionOutput:
    """Boxes with a class, a score and a small mask: Mask R-CNN. Where fewer than N are found, the last rows have the score 0.

    Attributes:
        boxes: (B, N, 4) in pixels of the pictures.
        scores: (B, N) 0..1, best first.
        labels: (B, N) int64.
        masks: (B, N, m, m) logits of what lies in the boxes.
        size: (height, width) of the pictures.
        num_scores: C.
        aligned: see `decode.regions.paste_masks`.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    masks: Tensor
    size: Size
    num_scores: int
    aligned: bool = True

    aux: ClassVar[tuple[()]] = ()
    dynamic: ClassVar[bool] = True  # how much there is to compute depends on what is seen

    def __len__(self) -> int:
        return len(self.boxes)

    def picture(self, index: int) -> RegionOutput:
        """The output for one picture of the batch, still with a batch axis."""
        boxes, scores, labels, masks = (
            x[index : index + 1] for x in (self.boxes, self.scores, self.labels, self.masks)
        )
        return replace(self, boxes=boxes, scores=scores, labels=labels, masks=masks)

    def cut(self, inner: Size, outer: Size) -> RegionOutput:
        """For a picture of `inner` in the upper left of one of `outer` pixels: what is said of the inner one."""
        return replace(self, size=inner)

    def tensors(self) -> list[Tensor]:
        """What is computed: boxes, scores, masks."""
        return [self.boxes, self.scores, self.masks]

    def instances(self, size: Size, *, classes: ClassSpec, top: int = 100) -> list[Instances]:
        """The things of each picture at `size`, best score first; see `decode.regions.region_instances`."""
        options: dict[str, Any] = {"frame": self.size, "size": size, "top": top, "aligned": self.aligned}
        rows = zip(self.boxes, self.scores, self.labels, self.masks, strict=True)
        return [region_instances(*row, things=classes.things, **options) for row in rows]
