"""One score a class and feature cell."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from trimask.decode.dense import dense_probabilities, dense_semantic
from trimask.decode.strips import Cells, Rows, covered_cells, upsample_rows
from trimask.types import SemanticMap, Size


@dataclass(frozen=True)
class DenseOutput:
    """One score a class and feature cell: FCN, U-Net, DeepLab, SegFormer, ...

    Attributes:
        logits: (B, C, h, w), usually smaller than the picture; C = 1 is the sigmoid way of saying two classes (the
            logit of class 1 against class 0).
        aux: logits of auxiliary heads, each (B, C, h', w'); empty in evaluation mode.
        align_corners: how the logits are brought to the picture's size, here and in the losses.
        covered: (height, width) of the picture in cells of the logits, in their upper left, where it was padded; else all.
    """

    logits: Tensor
    aux: tuple[Tensor, ...] = ()
    align_corners: bool = False
    covered: Cells | None = None

    def __len__(self) -> int:
        return len(self.logits)

    def picture(self, index: int) -> DenseOutput:
        """The output for one picture of the batch, still with a batch axis."""
        return replace(self, logits=self.logits[index : index + 1], aux=tuple(a[index : index + 1] for a in self.aux))

    def cut(self, inner: Size, outer: Size) -> DenseOutput:
        """For a picture of `inner` in the upper left of one of `outer` pixels: what is said of the inner one.

        Raises:
            ValueError: with `align_corners` a map has no cells of equal size.
        """
        if self.align_corners:
            raise ValueError(
                "Maps with `align_corners` cannot be cut; leave `pad_to` and `pad_multiple_of` out of `inference`."
            )
        return replace(self, aux=(), covered=covered_cells(self.logits, inner, outer, self.covered))

    def tensors(self) -> list[Tensor]:
        """What is computed: the logits, then those of auxiliary heads."""
        return [self.logits, *self.aux]

    @property
    def num_scores(self) -> int:
        return self.logits.shape[1]

    def score_rows(self, size: Size, rows: Rows) -> Tensor:
        """(B, C, stop - start, W) fp32 logits of these rows of the pictures at `size`: what windows are blended from."""
        return upsample_rows(self.logits.float(), size, rows, self.align_corners, self.covered)

    def probabilities(self, scores: Tensor) -> Tensor:
        """Logits of any size -> class probabilities; one logit gives the two classes 0 and 1."""
        return dense_probabilities(scores)

    def semantic(self, size: Size, *, scores: bool = False) -> list[SemanticMap]:
        """One class map a picture at `size`. The full-size probabilities exist only if `scores` asks for them."""
        if not scores:
            return [SemanticMap(x) for x in dense_semantic(self.logits, size, self.align_corners, self.covered)]
        probabilities = self.probabilities(self.score_rows(size, (0, size[0])))  # (B, C, H, W)
        confidence, labels = probabilities.max(dim=1)
        return [SemanticMap(*row) for row in zip(labels, probabilities, confidence, strict=True)]
