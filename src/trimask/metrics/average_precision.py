"""COCO's average precision and recall of instances, by mask and by box.

Source: the definitions of pycocotools (cocoeval.py), computed by faster-coco-eval (Apache-2.0), which gives
pycocotools' numbers. Boundary AP: Cheng et al. 2021, "Boundary IoU" (arXiv 2103.16562): the IoU of two masks is the
smaller of that of the masks and that of their boundaries.

Deviations: truth and predictions are kept as run-length codes and evaluated one class after the other, so that memory
grows with the codes alone. The area that makes an object small, medium or large and the box of the truth are those of
its pixels; COCO's own files state those of its polygons, which differ by fractions of a pixel. What has no truth is
nan, where COCO says -1.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster
from faster_coco_eval import mask as coco_mask
from numpy.typing import NDArray

from trimask.metrics.boundary import in_words, require_width
from trimask.metrics.confusion import class_mean
from trimask.metrics.pictures import Arrays, Pictures
from trimask.metrics.records import PictureRecords
from trimask.metrics.run_lengths import encode_masks, encode_segments
from trimask.types import ClassSpec, Instances, Target

log = logging.getLogger("trimask")

Ratios = NDArray[np.float64]
Record = list[NDArray[Any]]  # see `AveragePrecision.fields`

NUM_THRESHOLDS, AT_50, AT_75 = 10, 0, 5  # IoU 0.5, 0.55, ..., 0.95
SIZES = ("all", "small", "medium", "large")  # up to 32 x 32, up to 96 x 96, and more pixels
MAX_DETECTIONS = (1, 10, 100)  # of a class in a picture, best first
RECALLS = np.linspace(0, 1, 101)
TOGETHER = 2**21  # detections of redrawn data sets that are counted in one go: 16 MB

DEFINITION = (
    "AP of a class is the mean of its precision over the IoU thresholds 0.50, 0.55, ..., 0.95 and 101 recalls, with its 100 best "
    "instances of each picture; means are over the classes that occur in the truth. Crowds are neither found nor missed."
)


class Averages:
    """Average precisions and recalls, 0..1; nan where there is no truth, and left out of the means.

    Args:
        precision: (C, T, A) mean over recalls, by class, IoU threshold and size.
        recall: (C, T, A, M), also by the number of detections that count.

    Attributes:
        ap, ap50, ap75: means over the classes; over all thresholds, and at IoU 0.5 and 0.75.
        ap_small, ap_medium, ap_large: by the size of objects.
        ar1, ar10, ar100: recall with so many detections of a class in a picture; ar_small, ... with 100.
        by_class, by_class50, by_class75: (C,) average precision of each class; recall_by_class: (C,) with 100 detections.
    """

    def __init__(self, precision: Ratios, recall: Ratios) -> None:
        self.precision, self.recall = precision, recall
        self.by_class = precision[:, :, 0].mean(axis=1)
        self.by_class50, self.by_class75 = precision[:, AT_50, 0], precision[:, AT_75, 0]
        self.recall_by_class = recall[:, :, 0, 2].mean(axis=1)
        self.ap, self.ap50, self.ap75 = (_mean(v) for v in (self.by_class, self.by_class50, self.by_class75))
        self.ap_small, self.ap_medium, self.ap_large = (_mean(precision[:, :, size]) for size in (1, 2, 3))
        self.ar1, self.ar10, self.ar100 = (_mean(recall[:, :, 0, limit]) for limit in range(3))
        self.ar_small, self.ar_medium, self.ar_large = (_mean(recall[:, :, size, 2]) for size in (1, 2, 3))


def _mean(values: Ratios) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")


class InstancePictures(Pictures):
    """The mask AP of redrawn data sets, from the matches of each picture, which do not depend on the others.

    A picture that is drawn twice counts as two pictures with the same instances. Box AP, the sizes and recalls are left out.

    Args:
        truths: (P, C) objects that are no crowds.
        place: (D, 2) picture and label of each detection, the best 100 of a class in a picture.
        scores: (D,) of each.
        right, ignored: (D, T) which are right, and which do not count, at each IoU threshold.
        classes: their names.
        things: labels of the countable ones.
    """

    def __init__(
        self,
        names: Sequence[str],
        *,
        truths: NDArray[np.int64],
        place: NDArray[np.int64],
        scores: Ratios,
        right: NDArray[np.bool_],
        ignored: NDArray[np.bool_],
        classes: Sequence[str],
        things: Sequence[int],
    ) -> None:
        super().__init__(names)
        self.truths, self.place, self.scores_of, self.right, self.ignored = truths, place, scores, right, ignored
        self.classes, self.things = tuple(classes), tuple(things)

    def redrawn(self, times: NDArray[np.integer]) -> dict[str, Ratios]:
        precision = np.stack([self._precision(label, times) for label in self.things], axis=1)  # (R, things, T)
        by_class = precision.mean(axis=2)
        means = {"map": by_class, "map50": precision[..., AT_50], "map75": precision[..., AT_75]}
        return {f"map_{self.classes[label]}": by_class[:, row] for row, label in enumerate(self.things)} | {
            name: class_mean(values) for name, values in means.items()
        }

    def _precision(self, label: int, times: NDArray[np.integer]) -> Ratios:
        """(R, T) mean over recalls; nan where no object of the class was drawn."""
        rows = np.flatnonzero(self.place[:, 1] == label)
        rows = rows[np.argsort(-self.scores_of[rows], kind="stable")]
        right, wrong = self.right[rows].T, (~self.right[rows] & ~self.ignored[rows]).T
        wanted = times @ self.truths[:, label]
        found = np.full((len(times), NUM_THRESHOLDS), np.nan)
        some = np.flatnonzero(wanted)
        for part in np.array_split(some, len(some) * len(rows) // TOGETHER + 1):
            weights = times[part][:, self.place[rows, 0]]
            found[part] = _mean_precision(right, wrong, weights, wanted[part])
        return found

    def arrays(self) -> dict[str, NDArray[Any]]:
        return {
            "truths": self.truths,
            "place": self.place,
            "scores": self.scores_of,
            "right": self.right,
            "ignored": self.ignored,
            "classes": np.array(self.classes, dtype=str),
            "things": np.array(self.things, np.int64),
        }

    @classmethod
    def from_arrays(cls, names: Sequence[str], arrays: Arrays) -> InstancePictures:
        plain = {key: arrays[key] for key in ("truths", "place", "scores", "right", "ignored")}
        return cls(names, **plain, classes=arrays["classes"].tolist(), things=arrays["things"].tolist())


class InstanceScores:
    """What COCO's evaluation says.

    Attributes:
        masks, boxes: by the IoU of masks (with their boundaries, if the metric was told so) and of boxes.
        names: of the classes; stuff has no value.
        num_pictures: how many were evaluated.
        pictures: their names, in order.
        absent: countable classes that are not in the truth.
        definition: a sentence to print beside the numbers.
    """

    def __init__(
        self, masks: Averages, boxes: Averages, classes: ClassSpec, records: dict[str, Record], boundary: float | None
    ) -> None:
        self.masks, self.boxes, self.names, self.boundary = masks, boxes, classes.names, boundary
        self.pictures, self.num_pictures = tuple(records), len(records)
        self._records, self._things = list(records.values()), sorted(classes.things)
        self.absent = tuple(label for label in sorted(classes.things) if np.isnan(masks.by_class[label]))

    @property
    def definition(self) -> str:
        absent = ", ".join(self.names[label] for label in self.absent)
        return DEFINITION + in_words(self.boundary, "masks") + (f" Not in the truth: {absent}." if absent else "")

    @cached_property
    def kept(self) -> InstancePictures | None:
        """What a run keeps of each picture; nothing of boundaries, whose matches are others."""
        return None if self.boundary is not None else _matched(self.pictures, self._records, self.names, self._things)

    def by_picture(self) -> Ratios:
        """(P, C) the average precision, by the IoU of masks, of each picture as if it were the whole data set; a
        millisecond or two a picture."""
        return picture_precision(self._records, len(self.names))


class AveragePrecision(PictureRecords):
    """COCO's AP and AR over a data set; exact, and the same for any number of processes.

    Args:
        classes: what the labels mean; the countable ones are evaluated, segments of stuff are no instances.
        boundary: for Boundary AP, the width of boundaries in diagonals of the picture: 0.02 in the paper.
    """

    questions = frozenset({"instances"})

    # height and width; label, is_crowd and code's length of each truth; label and code's length of each prediction;
    # score and box of each prediction; the codes
    fields = (np.int32, np.int32, np.int32, np.float64, np.uint8)

    def __init__(self, classes: ClassSpec, *, boundary: float | None = None) -> None:
        super().__init__()
        if not classes.things:
            raise ValueError(
                "Average precision is of countable classes, and none of this data set is: "
                f"{', '.join(classes.names)}. Say which are `things`, or measure the semantic task."
            )
        require_width(boundary)
        self.classes, self.boundary = classes, boundary

    def update(self, prediction: Instances, truth: Target, *, name: str) -> None:
        """Keeps one picture.

        Args:
            prediction: in any order, at the size of the truth.
            truth: its segments of stuff are left out.
            name: of the picture, unique in the data set.

        Raises:
            ValueError: if the sizes differ, a predicted label is no countable class or a score no number.
        """
        if tuple(prediction.masks.shape[1:]) != truth.size:
            raise ValueError(
                f"Masks {tuple(prediction.masks.shape[1:])} and truth {truth.size} of {name!r} differ in size; bring the "
                "prediction to the size of the truth."
            )
        labels, true_labels = prediction.labels.cpu().numpy(), truth.labels.cpu().numpy()
        if strange := sorted(set(labels.tolist()) - self.classes.things):
            raise ValueError(f"The instances of {name!r} have labels {strange[:8]}, which are no countable classes.")
        if bool(prediction.scores.isnan().any()):
            raise ValueError(
                f"The instances of {name!r} have scores that are no numbers, and cannot be put in order: what the network "
                "computes is not finite."
            )
        keep = np.isin(true_labels, sorted(self.classes.things))
        true, found = encode_segments(truth.segments, keep), encode_masks(prediction.masks.bool())
        crowd = truth.is_crowd.cpu().numpy()
        numbers = [prediction.scores.double().cpu().numpy()[:, None], prediction.boxes.double().cpu().numpy()]
        self.keep(
            name,
            np.array(truth.size),
            np.stack([true_labels[keep], crowd[keep], true.lengths], axis=1),
            np.stack([labels, found.lengths], axis=1),
            np.concatenate(numbers, axis=1),
            np.concatenate([true.text, found.text]),
        )

    def compute(self) -> InstanceScores:
        """The scores over all pictures of all processes."""
        kept = self.kept()
        pictures = list(kept.values())
        masks = self._averages("segm" if self.boundary is None else "boundary", pictures)
        return InstanceScores(masks, self._averages("bbox", pictures), self.classes, kept, self.boundary)

    def _averages(self, kind: str, pictures: Sequence[Record]) -> Averages:
        truth, found = _tables(pictures)
        precision = np.full((len(self.classes), NUM_THRESHOLDS, len(SIZES)), np.nan)
        recall = np.full((*precision.shape, len(MAX_DETECTIONS)), np.nan)
        for label in np.unique(truth.place[:, 1]):
            one = _evaluate(kind, truth.of(label), found.of(label), pictures, self.boundary)
            precision[label], recall[label] = one
        return Averages(precision, recall)


class _Table(NamedTuple):
    """Segments of all pictures, a row each.

    Attributes:
        place: (S, 4) picture, label, and where the code begins and ends in the picture's text.
        values: (S, 1) is_crowd of the truth; (S, 5) score and box of predictions.
    """

    place: NDArray[np.int64]
    values: NDArray[np.float64]

    def of(self, label: int) -> _Table:
        rows = self.place[:, 1] == label
        return _Table(self.place[rows], self.values[rows])


def _tables(pictures: Sequence[Record]) -> tuple[_Table, _Table]:
    """The truth and the predictions."""
    true_rows, found_rows, numbers = [np.zeros((0, 5))], [np.zeros((0, 4))], [np.zeros((0, 5))]
    for picture, (_, true, found, values, _) in enumerate(pictures):
        true, found = true.reshape(-1, 3), found.reshape(-1, 2)
        stop = np.cumsum(np.concatenate([true[:, 2], found[:, 1]]), dtype=np.int64)
        start = np.append(0, stop)[:-1]
        place = np.stack([np.full(len(stop), picture), np.append(true[:, 0], found[:, 0]), start, stop], axis=1)
        true_rows.append(np.concatenate([place[: len(true)], true[:, 1:2]], axis=1))
        found_rows.append(place[len(true) :])
        numbers.append(values.reshape(-1, 5))
    true_table, found_table = np.concatenate(true_rows), np.concatenate(found_rows)
    return (
        _Table(true_table[:, :4].astype(np.int64), true_table[:, 4:]),
        _Table(found_table.astype(np.int64), np.concatenate(numbers)),
    )


def _evaluate(
    kind: str, truth: _Table, found: _Table, pictures: Sequence[Record], boundary: float | None
) -> tuple[Ratios, Ratios]:
    """One class: precision (T, A) and recall (T, A, M). Pictures without the class change nothing and are left out.

    Args: kind: "segm", "boundary" or "bbox".
    """
    sizes = {int(i): pictures[i][0].tolist() for i in np.union1d(truth.place[:, 0], found.place[:, 0])}
    masks = _codes(truth, pictures)
    columns = {
        "area": coco_mask.area(masks),
        "bbox": coco_mask.toBbox(masks),
        "iscrowd": truth.values[:, 0].astype(int),
    }
    true = _dataset(sizes, truth, segmentation=masks, **columns)
    masks = _codes(found, pictures)
    left, top, right, bottom = found.values[:, 1:].T
    boxes = np.stack([left, top, right - left, bottom - top], axis=1)
    # As detectron2 has it, and not pycocotools' loadRes for results with both: the size of a mask is that of its pixels.
    areas = boxes[:, 2] * boxes[:, 3] if kind == "bbox" else coco_mask.area(masks)
    predicted = _dataset(sizes, found, segmentation=masks, area=areas, bbox=boxes, score=found.values[:, 0])
    settings: dict[str, Any] = {} if boundary is None else {"boundary_dilation_ratio": boundary}
    evaluation = COCOeval_faster(COCO(true), COCO(predicted), kind, print_function=log.debug, **settings)
    evaluation.evaluate()
    evaluation.accumulate()
    precision, recall = evaluation.eval["precision"][:, :, 0, :, -1], evaluation.eval["recall"][:, 0]
    return np.where(precision < 0, np.nan, precision).mean(axis=1), np.where(recall < 0, np.nan, recall)


def picture_precision(pictures: Sequence[Record], num_classes: int) -> Ratios:
    """(P, C) mask AP of each picture alone; nan for classes that it does not show, crowds aside.

    COCO's tools would take a call a picture; these are their rules for a single one.
    """
    precision = np.full((len(pictures), num_classes), np.nan)
    for row, picture in enumerate(pictures):
        truth, found = _tables([picture])
        for label in np.unique(truth.place[truth.values[:, 0] == 0, 1]):
            precision[row, label] = _precision_of_one(truth.of(label), found.of(label), picture)
    return precision


def _precision_of_one(truth: _Table, found: _Table, picture: Record) -> float:
    """One class in one picture with at least one object of it that is no crowd."""
    _, right, ignored = _matches_in(truth, found, picture)
    num_objects = np.array([(truth.values[:, 0] == 0).sum()])
    return float(_mean_precision(right, ~right & ~ignored, np.ones((1, right.shape[1]), int), num_objects).mean())


def _mean_precision(
    right: NDArray[np.bool_], wrong: NDArray[np.bool_], times: NDArray[np.integer], num_objects: NDArray[np.integer]
) -> Ratios:
    """Mean precision over 101 recalls of R data sets. Precision is highest, and recall rises, where a detection is right, so
    that these places alone are looked at.

    Args:
        right, wrong: (T, D) of the detections, best first.
        times: (R, D) how often each is there.
        num_objects: (R,) from 1 on.

    Returns:
        (R, T)
    """
    found = np.zeros((len(times), len(right)))
    for threshold, (hit, miss) in enumerate(zip(right, wrong, strict=True)):
        if not hit.any():
            continue
        hits = np.cumsum(times[:, hit], axis=1)
        precision = hits / np.maximum(hits + np.cumsum(times * miss, axis=1)[:, hit], 1)
        precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        reached = np.searchsorted(RECALLS, hits / num_objects[:, None], side="right")
        found[:, threshold] = (precision * np.diff(reached, axis=1, prepend=0)).sum(axis=1) / len(RECALLS)
    return found


def _matches_in(truth: _Table, found: _Table, picture: Record) -> tuple[Ratios, NDArray[np.bool_], NDArray[np.bool_]]:
    """One class in one picture: (D,) scores of its best detections, and (T, D) which are right and which do not count."""
    order = np.argsort(-found.values[:, 0], kind="stable")[: MAX_DETECTIONS[-1]]
    found = _Table(found.place[order], found.values[order])
    crowd = truth.values[:, 0] > 0
    if not len(order) or not len(crowd):
        nothing = np.zeros((NUM_THRESHOLDS, len(order)), bool)
        return found.values[:, 0], nothing, nothing
    overlaps = coco_mask.iou(_codes(found, [picture]), _codes(truth, [picture]), crowd.astype(int).tolist())
    return found.values[:, 0], *_matches(np.asarray(overlaps, np.float64), crowd)


def one_matched(metric: AveragePrecision) -> InstancePictures:
    """The matches of what this process has shown to a metric."""
    kept = metric.kept()
    return _matched(tuple(kept), list(kept.values()), metric.classes.names, sorted(metric.classes.things))


def _matched(
    names: Sequence[str], pictures: Sequence[Record], classes: Sequence[str], things: Sequence[int]
) -> InstancePictures:
    """The matches of all pictures."""
    truths = np.zeros((len(pictures), len(classes)), np.int64)
    places, scores = [np.zeros((0, 2), np.int64)], [np.zeros(0)]
    right, ignored = [np.zeros((0, NUM_THRESHOLDS), bool)], [np.zeros((0, NUM_THRESHOLDS), bool)]
    for row, picture in enumerate(pictures):
        truth, found = _tables([picture])
        np.add.at(truths[row], truth.place[truth.values[:, 0] == 0, 1], 1)
        for label in np.unique(found.place[:, 1]):
            of_class, hit, excused = _matches_in(truth.of(label), found.of(label), picture)
            places.append(np.tile([row, label], (len(of_class), 1)))
            scores.append(of_class)
            right.append(hit.T)
            ignored.append(excused.T)
    parts = (np.concatenate(part) for part in (places, scores, right, ignored))
    place, scores_of, hits, excuses = parts
    return InstancePictures(
        names,
        truths=truths,
        place=place,
        scores=scores_of,
        right=hits,
        ignored=excuses,
        classes=classes,
        things=things,
    )


def _matches(overlaps: Ratios, crowd: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """(D, G) IoU of detections, best first, with the truth -> (T, D) which are right, and which do not count.

    A detection takes the object that it overlaps most among those that are free; a crowd excuses any number of them.
    """
    thresholds = np.minimum(np.linspace(0.5, 0.95, NUM_THRESHOLDS), 1 - 1e-10)[:, None]
    free = np.repeat(~crowd[None], NUM_THRESHOLDS, axis=0)
    right = np.zeros((NUM_THRESHOLDS, len(overlaps)), bool)
    for number, row in enumerate(overlaps):
        open_to_it = np.where(free & (row >= thresholds), row, -1)
        best = open_to_it.shape[1] - 1 - open_to_it[:, ::-1].argmax(axis=1)  # the last of equals, as COCO has it
        right[:, number] = open_to_it.max(axis=1) >= 0
        free[right[:, number], best[right[:, number]]] = False
    in_crowd = (overlaps * crowd).max(axis=1, initial=0)[None] >= thresholds
    return right, in_crowd & ~right


def _codes(table: _Table, pictures: Sequence[Record]) -> list[dict[str, Any]]:
    """As COCO's tools take them."""
    rows = [(pictures[picture], start, stop) for picture, _, start, stop in table.place.tolist()]
    return [{"size": size.tolist(), "counts": text[start:stop].tobytes()} for (size, *_, text), start, stop in rows]


def _dataset(sizes: dict[int, list[int]], table: _Table, **columns: Sequence[Any] | NDArray[Any]) -> dict[str, Any]:
    """What a COCO file of one class holds. Numbers begin with 1, because an annotation 0 counts as no match."""
    lists = [column if isinstance(column, list) else np.asarray(column).tolist() for column in columns.values()]
    rows = zip((table.place[:, 0] + 1).tolist(), *lists, strict=True)
    return {
        "images": [{"id": number + 1, "height": height, "width": width} for number, (height, width) in sizes.items()],
        "categories": [{"id": 1, "name": "class"}],
        "annotations": [
            {"id": number, "image_id": picture, "category_id": 1, **dict(zip(columns, values, strict=True))}
            for number, (picture, *values) in enumerate(rows, start=1)
        ],
    }
