"""What networks answer with. An output knows how to answer the questions that it can answer:
`.semantic`, `.instances`, `.panoptic`. Tasks ask; they never look at the kind of output.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from trimask.decode.boxes import best_proposals
from trimask.decode.dense import dense_probabilities, dense_semantic
from trimask.decode.grids import Filters, GridLevel, Kernel, grid_instances
from trimask.decode.merging import STUFF_AREA, merge_panoptic
from trimask.decode.queries import (
    query_instances,
    query_panoptic,
    query_probabilities,
    query_score_rows,
    query_semantic,
)
from trimask.decode.regions import paste_masks, region_instances
from trimask.decode.strips import Rows, row_strips, strip_bytes, upsample_rows
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

    def tensors(self) -> list[Tensor]:
        """What is computed: the logits, then those of auxiliary heads."""
        return [self.logits, *self.aux]

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

    def tensors(self) -> list[Tensor]:
        """What is computed: masks and classes, then those of earlier layers."""
        return [logits for layer in (self, *self.aux) for logits in (layer.masks, layer.classes)]

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


@dataclass(frozen=True)
class GridOutput:
    """Cells of grids, each of which says whether an object of a class has its center there and which mask it has: SOLO, SOLOv2.

    A mask is what a filter makes of a map of features; none is made before somebody asks for it.

    Attributes:
        levels: for small objects first.
        size: (height, width) of the pictures, in the upper left of what the grids and maps cover.
        cell: pixels of a cell of the first level's maps, the finest.
    """

    levels: tuple[GridLevel, ...]
    size: Size
    cell: int

    aux: ClassVar[tuple[()]] = ()

    def __len__(self) -> int:
        return len(self.levels[0].categories)

    def picture(self, index: int) -> GridOutput:
        """The output for one picture of the batch, still with a batch axis."""
        return replace(self, levels=tuple(level.picture(index) for level in self.levels))

    def cut(self, inner: Size, outer: Size) -> GridOutput:
        """For a picture of `inner` in the upper left of one of `outer` pixels: what is said of the inner one."""
        return replace(self, size=inner)

    def tensors(self) -> list[Tensor]:
        """What is computed, were all masks made: for each level the class logits, then the mask logits of each factor."""
        return [x for level in self.levels for x in (level.categories, *(f.all_logits() for f in level.factors))]

    @property
    def num_scores(self) -> int:
        return self.levels[0].categories.shape[1]

    def instances(
        self,
        size: Size,
        *,
        classes: ClassSpec,
        top: int = 100,
        score_threshold: float = 0.1,
        mask_threshold: float = 0.5,
        final_threshold: float = 0.05,
        num_candidates: int = 500,
        kernel: Kernel = "gaussian",
        sigma: float = 2.0,
    ) -> list[Instances]:
        """The things of each picture at `size`, best score first; see `decode.grids.grid_instances`."""
        return [
            grid_instances(
                self.levels,
                picture,
                size,
                covered=(self.size[0] / self.cell, self.size[1] / self.cell),
                things=classes.things,
                top=top,
                score_threshold=score_threshold,
                mask_threshold=mask_threshold,
                final_threshold=final_threshold,
                num_candidates=num_candidates,
                kernel=kernel,
                sigma=sigma,
            )
            for picture in range(len(self))
        ]


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

    def _covered(self, size: Size) -> Size:
        """How much the logits cover if the picture is brought to `size`."""
        cells = zip(size, self.logits.shape[-2:], self.regions.size, strict=True)
        height, width = (round(side * number * self.cell / own) for side, number, own in cells)
        return max(height, size[0]), max(width, size[1])

    def score_rows(self, size: Size, rows: Rows) -> Tensor:
        """(B, C, stop - start, W) class probabilities of these rows of the pictures at `size`: what windows are blended from.

        Where the pixel is "a thing", the best instance there says which.
        """
        logits = upsample_rows(self.logits.float(), self._covered(size), rows, False)[..., : size[1]]
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
        maps = dense_semantic(self.logits, self._covered(size), False)[:, : size[0], : size[1]]
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
for kind in (Filters, GridLevel, GridOutput):
    torch.export.register_dataclass(kind)
