"""Which sizes of objects are seen: in class maps by the share of their pixels that have their class, in panoptic answers by PQ.

Sources: the sizes are COCO's (cocoeval.py): small up to 32 x 32 pixels, medium up to 96 x 96, large beyond. That errors of class
maps should be told object by object, because large ones drown small ones in a count of pixels: M. Cordts et al., "The Cityscapes
Dataset", CVPR 2016, arXiv:1604.01685 (iIoU).
Deviations: of class maps recall only, since a wrongly predicted pixel belongs to no true object and so to no size. PQ by size has
no published rule: a match and a missed object have the size of the true segment, a wrong one its own, as in COCO's AP.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from trimask.metrics.confusion import class_mean, ratio
from trimask.metrics.measure import Measure, MeasuredPictures, require_equal_size
from trimask.metrics.panoptic_quality import (
    match_segments,
    mean_quality,
    pair_ious,
    pair_pixels,
    sum_matches,
    top_layer,
)
from trimask.metrics.pictures import Ratios
from trimask.types import ClassSpec, Panoptic, SemanticMap, Target

SIZES = ("small", "medium", "large")
ENDS = (32**2, 96**2)  # pixels of the largest small and of the largest medium object


class SizePictures(MeasuredPictures):
    """Args: rows: (P, 4, 3 C) of the objects of each size and class: pixels right, pixels, objects found, objects."""

    definition = (
        "Recall by size: pixels of true objects that have their class, mean over the classes that have such objects; found: "
        "objects of which more than half is right. Small: up to 32 x 32 pixels; medium: up to 96 x 96."
    )

    def values(self, sums: NDArray[np.float64]) -> dict[str, Ratios]:
        right, pixels, found, objects = np.moveaxis(sums.reshape(len(sums), 4, len(SIZES), -1), 1, 0)
        recall, share = ratio(right, pixels), ratio(found, objects)
        return {f"recall_{name}": class_mean(recall[:, size]) for size, name in enumerate(SIZES)} | {
            f"found_{name}": class_mean(share[:, size]) for size, name in enumerate(SIZES)
        }


class PanopticSizePictures(MeasuredPictures):
    """Args: rows: (P, 4, 3 C) of the segments of each size and class: what PQ is made of."""

    definition = (
        "PQ by size: of the things of that size, mean over the classes that have some; matches and misses by the size of the "
        "truth, wrong segments by their own. Small: up to 32 x 32 pixels; medium: up to 96 x 96."
    )

    def values(self, sums: NDArray[np.float64]) -> dict[str, Ratios]:
        parts = sums.reshape(len(sums), 4, len(SIZES), -1)
        return {f"pq_{name}": mean_quality(parts[:, :, size]) for size, name in enumerate(SIZES)}


class PanopticSize(Measure):
    """Logs `pq_small`, `pq_medium` and `pq_large` of the countable classes.

    Args: classes: what the labels mean, and which are things.
    """

    questions = frozenset({"panoptic"})

    def __init__(self, classes: ClassSpec) -> None:
        super().__init__(classes)
        _require_things(self, classes)

    def update(self, answer: Panoptic, truth: Target, *, name: str) -> None:
        require_equal_size(tuple(answer.segments.shape), truth.size, name)
        labels, true_labels = answer.labels.cpu().numpy(), truth.labels.cpu().numpy()
        true, found = top_layer(truth.segments.cpu().numpy()), answer.segments.cpu().numpy()
        pixels = pair_pixels(true, found, len(true_labels), len(labels))
        ious = pair_ious(pixels)
        matches = match_segments(pixels, ious, true_labels, labels, truth.is_crowd.cpu().numpy())
        kinds = self._kinds(true_labels, pixels.sum(axis=1)[1:]), self._kinds(labels, pixels.sum(axis=0)[1:])
        sums = sum_matches(matches, ious, *kinds, len(SIZES) * len(self.classes))
        stuff = [label for label in range(len(self.classes)) if label not in self.classes.things]
        sums.reshape(4, len(SIZES), -1)[:, :, stuff] = 0
        self.keep(name, sums)

    def _kinds(self, labels: NDArray[np.int64], areas: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.searchsorted(ENDS, areas) * len(self.classes) + labels

    def compute(self) -> PanopticSizePictures:
        return PanopticSizePictures(*self.summed(4, len(SIZES) * len(self.classes)))


class ObjectSize(Measure):
    """Logs `recall_small`, `recall_medium`, `recall_large` and `found_small`, ... of the countable classes, crowds left out.

    A panoptic answer is seen as its class map.

    Args: classes: what the labels mean, and which are things.
    """

    questions = frozenset({"semantic", "panoptic"})
    annotation = frozenset({"instances"})

    def __init__(self, classes: ClassSpec) -> None:
        super().__init__(classes)
        _require_things(self, classes)

    def update(self, answer: SemanticMap | Panoptic, truth: Target, *, name: str) -> None:
        found = answer.semantic(self.classes.ignore_index)
        require_equal_size(tuple(found.shape), truth.size, name)
        labels = truth.labels.cpu().numpy()
        areas, right = object_pixels(found.cpu().numpy(), truth.segments.cpu().numpy(), labels)
        counts = np.isin(labels, sorted(self.classes.things)) & ~truth.is_crowd.cpu().numpy() & (areas > 0)
        place = np.searchsorted(ENDS, areas[counts]) * len(self.classes) + labels[counts]
        columns = right[counts], areas[counts], 2 * right[counts] > areas[counts], None
        num_places = len(SIZES) * len(self.classes)
        self.keep(name, np.stack([np.bincount(place, column, num_places) for column in columns]))

    def compute(self) -> SizePictures:
        return SizePictures(*self.summed(4, len(SIZES) * len(self.classes)))


def object_pixels(
    found: NDArray[np.int64], segments: NDArray[np.integer], labels: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(H, W) class map, (L, H, W) true segments with (N,) labels -> (N,) pixels of each segment, and those of its class."""
    label_of = np.append(-1, labels)
    areas, right = (np.zeros(len(label_of), np.int64) for _ in range(2))
    for layer in segments:
        ids = layer.ravel()
        areas += np.bincount(ids, minlength=len(areas))
        right += np.bincount(ids[label_of[ids] == found.ravel()], minlength=len(right))
    return areas[1:], right[1:]


def _require_things(measure: Measure, classes: ClassSpec) -> None:
    if not classes.things:
        raise ValueError(
            f"{type(measure).__name__} is of countable classes, and none of these is: {', '.join(classes.names)}."
        )
