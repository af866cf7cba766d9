"""What networks answer with. An output knows how to answer the questions that it can answer:
`.semantic`, `.instances`, `.panoptic`. Tasks ask; they never look at the kind of output.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from trimask.decode.dense import dense_probabilities, dense_semantic
from trimask.decode.queries import (
    query_instances,
    query_panoptic,
    query_probabilities,
    query_score_rows,
    query_semantic,
)
from trimask.decode.strips import Rows, upsample_rows
from trimask.types import ClassSpec, Instances, Panoptic, SemanticMap, Size


@dataclass(frozen=True)
class DenseOutput:
    """One score a class and feature cell: FCN, U-Net, DeepLab, SegFormer, ...

    Attributes:
        logits: (B, C, h, w), usually smaller than the picture; C = 1 is the sigmoid way of saying two classes (the
            logit of class 1 against class 0).
        aux: logits of auxiliary heads, each (B, C, h', w'); empty in evaluation mode.
        align_corners: how the logits are brought to the picture's size, here and in the losses.
    """

    logits: Tensor
    aux: tuple[Tensor, ...] = ()
    align_corners: bool = False

    def __len__(self) -> int:
        return len(self.logits)

    def picture(self, index: int) -> DenseOutput:
        """The output for one picture of the batch, still with a batch axis."""
        return replace(self, logits=self.logits[index : index + 1], aux=tuple(a[index : index + 1] for a in self.aux))

    def cut(self, inner: Size, outer: Size) -> DenseOutput:
        """For a picture of `inner` in the upper left of one of `outer` pixels: what is said of the inner one; see `cut_maps`."""
        return DenseOutput(cut_maps(self.logits, inner, outer), align_corners=self.align_corners)

    @property
    def num_scores(self) -> int:
        return self.logits.shape[1]

    def score_rows(self, size: Size, rows: Rows) -> Tensor:
        """(B, C, stop - start, W) fp32 logits of these rows of the pictures at `size`: what windows are blended from."""
        return upsample_rows(self.logits.float(), size, rows, self.align_corners)

    def probabilities(self, scores: Tensor) -> Tensor:
        """Logits of any size -> class probabilities; one logit gives the two classes 0 and 1."""
        return dense_probabilities(scores)

    def semantic(self, size: Size, *, scores: bool = False) -> list[SemanticMap]:
        """One class map a picture at `size`. The full-size probabilities exist only if `scores` asks for them."""
        if not scores:
            return [SemanticMap(labels) for labels in dense_semantic(self.logits, size, self.align_corners)]
        probabilities = self.probabilities(self.score_rows(size, (0, size[0])))  # (B, C, H, W)
        confidence, labels = probabilities.max(dim=1)
        return [SemanticMap(*row) for row in zip(labels, probabilities, confidence, strict=True)]


@dataclass(frozen=True)
class QueryOutput:
    """A mask and a class for each of Q queries: MaskFormer, Mask2Former, EoMT. It answers all three questions.

    Attributes:
        masks: (B, Q, h, w) mask logits, usually smaller than the picture.
        classes: (B, Q, C + 1) class logits; the last says that the query sees no object.
        aux: the same of earlier layers, the first one first; empty in evaluation mode.
    """

    masks: Tensor
    classes: Tensor
    aux: tuple[QueryOutput, ...] = ()

    align_corners: ClassVar[bool] = False  # how masks are brought to the picture's size

    def __len__(self) -> int:
        return len(self.masks)

    def picture(self, index: int) -> QueryOutput:
        """The output for one picture of the batch, still with a batch axis."""
        only = slice(index, index + 1)
        return QueryOutput(self.masks[only], self.classes[only], tuple(layer.picture(index) for layer in self.aux))

    def cut(self, inner: Size, outer: Size) -> QueryOutput:
        """For a picture of `inner` in the upper left of one of `outer` pixels: what is said of the inner one; see `cut_maps`."""
        return QueryOutput(cut_maps(self.masks, inner, outer), self.classes)

    @property
    def num_scores(self) -> int:
        return self.classes.shape[-1] - 1

    def score_rows(self, size: Size, rows: Rows) -> Tensor:
        """(B, C, stop - start, W) class scores of these rows of the pictures at `size`: what windows are blended from."""
        return query_score_rows(self.masks, self.classes, size, rows)

    def probabilities(self, scores: Tensor) -> Tensor:
        """Class scores of any size -> class probabilities, which sum to less than 1 where no query sees anything."""
        return query_probabilities(scores)

    def semantic(self, size: Size, *, scores: bool = False) -> list[SemanticMap]:
        """One class map a picture at `size`. The full-size probabilities exist only if `scores` asks for them."""
        if not scores:
            return [SemanticMap(labels) for labels in query_semantic(self.masks, self.classes, size)]
        probabilities = self.probabilities(self.score_rows(size, (0, size[0])))  # (B, C, H, W)
        confidence, labels = probabilities.max(dim=1)
        return [SemanticMap(*row) for row in zip(labels, probabilities, confidence, strict=True)]

    def instances(self, size: Size, *, classes: ClassSpec, top: int = 100) -> list[Instances]:
        """The things of each picture at `size`, best score first; see `decode.queries.query_instances`."""
        pairs = zip(self.masks, self.classes, strict=True)
        return [query_instances(*pair, size, things=classes.things, top=top) for pair in pairs]

    def panoptic(
        self,
        size: Size,
        *,
        classes: ClassSpec,
        score_threshold: float = 0.8,
        overlap_threshold: float = 0.8,
        inside_only: bool = True,
    ) -> list[Panoptic]:
        """Things and stuff of each picture at `size`, without overlap; see `decode.queries.query_panoptic`."""
        return [
            query_panoptic(
                *pair,
                size,
                things=classes.things,
                score_threshold=score_threshold,
                overlap_threshold=overlap_threshold,
                inside_only=inside_only,
            )
            for pair in zip(self.masks, self.classes, strict=True)
        ]


def cut_maps(maps: Tensor, inner: Size, outer: Size) -> Tensor:
    """(B, C, h, w) maps of `outer` pixels -> those of the `inner` pixels in the upper left.

    Raises:
        ValueError: a cell lies on the border of the two.
    """
    height, width = (side * cells / whole for side, cells, whole in zip(inner, maps.shape[-2:], outer, strict=True))
    if height % 1 or width % 1:
        raise ValueError(
            f"Maps of {maps.shape[-2]} x {maps.shape[-1]} cells over {outer[0]} x {outer[1]} pixels cannot be cut at "
            f"{inner[0]} x {inner[1]}; set `inference.multiple_of` to the pixels of a cell."
        )
    return maps[..., : int(height), : int(width)]


# torch.export looks inside an output only after it has been told what it is made of.
torch.export.register_dataclass(DenseOutput)
torch.export.register_dataclass(QueryOutput)
