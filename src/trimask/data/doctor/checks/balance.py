"""How pixels, pictures and instances are spread over the classes, by split, with weights that would even them out.

The weights are those of median frequency balancing (Eigen and Fergus, ICCV 2015, section 6.3.2): the frequency of a class is
its pixels over all pixels of the pictures that hold it, its weight the median of all frequencies over its own.

What was counted of the whole training split is kept as `statistics` keeps it, so that a run with `class_weights: auto` or
`data.balance` does not count again.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimask.data.doctor.case import Case
from trimask.data.doctor.check import Check
from trimask.data.doctor.findings import Finding, Where, number_of, share, some
from trimask.data.doctor.subject import Subject
from trimask.data.statistics import ClassStatistics, keep, place_of, visible_areas

RARE = 0.001  # share of the labelled pixels below which a class is called rare
DOMINANT = 0.95


class ClassCounts:
    """Of one split: arrays of one number a class; what `statistics.class_statistics` counts, and more.

    Attributes:
        pixels: of the class; where segments overlap, of the one on top.
        pictures: that hold the class.
        instances: of things, without crowds.
        pixels_around: labelled pixels of the pictures that hold it.
        smallest, largest: share that it has of a picture that holds it.
        labelled, total: pixels of the split.
        num_pictures: of the split.
    """

    def __init__(self, num_classes: int) -> None:
        self.pixels, self.pictures, self.instances, self.pixels_around = np.zeros((4, num_classes), np.int64)
        self.smallest, self.largest = np.ones(num_classes), np.zeros(num_classes)
        self.labelled = self.total = self.num_pictures = 0

    def add(self, pixels: dict[int, int], instances: dict[int, int], labelled: int, total: int) -> None:
        self.num_pictures += 1
        self.labelled += labelled
        self.total += total
        for label, count in pixels.items():
            self.pixels[label] += count
            self.pictures[label] += 1
            self.pixels_around[label] += labelled
            self.smallest[label] = min(self.smallest[label], count / total)
            self.largest[label] = max(self.largest[label], count / total)
        for label, count in instances.items():
            self.instances[label] += count


class Balance(Check):
    """Its counts by split are also what reports show as bars."""

    def __init__(self) -> None:
        self.splits: dict[str, ClassCounts] = {}
        self.num_classes = 0
        self.place: Path | None = None  # for the statistics of the training split
        self.rows = array("q")  # of the training split: picture, label, pixels, instances

    def prepare(self, case: Case) -> None:
        dataset = case.datasets.get("train")
        if dataset is not None and not case.partial:
            self.place = place_of(dataset)

    def measure(self, subject: Subject) -> Any:
        sample = subject.sample
        if sample is None or subject.classes is None:
            return None
        areas = subject.areas if len(sample.segments) == 1 else visible_areas(sample)
        pixels: dict[int, int] = {}
        instances: dict[int, int] = {}
        for label, area, crowd in zip(sample.labels.tolist(), areas.tolist(), sample.is_crowd, strict=True):
            if not 0 <= label < len(subject.classes):
                return None  # an error of its own
            pixels[label] = pixels.get(label, 0) + area
            if label in subject.classes.things and not crowd and subject.offers & {"instances", "panoptic"}:
                instances[label] = instances.get(label, 0) + 1
        labelled = subject.num_labelled
        return (
            len(subject.classes),
            {k: v for k, v in pixels.items() if v},
            instances,
            labelled,
            sample.segments[0].size,
        )

    def collect(self, where: Where, measured: Any) -> None:
        self.num_classes, *counts = measured
        self.splits.setdefault(where.split, ClassCounts(self.num_classes)).add(*counts)
        if where.split == "train" and self.place is not None:
            pixels, instances, *_ = counts
            for label in pixels.keys() | instances.keys():
                self.rows.extend((where.index, label, pixels.get(label, 0), instances.get(label, 0)))

    def _keep(self, case: Case) -> None:
        """Where every picture of the training split could be counted."""
        counts = self.splits.get("train")
        if self.place is None or counts is None or counts.num_pictures < len(case.datasets["train"]):
            return
        columns = np.array(self.rows, np.int64).reshape(-1, 4).T
        picture, label, area, number = columns[:, np.lexsort((columns[1], columns[0]))]
        keep(ClassStatistics(self.num_classes, counts.num_pictures, picture, label, area, number), self.place)

    def weights(self, split: str) -> NDArray[np.float64]:
        """Median frequency balancing; nan for classes that do not occur."""
        counts = self.splits[split]
        with np.errstate(divide="ignore", invalid="ignore"):
            frequency = counts.pixels / counts.pixels_around
            return np.asarray(np.nanmedian(frequency) / frequency) if counts.pictures.any() else frequency

    def findings(self, case: Case) -> Iterator[Finding]:
        self._keep(case)
        split = "train" if "train" in self.splits else next(iter(self.splits), None)
        if split is None or case.classes is None:
            return
        counts, names = self.splits[split], case.classes.names
        parts = counts.pixels / max(counts.labelled, 1)
        numbers = {"class_weights": {n: _rounded(w) for n, w in zip(names, self.weights(split), strict=True)}}
        ranges = {n: (counts.smallest[i], counts.largest[i]) for i, n in enumerate(names) if counts.pictures[i]}
        rare = [i for i in np.argsort(parts) if 0 < parts[i] < RARE]
        if rare:
            yield Finding(
                "balance/rare",
                "note",
                f"{len(rare)} of {len(names)} classes have less than {share(RARE, 1)} of the labelled pixels of {split}: "
                + some(
                    [
                        f"{names[i]} ({share(parts[i], 1)}, {number_of(int(counts.pictures[i]), 'picture')})"
                        for i in rare
                    ]
                )
                + ".",
                "Weight the classes (`class_weights: auto` of a loss term), draw pictures with rare classes more often "
                "(`data.balance`), or use a loss that does not follow area (Dice).",
                count=len(rare),
                of=len(names),
                where=split,
                numbers=numbers,
            )
        if len(names) > 1 and parts.max() > DOMINANT:
            label = int(parts.argmax())
            yield Finding(
                "balance/dominant",
                "warning",
                f"{names[label]} covers {share(parts[label], 1)} of the labelled pixels of {split}: a network that predicts "
                "nothing else reaches that pixel accuracy.",
                "Judge by IoU, not by accuracy. Weight the classes, or crop around the others.",
                count=1,
                where=split,
                numbers=numbers,
            )
        if len(names) == 2 and names[1] in ranges and counts.num_pictures > 1:
            low, high = ranges[names[1]]
            low, high = self._range(1, low, high)
            yield Finding(
                "balance/range",
                "note",
                f"{names[1]} covers {share(low, 1)} to {share(high, 1)} of a picture.",
                "Nothing needs to be done; scale augmentation should cover the range.",
                count=int(counts.pictures[1]),
                where=", ".join(self.splits),
                numbers={"smallest": round(float(low), 5), "largest": round(float(high), 5)} | numbers,
            )

    def _range(self, label: int, low: float, high: float) -> tuple[float, float]:
        """Over all splits."""
        every = self.splits.values()
        return min([low, *(c.smallest[label] for c in every)]), max([high, *(c.largest[label] for c in every)])


def _rounded(weight: float) -> float | None:
    return round(float(weight), 4) if np.isfinite(weight) else None
