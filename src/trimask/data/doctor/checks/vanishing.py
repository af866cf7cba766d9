"""Masks that have no pixel left at the training resolution, by class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np

from trimask.data.doctor.case import Case
from trimask.data.doctor.check import Check
from trimask.data.doctor.findings import Finding, Gathered, Where, number_of, share, some
from trimask.data.doctor.resolution import Resolution
from trimask.data.doctor.subject import Subject
from trimask.types import Sample

NOTEWORTHY = 0.05  # share of a class


class Vanishing(Check):
    """Scales every sample as training would, without its random part, by nearest neighbor.

    Args: resolution: of the case. Set by `prepare`.
    """

    def __init__(self) -> None:
        self.resolution: Resolution | None = None
        self.vanished, self.every = Counter[int](), Counter[int]()
        self.found = Gathered()

    def prepare(self, case: Case) -> None:
        self.resolution = case.resolution

    def measure(self, subject: Subject) -> Any:
        if self.resolution is None or subject.sample is None:
            return None
        sample = subject.sample
        before = subject.areas
        size = self.resolution.scaled(sample.size)
        after = before if size == sample.size else scaled_areas(sample, size)
        kept = before > 0
        return sample.labels[kept].tolist(), sample.labels[kept & (after == 0)].tolist()

    def collect(self, where: Where, measured: Any) -> None:
        every, vanished = measured
        self.every.update(every)
        self.vanished.update(vanished)
        if vanished:
            self.found.add(where, number_of(len(vanished), "segment"), times=len(vanished))

    def skipped(self, case: Case) -> str:
        return "" if case.resolution else "the training resolution is not known; give --size or --exp"

    def findings(self, case: Case) -> Iterator[Finding]:
        if not self.found or case.classes is None:
            return
        names, total = case.classes.names, sum(self.every.values())
        shares = {names[label]: count / self.every[label] for label, count in self.vanished.items()}
        worst = sorted(shares, key=lambda name: -shares[name])
        much = self.found.count > NOTEWORTHY * total or any(part > 0.5 for part in shares.values())
        yield self.found.finding(
            "vanishing/segments",
            "warning" if much else "note",
            f"{number_of(self.found.count, 'segment')} ({share(self.found.count, total)}) "
            f"{'has' if self.found.count == 1 else 'have'} no pixel left at the training resolution ({case.resolution}): "
            + some([f"{name} {share(shares[name], 1)}" for name in worst])
            + ".",
            "Train at a higher resolution or on crops, or accept that these are not learned; a criterion must bear "
            "pictures that have lost all of them.",
            of=total,
            numbers={"share_by_class": {name: round(shares[name], 5) for name in worst}},
        )


def scaled_areas(sample: Sample, size: tuple[int, int]) -> np.ndarray:
    """(N,) pixels of each segment after nearest-neighbor scaling to (height, width)."""
    total = np.zeros(len(sample.labels) + 1, np.int64)
    for layer in sample.segments:
        small = cv2.resize(layer, size[::-1], interpolation=cv2.INTER_NEAREST)
        total += np.bincount(small.ravel(), minlength=len(total))
    return total[1:]
