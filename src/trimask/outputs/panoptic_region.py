"""Boxes with small masks, and beside them a class for each pixel."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from trimask.decode.dense import dense_semantic
from trimask.decode.merging import STUFF_AREA, merge_panoptic
from trimask.decode.queries import query_probabilities
from trimask.decode.regions import paste_masks
from trimask.decode.strips import Cells, Rows, row_strips, strip_bytes, upsample_rows
from trimask.outputs.region import RegionDraft, RegionOutput
from trimask.types import ClassSpec, Instances, Panoptic, SemanticMap, Size


@dataclass(frozen=True)
class PanopticRegionDraft:
    """What Panoptic-FPN answers in training.

    Attributes:
        regions: see there.
        logits: (B, C + 1, h, w), one a class and the last for "a thing", over the padded pictures.
        cell: pixels of a cell of the logits.
    """

    regions: RegionDraft
    logits: Tensor
    cell: int

    def __len__(self) -> int:
        return len(self.logits)

    def tensors(self) -> list[Tensor]:
        """What is computed: the logits, then both stages of the regions."""
        return [self.logits, *self.regions.tensors()]


@dataclass(frozen=True)
class PanopticRegionOutput:
    """Instances, and beside them a class for each pixel, which may be "a thing": Panoptic-FPN.

    Attributes: see `PanopticRegionDraft`.
    """

    regions: RegionOutput
    logits: Tensor
    cell: int

    aux: ClassVar[tuple[()]] = ()
    dynamic: ClassVar[bool] = True  # see `RegionOutput`

    def __len__(self) -> int:
        return len(self.logits)

    def picture(self, index: int) -> PanopticRegionOutput:
        """The output for one picture of the batch, still with a batch axis."""
        return PanopticRegionOutput(self.regions.picture(index), self.logits[index : index + 1], self.cell)

    def cut(self, inner: Size, outer: Size) -> PanopticRegionOutput:
        """For a picture of `inner` in the upper left of one of `outer` pixels: what is said of the inner one."""
        return replace(self, regions=self.regions.cut(inner, outer))

    def tensors(self) -> list[Tensor]:
        """What is computed: the logits, then the regions."""
        return [self.logits, *self.regions.tensors()]

    @property
    def num_scores(self) -> int:
        return self.regions.num_scores

    @property
    def _covered(self) -> Cells:
        """(height, width) of the pictures in cells of the logits."""
        height, width = self.regions.size
        return height / self.cell, width / self.cell

    def score_rows(self, size: Size, rows: Rows) -> Tensor:
        """(B, C, stop - start, W) class probabilities of these rows of the pictures at `size`: what windows are blended from.

        Where the pixel is "a thing", the best instance there says which.
        """
        logits = upsample_rows(self.logits.float(), size, rows, covered=self._covered)
        probabilities = logits.softmax(dim=1)
        classes, anything = probabilities[:, :-1].clone(), probabilities[:, -1]
        for picture, instances in enumerate(self._painted(size, rows)):
            named = instances[None].clamp(min=0)
            share = torch.where(instances >= 0, anything[picture], 0)
            classes[picture].scatter_add_(0, named, share[None])
        return classes

    def _painted(self, size: Size, rows: Rows) -> list[Tensor]:
        """(stop - start, W) label of the best instance at each pixel of these rows, -1 where there is none."""
        regions, painted = self.regions, []
        scale = regions.boxes.new_tensor([size[1] / regions.size[1], size[0] / regions.size[0]]).repeat(2)
        for boxes, scores, labels, masks in zip(
            regions.boxes, regions.scores, regions.labels, regions.masks, strict=True
        ):
            keep = torch.where(scores > 0)[0].flip(0)  # the best one last, on top
            canvas = labels.new_full((rows[1] - rows[0], size[1]), -1)
            for place in keep.split(8):
                inside = paste_masks(
                    masks[place].sigmoid(), boxes[place] * scale, size, aligned=regions.aligned, rows=rows
                )
                for mask, label in zip(inside, labels[place], strict=True):
                    canvas[mask] = label
            painted.append(canvas)
        return painted

    def probabilities(self, scores: Tensor) -> Tensor:
        """Class scores of any size -> class probabilities, which sum to less than 1 where "a thing" is no instance."""
        return query_probabilities(scores)

    def semantic(self, size: Size, *, scores: bool = False) -> list[SemanticMap]:
        """One class map a picture at `size`. The full-size probabilities exist only if `scores` asks for them."""
        if scores:
            probabilities = self.probabilities(self.score_rows(size, (0, size[0])))
            confidence, labels = probabilities.max(dim=1)
            return [SemanticMap(*row) for row in zip(labels, probabilities, confidence, strict=True)]
        bytes_per_row = 4 * len(self) * self.logits.shape[1] * size[1]
        strips = row_strips(size[0], bytes_per_row, strip_bytes(self.logits.device))
        labels = torch.cat([self.score_rows(size, rows).max(dim=1).indices for rows in strips], dim=1)
        return [SemanticMap(row) for row in labels]

    def instances(self, size: Size, *, classes: ClassSpec, top: int = 100) -> list[Instances]:
        """The things of each picture at `size`, best score first; see `decode.regions.region_instances`."""
        return self.regions.instances(size, classes=classes, top=top)

    def panoptic(
        self,
        size: Size,
        *,
        classes: ClassSpec,
        score_threshold: float = 0.5,
        overlap_threshold: float = 0.5,
        stuff_area: int = STUFF_AREA,
    ) -> list[Panoptic]:
        """Things and stuff of each picture at `size`, without overlap; see `decode.merging.merge_panoptic`."""
        maps = dense_semantic(self.logits, size, False, self._covered)
        return [
            merge_panoptic(
                found,
                labels,
                _certainty(logits),
                things=classes.things,
                score_threshold=score_threshold,
                overlap_threshold=overlap_threshold,
                stuff_area=stuff_area,
            )
            for found, labels, logits in zip(self.instances(size, classes=classes), maps, self.logits, strict=True)
        ]


def _certainty(logits: Tensor) -> Tensor:
    """(C + 1, h, w) -> (C,) mean probability of each class over the cells that it wins."""
    most, winner = logits.float().softmax(dim=0).flatten(1).max(dim=0)
    sums = most.new_zeros(2, len(logits)).index_add_(1, winner, torch.stack([most, torch.ones_like(most)]))
    return (sums[0] / sums[1].clamp(min=1))[:-1]
