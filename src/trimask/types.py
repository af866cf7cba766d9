"""The nouns of trimask: what a picture, its truth and an answer are. Everything else is verbs between them.

Letters used in every comment of the package: B images, C classes, N segments of one image, Q queries, D channels,
L id layers, H W picture pixels, h w feature cells. Sizes are (height, width), boxes are xyxy in pixels, pictures are
uint8 with channels RGB unless a dataset says otherwise, and class labels are contiguous from 0.

This file imports numpy and torch only.
"""

from __future__ import annotations

import colorsys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Size = tuple[int, int]  # (height, width)

TINY = torch.finfo(torch.float32).tiny


class DataError(ValueError):
    """Something in a user's data is wrong. The message says which file, what was found and what to do."""


class ClassSpec:
    """What the labels of a dataset mean. Owned by the dataset, handed once to the task, kept in every checkpoint.

    A plain class rather than a dataclass: jsonargparse takes a dataclass apart when it is the target of a link.

    Args:
        names: one name a class, in label order; non-empty and unique.
        things: labels of the countable classes; all other classes are stuff.
        colors: (C, 3) RGB in 0..255; by default a fixed palette of well separated hues.
        ignore_index: the label that a semantic map carries where nothing is annotated; outside 0..C-1. By default 255, or -1
            for more than 255 classes.
    """

    def __init__(
        self,
        names: Sequence[str],
        *,
        things: Iterable[int] = (),
        colors: Sequence[Sequence[int]] | NDArray[np.uint8] | None = None,
        ignore_index: int | None = None,
    ) -> None:
        self.names = tuple(str(name) for name in names)
        self.things = frozenset(int(label) for label in things)
        self.ignore_index = (255 if len(self.names) <= 255 else -1) if ignore_index is None else int(ignore_index)
        if not self.names:
            raise ValueError("A class list needs at least one class; got none. Name the classes in label order.")
        repeated = sorted({name for name in self.names if self.names.count(name) > 1})
        if repeated:
            raise ValueError(f"Class names must be unique; {repeated} are given more than once.")
        if outside := sorted(self.things - set(range(len(self.names)))):
            raise ValueError(f"`things` are labels 0..{len(self.names) - 1}; {outside} are not.")
        if 0 <= self.ignore_index < len(self.names):
            raise ValueError(
                f"ignore_index {self.ignore_index} is the label of class {self.names[self.ignore_index]!r}; "
                f"use a value outside 0..{len(self.names) - 1}, e.g. 255 or -1."
            )
        self.colors: NDArray[np.uint8] = (
            distinct_colors(len(self.names)) if colors is None else np.asarray(colors, dtype=np.uint8)
        )
        if self.colors.shape != (len(self.names), 3):
            raise ValueError(f"`colors` must have the shape ({len(self.names)}, 3); got {self.colors.shape}.")

    def __len__(self) -> int:
        return len(self.names)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ClassSpec) and self.to_config() == other.to_config()

    def __hash__(self) -> int:
        return hash((self.names, self.things, self.ignore_index))

    def __repr__(self) -> str:
        shown = ", ".join(self.names[:6]) + (", ..." if len(self) > 6 else "")
        return f"ClassSpec({len(self)} classes: {shown})"

    def to_config(self) -> dict[str, Any]:
        """Plain data for checkpoints and YAML; `from_config` is the inverse."""
        return {
            "names": list(self.names),
            "things": sorted(self.things),
            "colors": self.colors.tolist(),
            "ignore_index": self.ignore_index,
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> ClassSpec:
        return cls(
            config["names"],
            things=config["things"],
            colors=config["colors"],
            ignore_index=config["ignore_index"],
        )


def distinct_colors(num_colors: int) -> NDArray[np.uint8]:
    """(num_colors, 3) RGB: hues a golden angle apart, so that any prefix of the list is well separated."""
    turns = (np.arange(num_colors) * 0.61803398875) % 1.0
    rows = [colorsys.hsv_to_rgb(turn, 0.55 + 0.4 * (i % 2), 0.95 - 0.2 * (i % 3)) for i, turn in enumerate(turns)]
    return np.rint(np.asarray(rows) * 255).astype(np.uint8).reshape(num_colors, 3)


@dataclass(frozen=True)
class Sample:
    """One picture and its whole truth, on the host. All three tasks derive from it.

    Attributes:
        image: (H, W, K) uint8.
        segments: (L, H, W) uint8, int16 or int32; 0 is unlabelled, k is row k-1 of `labels`. The segments of one
            layer are disjoint, so overlapping annotations take several layers; a higher layer lies on top.
        labels: (N,) int64 class of each segment.
        is_crowd: (N,) bool; a crowd is a region of uncounted objects of its class.
        name: unique within the dataset; names files and rows of tables.
        meta: tags of the frame (weather, scene, ...), str -> str.
    """

    image: NDArray[np.uint8]
    segments: NDArray[Any]
    labels: NDArray[np.int64]
    is_crowd: NDArray[np.bool_]
    name: str
    meta: dict[str, str] = field(default_factory=dict)

    @property
    def size(self) -> Size:
        return self.image.shape[0], self.image.shape[1]

    def areas(self) -> NDArray[np.int64]:
        """(N,) visible pixels of each segment."""
        counts = np.zeros(len(self.labels) + 1, np.int64)
        for layer in self.segments:  # runs of equal pixels are counted, a fifth of the time that pixels take
            flat = layer.ravel()
            starts = np.append(0, np.flatnonzero(flat[1:] != flat[:-1]) + 1)[: flat.size]
            lengths = np.diff(starts, append=flat.size)
            counts += np.bincount(flat[starts], lengths, len(counts)).astype(np.int64)
        return counts[1:]

    def target(self, min_area: int = 1) -> Target:
        """The truth as tensors, without the segments that have fewer than `min_area` pixels left after a crop."""
        keep = self.areas() >= min_area
        segments = np.require(
            self.segments, requirements=["C", "W"]
        )  # of a cache they are read-only, which torch has not
        if not keep.all():
            new_ids = np.zeros(len(keep) + 1, dtype=segments.dtype)
            new_ids[1:][keep] = np.arange(1, keep.sum() + 1)
            segments = new_ids[segments]
        return Target(
            segments=torch.from_numpy(segments),
            labels=torch.from_numpy(self.labels[keep]),
            is_crowd=torch.from_numpy(self.is_crowd[keep]),
            num_dropped=int((~keep).sum()),
        )


@dataclass(frozen=True)
class Target:
    """The truth of one picture on the device: the id layers travel, masks are made only where they are asked for.

    Attributes: as in `Sample`; `num_dropped` counts the segments that a crop or a resize has emptied.
    A pixel in no segment is ignored by every loss and metric, so padding needs no fill value.
    """

    segments: Tensor  # (L, H, W)
    labels: Tensor  # (N,)
    is_crowd: Tensor  # (N,)
    num_dropped: int = 0

    @property
    def size(self) -> Size:
        return self.segments.shape[-2], self.segments.shape[-1]

    @property
    def masks(self) -> Tensor:
        """(N, H, W) bool, overlaps kept."""
        ids = torch.arange(1, len(self.labels) + 1, device=self.segments.device, dtype=self.segments.dtype)
        masks = torch.zeros(len(ids), *self.size, dtype=torch.bool, device=self.segments.device)
        for layer in self.segments:
            masks |= layer == ids[:, None, None]
        return masks

    def semantic(self, ignore_index: int = 255) -> Tensor:
        """(H, W) int64 class map; the highest layer wins where segments overlap, `ignore_index` where there is none."""
        table = torch.cat([self.labels.new_tensor([ignore_index]), self.labels])
        top = self.segments[0]
        for layer in self.segments[1:]:
            top = torch.where(layer > 0, layer, top)
        return table[top.long()]

    @property
    def boxes(self) -> Tensor:
        """(N, 4) float32 xyxy, see `mask_boxes`; without making masks."""
        height, width = self.size
        in_row, in_column = (
            torch.zeros(len(self.labels) + 1, side, dtype=torch.bool, device=self.segments.device)
            for side in (height, width)
        )
        for layer in self.segments.long():
            in_row[layer, torch.arange(height, device=layer.device)[:, None]] = True
            in_column[layer, torch.arange(width, device=layer.device)] = True
        return torch.cat([_extent(in_column[1:]), _extent(in_row[1:])], dim=1)[:, [0, 2, 1, 3]]

    def only(self, labels: Iterable[int]) -> Target:
        """The segments of these classes; the pixels of all others are unlabelled."""
        keep = torch.isin(self.labels, self.labels.new_tensor(sorted(labels)))
        new_ids = torch.cat([keep.new_zeros(1).long(), keep.cumsum(0) * keep])
        segments = new_ids[self.segments.long()].to(self.segments.dtype)
        return Target(segments, self.labels[keep], self.is_crowd[keep], self.num_dropped)


def mask_boxes(masks: Tensor) -> Tensor:
    """(N, H, W) bool -> (N, 4) float32 xyxy; the right and lower edge lie one past the last pixel. Empty masks give zeros."""
    return torch.cat([_extent(masks.any(1)), _extent(masks.any(2))], dim=1)[:, [0, 2, 1, 3]]


def _extent(hit: Tensor) -> Tensor:
    """(N, P) bool -> (N, 2): first hit and one past the last."""
    position = torch.arange(hit.shape[1], device=hit.device)
    first = torch.where(hit, position, hit.shape[1]).amin(1) if hit.numel() else hit.new_zeros(len(hit)).long()
    last = torch.where(hit, position + 1, 0).amax(1) if hit.numel() else first
    return torch.stack([torch.minimum(first, last), last], dim=1).float()


def segment_boxes(segments: Tensor, num_segments: int) -> Tensor:
    """(H, W) ids of disjoint segments, 0 for none -> (N, 4) float32 xyxy as of `mask_boxes`, without a mask a segment."""
    height, width = segments.shape
    ids, device = segments.long(), segments.device
    rows = torch.zeros(num_segments + 1, height, dtype=torch.bool, device=device)
    columns = torch.zeros(num_segments + 1, width, dtype=torch.bool, device=device)
    rows[ids, torch.arange(height, device=device)[:, None]] = True
    columns[ids, torch.arange(width, device=device)] = True
    return torch.cat([_extent(columns[1:]), _extent(rows[1:])], dim=1)[:, [0, 2, 1, 3]]


@dataclass(frozen=True)
class Batch:
    """Pictures of one step, padded bottom-right to a common size.

    Attributes:
        images: (B, K, H, W) uint8.
        segments: (B, L, H, W); padding is 0, that is unlabelled.
        labels, is_crowd: one (N,) tensor a picture.
        sizes: (height, width) of each picture before padding.
        names, meta: as in `Sample`.
        num_dropped: segments lost to crops, over the batch.
    """

    images: Tensor
    segments: Tensor
    labels: tuple[Tensor, ...]
    is_crowd: tuple[Tensor, ...]
    sizes: tuple[Size, ...]
    names: tuple[str, ...]
    meta: tuple[dict[str, str], ...]
    num_dropped: int = 0

    def __len__(self) -> int:
        return len(self.images)

    @property
    def targets(self) -> list[Target]:
        """One view a picture, at the padded size: what a criterion compares with the output of the whole batch."""
        return [Target(*row) for row in zip(self.segments, self.labels, self.is_crowd, strict=True)]

    def target(self, index: int) -> Target:
        """The truth of one picture at its own size, without padding."""
        height, width = self.sizes[index]
        return Target(self.segments[index, :, :height, :width], self.labels[index], self.is_crowd[index])

    def image(self, index: int) -> Tensor:
        """(K, H, W) one picture at its own size, without padding."""
        height, width = self.sizes[index]
        return self.images[index, :, :height, :width]

    def to(self, *args: Any, **kwargs: Any) -> Batch:
        return self._map(lambda tensor: tensor.to(*args, **kwargs))

    def pin_memory(self) -> Batch:
        return self._map(Tensor.pin_memory)

    def _map(self, function: Any) -> Batch:
        return replace(
            self,
            images=function(self.images),
            segments=function(self.segments),
            labels=tuple(map(function, self.labels)),
            is_crowd=tuple(map(function, self.is_crowd)),
        )


class Region(NamedTuple):
    """What every kind of answer consists of: label; mask (H, W) bool; score in 0..1 or None where it was not asked for."""

    label: int
    mask: Tensor
    score: float | None


@dataclass(frozen=True)
class SemanticMap:
    """The semantic answer for one picture, at its own size.

    Attributes:
        labels: (H, W) int64 class map.
        scores: (C, H, W) float class probabilities, or None when they were not asked for.
        confidence: (H, W) float probability of the winning class, or None when it was not asked for.
    """

    labels: Tensor
    scores: Tensor | None = None
    confidence: Tensor | None = None

    def semantic(self, ignore_index: int = 255) -> Tensor:
        """(H, W) class map; every pixel has a class."""
        return self.labels

    def tempered(self, temperature: float) -> SemanticMap:
        """The same labels with other scores, as if logits had been divided by the temperature: above 1 they are less certain.

        What the classes of a pixel have in all stays, which is less than 1 where a network has seen none of them.
        """
        if self.scores is None:
            return self
        share = (self.scores / self.scores.amax(dim=0).clamp(min=TINY)).pow_(1 / temperature)
        scores = share.mul_(self.scores.sum(dim=0) / share.sum(dim=0).clamp(min=TINY))
        return SemanticMap(self.labels, scores, scores.gather(0, self.labels[None])[0])

    def regions(self) -> list[Region]:
        """One region a class that occurs; its score is the mean confidence over the region."""
        regions = []
        for label in torch.unique(self.labels).tolist():
            mask = self.labels == label
            score = None if self.confidence is None else float(self.confidence[mask].float().mean())
            regions.append(Region(label, mask, score))
        return regions


@dataclass(frozen=True)
class Instances:
    """The instance answer for one picture, at its own size, best score first.

    Attributes: masks (N, H, W) bool; labels (N,) int64; scores (N,) float; boxes (N, 4) float xyxy.
    """

    masks: Tensor
    labels: Tensor
    scores: Tensor
    boxes: Tensor

    def above(self, score: float) -> Instances:
        """Those with this score or a better one."""
        keep = self.scores >= score
        return Instances(self.masks[keep], self.labels[keep], self.scores[keep], self.boxes[keep])

    def tempered(self, temperature: float) -> Instances:
        """The same instances in the same order, with the log odds of their scores divided by the temperature."""
        return replace(self, scores=(self.scores.logit() / temperature).sigmoid())

    def semantic(self, ignore_index: int = 255) -> Tensor:
        """(H, W) int64 class map; the best score wins where instances overlap, `ignore_index` where there is none."""
        painted = self.labels.new_full(self.masks.shape[1:], ignore_index)
        for row in self.scores.argsort():
            painted.masked_fill_(self.masks[row], self.labels[row])
        return painted

    def regions(self) -> list[Region]:
        """One region an instance, best score first."""
        rows = zip(self.labels.tolist(), self.masks, self.scores.tolist(), strict=True)
        return [Region(*row) for row in rows]

    def segments_info(self, classes: ClassSpec) -> list[dict[str, Any]]:
        """A row an instance, best score first; see `Panoptic.segments_info`. Here ids only count the rows."""
        # One after the other: on a processor torch counts a whole mask twenty times as fast as along an axis.
        areas = self.labels.new_tensor([int(mask.count_nonzero()) for mask in self.masks])
        return _segments_info(self.labels, self.scores, areas, self.boxes, classes)


@dataclass(frozen=True)
class Panoptic:
    """The panoptic answer for one picture, at its own size.

    Attributes:
        segments: (H, W) int32, 0 = no segment, k is row k-1 of `labels` and `scores`.
        labels: (N,) int64.
        scores: (N,) float.
    """

    segments: Tensor
    labels: Tensor
    scores: Tensor

    def tempered(self, temperature: float) -> Panoptic:
        """The same segments, with the log odds of their scores divided by the temperature."""
        return replace(self, scores=(self.scores.logit() / temperature).sigmoid())

    def semantic(self, ignore_index: int = 255) -> Tensor:
        """(H, W) int64 class map; `ignore_index` where there is no segment."""
        return torch.cat([self.labels.new_tensor([ignore_index]), self.labels])[self.segments.long()]

    def regions(self) -> list[Region]:
        """One region a segment, in the order of the ids."""
        rows = enumerate(zip(self.labels.tolist(), self.scores.tolist(), strict=True), start=1)
        return [Region(label, self.segments == number, score) for number, (label, score) in rows]

    def segments_info(self, classes: ClassSpec) -> list[dict[str, Any]]:
        """A row a segment, as COCO's panoptic files have it, with the class by its name and a score.

        Returns:
            [{"id", "category_id": label, "label": name, "isthing", "area": pixels, "bbox": [x, y, width, height], "score"}, ...]
        """
        num_segments = len(self.labels)
        areas = torch.bincount(self.segments.long().flatten(), minlength=num_segments + 1)[1:]
        return _segments_info(self.labels, self.scores, areas, segment_boxes(self.segments, num_segments), classes)


def _segments_info(
    labels: Tensor, scores: Tensor, areas: Tensor, boxes: Tensor, classes: ClassSpec
) -> list[dict[str, Any]]:
    left, top, right, bottom = boxes.unbind(1)
    sides = torch.stack([left, top, right - left, bottom - top], dim=1)
    rows = zip(labels.tolist(), scores.tolist(), areas.tolist(), sides.tolist(), strict=True)
    return [
        {
            "id": number,
            "category_id": label,
            "label": classes.names[label],
            "isthing": label in classes.things,
            "area": area,
            "bbox": bbox,
            "score": score,
        }
        for number, (label, score, area, bbox) in enumerate(rows, start=1)
    ]


@runtime_checkable
class SegmentationDataset(Protocol):
    """Files -> samples. It knows nothing of transforms or loaders.

    `offers` names the questions that the annotation can answer: a subset of {"semantic", "instances", "panoptic"}.
    """

    classes: ClassSpec
    offers: frozenset[str]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...


@runtime_checkable
class FileDataset(SegmentationDataset, Protocol):
    """A dataset that can say which files a sample comes from. Caches and the doctor ask for it; training does not need it."""

    def files(self, index: int) -> tuple[str, ...]:
        """Absolute paths: the picture first, then every annotation file of this sample alone (not one shared by all)."""
        ...


class SegmentationNetwork(Protocol):
    """Pure torch: (B, K, H, W) pictures in 0..255 (uint8 or float) -> an output object.

    It normalizes inside itself and accepts any H and W. `set_progress(fraction)`, where a network has it, is told
    before every training step how much of the run is done (0..1).
    """

    output: type

    def __call__(self, images: Tensor) -> Any: ...
