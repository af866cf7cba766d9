"""A mask and a class for each of a number of queries."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from trimask.decode.queries import (
    query_instances,
    query_panoptic,
    query_probabilities,
    query_score_rows,
    query_semantic,
)
from trimask.decode.strips import Cells, Rows, covered_cells
from trimask.types import ClassSpec, Instances, Panoptic, SemanticMap, Size


@dataclass(frozen=True)
class QueryOutput:
    """A mask and a class for each of Q queries: MaskFormer, Mask2Former, EoMT. It answers all three questions.

    Attributes:
        masks: (B, Q, h, w) mask logits, usually smaller than the picture.
        classes: (B, Q, C + 1) class logits; the last says that the query sees no object.
        aux: the same of earlier layers, the first one first; empty in evaluation mode.
        covered: (height, width) of the picture in cells of the masks, in their upper left, where it was padded; else all.
    """

    masks: Tensor
    classes: Tensor
    aux: tuple[QueryOutput, ...] = ()
    covered: Cells | None = None

    align_corners: ClassVar[bool] = False  # how masks are brought to the picture's size

    def __len__(self) -> int:
        return len(self.masks)

    def picture(self, index: int) -> QueryOutput:
        """The output for one picture of the batch, still with a batch axis."""
        only = slice(index, index + 1)
        aux = tuple(layer.picture(index) for layer in self.aux)
        return replace(self, masks=self.masks[only], classes=self.classes[only], aux=aux)

    def cut(self, inner: Size, outer: Size) -> QueryOutput:
        """For a picture of `inner` in the upper left of one of `outer` pixels: what is said of the inner one."""
        return replace(self, aux=(), covered=covered_cells(self.masks, inner, outer, self.covered))

    def tensors(self) -> list[Tensor]:
        """What is computed: masks and classes, then those of earlier layers."""
        return [logits for layer in (self, *self.aux) for logits in (layer.masks, layer.classes)]

    @property
    def num_scores(self) -> int:
        return self.classes.shape[-1] - 1

    def score_rows(self, size: Size, rows: Rows) -> Tensor:
        """(B, C, stop - start, W) class scores of these rows of the pictures at `size`: what windows are blended from."""
        return query_score_rows(self.masks, self.classes, size, rows, self.covered)

    def probabilities(self, scores: Tensor) -> Tensor:
        """Class scores of any size -> class probabilities, which sum to less than 1 where no query sees anything."""
        return query_probabilities(scores)

    def semantic(self, size: Size, *, scores: bool = False) -> list[SemanticMap]:
        """One class map a picture at `size`. The full-size probabilities exist only if `scores` asks for them."""
        if not scores:
            return [SemanticMap(labels) for labels in query_semantic(self.masks, self.classes, size, self.covered)]
        probabilities = self.probabilities(self.score_rows(size, (0, size[0])))  # (B, C, H, W)
        confidence, labels = probabilities.max(dim=1)
        return [SemanticMap(*row) for row in zip(labels, probabilities, confidence, strict=True)]

    def instances(self, size: Size, *, classes: ClassSpec, top: int = 100) -> list[Instances]:
        """The things of each picture at `size`, best score first; see `decode.queries.query_instances`."""
        pairs = zip(self.masks, self.classes, strict=True)
        return [query_instances(*pair, size, things=classes.things, top=top, covered=self.covered) for pair in pairs]

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
                covered=self.covered,
            )
            for pair in zip(self.masks, self.classes, strict=True)
        ]
