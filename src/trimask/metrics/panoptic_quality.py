"""Panoptic quality: how many segments are found (recognition, RQ), how well they are drawn (SQ), and the product, PQ.

Source: Kirillov et al. 2019, "Panoptic Segmentation" (arXiv 1801.00868), by the rules of panopticapi
(panopticapi/evaluation.py). A predicted and a true segment of one class match if their IoU is above 0.5, where the
union leaves out what the truth leaves unlabelled. Crowds match nothing. A prediction that matches nothing is no error
if more than half of it is unlabelled or a crowd of its class. Boundary PQ: Cheng et al. 2021 (arXiv 2103.16562); the
IoU is the smaller of that of segments and of their boundaries.

Deviations: one `bincount` a picture, on the host; segments without a pixel do not exist, where panopticapi stops; all
crowds of a class in a picture count, where panopticapi takes the last (COCO has one). A class in neither truth nor
prediction is nan, where panopticapi says 0; both leave it out of the means.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from trimask.metrics.boundary import in_words, require_width
from trimask.metrics.confusion import class_mean
from trimask.metrics.pictures import Arrays, SummedPictures
from trimask.metrics.records import PictureRecords
from trimask.types import ClassSpec, Panoptic, Target

Sums = NDArray[np.float64]  # (..., 4, C) of each class: IoU of matches, matches, false positives, false negatives
Ratios = NDArray[np.float64]
Labels = NDArray[np.int64]
Ids = NDArray[Any]  # (H, W) integers, 0 for no segment and k for segment k - 1

DEFINITION = (
    "PQ = SQ x RQ of each class, over all pictures: SQ is the mean IoU of matches (IoU > 0.5), RQ = matches / (matches + "
    "(unmatched predictions + missed truth) / 2); means are over the classes that occur in truth or prediction. Unlabelled "
    "pixels and crowds are no errors."
)


def segmentation_quality(sums: Sums) -> Ratios:
    """(..., 4, C) -> (..., C); 0 where nothing matches, nan where the class is in neither truth nor prediction."""
    iou, matches, false_positives, false_negatives = np.moveaxis(sums, -2, 0)
    quality = np.divide(iou, matches, out=np.zeros_like(iou), where=matches > 0)
    return np.where(matches + false_positives + false_negatives > 0, quality, np.nan)


def recognition_quality(sums: Sums) -> Ratios:
    """(..., 4, C) -> (..., C); nan where the class is in neither truth nor prediction."""
    _, matches, false_positives, false_negatives = np.moveaxis(sums, -2, 0)
    whole = matches + (false_positives + false_negatives) / 2
    return np.divide(matches, whole, out=np.full_like(whole, np.nan), where=whole > 0)


def panoptic_quality(sums: Sums) -> Ratios:
    """(..., 4, C) -> (..., C); nan where the class is in neither truth nor prediction."""
    return segmentation_quality(sums) * recognition_quality(sums)


def mean_quality(sums: Sums, exclude: Sequence[int] = ()) -> Ratios:
    """(..., 4, C) -> (...) mean PQ: the usual `statistic` of `bootstrap_interval`."""
    return class_mean(panoptic_quality(sums), exclude)


@dataclass(frozen=True)
class PictureSums:
    """The sums of each picture, ordered by name whatever process made them.

    Attributes: names: one a picture; rows: (P, 4, C) as in `Sums`.
    """

    names: tuple[str, ...]
    rows: Sums

    def worst_first(self) -> list[tuple[str, float]]:
        """(name, PQ of that picture alone), lowest first; pictures without truth or prediction are left out."""
        scores = mean_quality(self.rows)
        return [(self.names[i], float(scores[i])) for i in np.argsort(scores, kind="stable") if not np.isnan(scores[i])]


class PanopticPictures(SummedPictures):
    """Args: rows: as in `PictureSums`; classes: their names; things: labels of the countable ones."""

    def __init__(self, names: Sequence[str], rows: Sums, *, classes: Sequence[str], things: Sequence[int]) -> None:
        super().__init__(names, rows)
        self.classes, self.things = tuple(classes), tuple(things)

    def values(self, sums: Sums) -> dict[str, Ratios]:
        pq, sq, rq = panoptic_quality(sums), segmentation_quality(sums), recognition_quality(sums)
        stuff = [label for label in range(len(self.classes)) if label not in self.things]
        by_class = {f"pq_{name}": pq[:, label] for label, name in enumerate(self.classes)}
        return by_class | {
            f"{quality}{group}": class_mean(values[:, list(labels)])
            for group, labels in (("", range(len(self.classes))), ("_things", self.things), ("_stuff", stuff))
            for quality, values in (("pq", pq), ("sq", sq), ("rq", rq))
        }

    def arrays(self) -> dict[str, NDArray[Any]]:
        return {
            "rows": self.rows,
            "classes": np.array(self.classes, dtype=str),
            "things": np.array(self.things, np.int64),
        }

    @classmethod
    def from_arrays(cls, names: Sequence[str], arrays: Arrays) -> PanopticPictures:
        return cls(names, arrays["rows"], classes=arrays["classes"].tolist(), things=arrays["things"].tolist())


class Qualities:
    """Means over some classes, 0..1; nan if none of them occurs. Attributes: pq, sq, rq."""

    def __init__(self, by_class: Sequence[Ratios], labels: Sequence[int]) -> None:
        self.pq, self.sq, self.rq = (float(class_mean(values[list(labels)])) for values in by_class)


class PanopticScores:
    """What the sums say. Ratios are in 0..1.

    Attributes:
        pq, sq, rq: (C,) by class; nan for a class in neither truth nor prediction.
        all, things, stuff: means over the classes that have a value.
        sums: (4, C) as in `Sums`.
        pictures: the sums picture by picture.
        absent: labels that are in neither truth nor prediction.
        definition: a sentence to print beside the numbers.
    """

    def __init__(self, pictures: PictureSums, classes: ClassSpec, boundary: float | None = None) -> None:
        self.pictures, self.names, self.boundary = pictures, classes.names, boundary
        self.sums = pictures.rows.sum(axis=0)
        self.pq, self.sq, self.rq = by_class = tuple(
            quality(self.sums) for quality in (panoptic_quality, segmentation_quality, recognition_quality)
        )
        labels = range(len(classes))
        self.all = Qualities(by_class, labels)
        self.things = Qualities(by_class, sorted(classes.things))
        self.stuff = Qualities(by_class, sorted(set(labels) - classes.things))
        self.absent = tuple(np.flatnonzero(np.isnan(self.pq)).tolist())
        self._things = sorted(classes.things)

    @property
    def kept(self) -> PanopticPictures:
        """What a run keeps of each picture."""
        rows = self.pictures.rows
        return PanopticPictures(self.pictures.names, rows, classes=self.names, things=self._things)

    @property
    def definition(self) -> str:
        absent = ", ".join(self.names[label] for label in self.absent)
        return (
            DEFINITION
            + in_words(self.boundary, "segments")
            + (f" In neither truth nor prediction: {absent}." if absent else "")
        )


class PanopticQuality(PictureRecords):
    """Sums matches and errors by class over a data set; exact, and the same for any number of processes.

    Args:
        classes: what the labels mean, and which are things.
        boundary: for Boundary PQ, the width of boundaries in diagonals of the picture: 0.02 in the paper.
    """

    questions = frozenset({"panoptic"})

    fields = (np.int32, np.float64)  # labels that occur; their sums (4, number of labels)

    def __init__(self, classes: ClassSpec, *, boundary: float | None = None) -> None:
        super().__init__()
        require_width(boundary)
        self.classes, self.boundary = classes, boundary

    def update(self, prediction: Panoptic, truth: Target, *, name: str) -> None:
        """Counts one picture.

        Args:
            prediction: at the size of the truth.
            truth: the highest layer counts where segments overlap; pixels in no segment are void.
            name: of the picture, unique in the data set.

        Raises:
            ValueError: if the sizes differ, or a label or an id is outside its range.
        """
        if tuple(prediction.segments.shape) != truth.size:
            raise ValueError(
                f"Prediction {tuple(prediction.segments.shape)} and truth {truth.size} of {name!r} differ in size; bring the "
                "prediction to the size of the truth."
            )
        labels, true_labels = prediction.labels.cpu().numpy(), truth.labels.cpu().numpy()
        for what, given in (("prediction", labels), ("truth", true_labels)):
            if strange := sorted(set(given.tolist()) - set(range(len(self.classes)))):
                raise ValueError(
                    f"The {what} of {name!r} has labels {strange[:8]}; allowed are 0..{len(self.classes) - 1}."
                )
        true, found = top_layer(truth.segments.cpu().numpy()), prediction.segments.cpu().numpy()
        if found.size and not 0 <= found.min() <= found.max() <= len(labels):
            raise ValueError(
                f"The prediction of {name!r} has ids {found.min()}..{found.max()} for {len(labels)} labels."
            )
        pixels = pair_pixels(true, found, len(true_labels), len(labels))
        ious = pair_ious(pixels)
        if self.boundary is not None:
            ious = np.minimum(ious, _boundary_ious(true, found, self.boundary, *ious.shape))
        matches = match_segments(pixels, ious, true_labels, labels, truth.is_crowd.cpu().numpy())
        sums = sum_matches(matches, ious, true_labels, labels, len(self.classes))
        present = np.flatnonzero(sums[1:].any(axis=0))
        self.keep(name, present, sums[:, present])

    def compute(self) -> PanopticScores:
        """The scores over all pictures of all processes."""
        kept = self.kept()
        rows = np.zeros((len(kept), 4, len(self.classes)))
        for row, (labels, sums) in zip(rows, kept.values(), strict=True):
            row[:, labels] = sums.reshape(4, -1)
        return PanopticScores(PictureSums(tuple(kept), rows), self.classes, self.boundary)


def top_layer(segments: Ids) -> Ids:
    """(L, H, W) -> (H, W) the ids of the highest layer that has one."""
    top = segments[0]
    for layer in segments[1:]:
        top = np.where(layer > 0, layer, top)
    return top


def pair_pixels(true: Ids, found: Ids, num_true: int, num_found: int) -> NDArray[np.int64]:
    """(H, W) ids of two maps -> (N + 1, M + 1) pixels of each pair of them."""
    shape = (num_true + 1, num_found + 1)
    pair = true.astype(np.int32) * np.int32(shape[1])
    pair += found
    pair = pair.ravel()
    # Runs of equal pairs are counted, a third of the time that pixels take.
    starts = np.append(0, np.flatnonzero(pair[1:] != pair[:-1]) + 1)[: pair.size]
    counts = np.bincount(pair[starts], np.diff(starts, append=pair.size), shape[0] * shape[1])
    return counts.astype(np.int64).reshape(shape)


def pair_ious(pixels: NDArray[np.int64]) -> Ratios:
    """(N + 1, M + 1) pixels of pairs -> (N, M) IoU; no union has the unlabelled pixels of the predicted segment."""
    union = pixels.sum(axis=1)[1:, None] + pixels.sum(axis=0)[1:] - pixels[0, 1:] - pixels[1:, 1:]
    return np.divide(pixels[1:, 1:], union, out=np.zeros(union.shape), where=union > 0)


def _boundary_ious(true: Ids, found: Ids, boundary: float, num_true: int, num_found: int) -> Ratios:
    """(H, W) ids of two maps -> (N, M) IoU of the boundaries of segments."""
    width = max(round(boundary * float(np.hypot(*true.shape))), 1)
    edges = _boundaries(true, width, num_true + 1), _boundaries(found, width, num_found + 1)
    return pair_ious(pair_pixels(*edges, num_true + 1, num_found + 1))[:-1, :-1]


def _boundaries(ids: Ids, width: int, inside: int) -> Ids:
    """(H, W) ids, with `inside` for what is farther than `width` pixels from other ids and from the picture's edge.

    Unlabelled pixels stay 0.
    """
    window, known = np.ones((2 * width + 1, 2 * width + 1), np.uint8), ids.astype(np.float32)
    largest, smallest = (
        filtered(known, window, borderType=cv2.BORDER_CONSTANT, borderValue=-1) for filtered in (cv2.dilate, cv2.erode)
    )
    return np.where((largest == smallest) & (ids > 0), np.int32(inside), ids)


class Matches(NamedTuple):
    """Of one picture with N true and M predicted segments.

    Attributes:
        true, found: (K,) rows of the segments that match each other.
        wrong: (M,) predicted segments that match nothing, and are not excused.
        missed: (N,) true segments that nothing matches, crowds aside.
    """

    true: NDArray[np.int64]
    found: NDArray[np.int64]
    wrong: NDArray[np.bool_]
    missed: NDArray[np.bool_]


def match_segments(
    counts: NDArray[np.int64],
    ious: Ratios,
    true_labels: NDArray[np.int64],
    labels: NDArray[np.int64],
    is_crowd: NDArray[np.bool_],
) -> Matches:
    """Args: counts: of `pair_pixels`; ious: of `pair_ious`."""
    same = true_labels[:, None] == labels
    true, found = np.nonzero(
        (ious > 0.5) & same & ~is_crowd[:, None]
    )  # each at most once: IoU > 0.5 leaves no room for two
    areas = counts.sum(axis=0)[1:]
    excused = counts[0, 1:] + (counts[1:, 1:] * (same & is_crowd[:, None])).sum(axis=0)
    wrong = (areas > 0) & (2 * excused <= areas)
    wrong[found] = False
    missed = (counts.sum(axis=1)[1:] > 0) & ~is_crowd
    missed[true] = False
    return Matches(true, found, wrong, missed)


def sum_matches(matches: Matches, ious: Ratios, true_kinds: Labels, kinds: Labels, num_kinds: int) -> Sums:
    """(4, K) of one picture. Args: true_kinds, kinds: of each true and predicted segment, such as its label."""
    true, found, wrong, missed = matches
    rows = [
        (true_kinds[true], ious[true, found]),
        (true_kinds[true], None),
        (kinds[wrong], None),
        (true_kinds[missed], None),
    ]
    return np.stack([np.bincount(of, weights, num_kinds) for of, weights in rows]).astype(np.float64)
