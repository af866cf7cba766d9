"""Instances that overlap, and instances that are nearly the same mask twice."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from trimask.data.doctor.case import Case
from trimask.data.doctor.check import Check
from trimask.data.doctor.findings import Finding, Gathered, Where, number_of, share
from trimask.data.doctor.subject import Subject

SAME = 0.9  # IoU above which two masks of one class are one object annotated twice


class Overlaps(Check):
    def __init__(self) -> None:
        self.overlapping, self.twice = Gathered(), Gathered()
        self.overlap_pixels = self.labelled_pixels = self.num_samples = 0

    def measure(self, subject: Subject) -> Any:
        if subject.sample is None:
            return None
        if len(subject.sample.segments) < 2:
            return subject.num_labelled, 0, 0
        covered = (subject.sample.segments > 0).sum(axis=0)
        return int((covered > 0).sum()), int((covered > 1).sum()), _twice(subject)

    def collect(self, where: Where, measured: Any) -> None:
        labelled, overlap, twice = measured
        self.num_samples += 1
        self.labelled_pixels += labelled
        self.overlap_pixels += overlap
        if overlap:
            self.overlapping.add(where, f"{share(overlap, labelled)} of its labelled pixels")
        if twice:
            self.twice.add(where, number_of(twice, "pair"), times=twice)

    def findings(self, case: Case) -> Iterator[Finding]:
        if self.overlapping:
            yield self.overlapping.finding(
                "overlaps/pixels",
                "note",
                f"Instances overlap in {number_of(self.overlapping.count, 'picture')}: "
                f"{share(self.overlap_pixels, self.labelled_pixels)} of all labelled pixels belong to more than one. All masks "
                "are kept as they are; a semantic or panoptic map takes the one on top.",
                "Nothing needs to be done; where order matters, see the overlap rule of the dataset.",
                of=self.num_samples,
            )
        if self.twice:
            yield self.twice.finding(
                "overlaps/same-object",
                "warning",
                f"{number_of(self.twice.count, 'pair')} of masks of one class in one picture agree in more than "
                f"{SAME:.0%} of their pixels: objects that were annotated twice.",
                "Remove one of each pair.",
            )


def _twice(subject: Subject) -> int:
    """Pairs of segments of one class whose masks are nearly equal. Such a pair lies in two layers."""
    sample = subject.sample
    assert sample is not None
    areas, labels = subject.areas, sample.labels
    count, num_ids = 0, len(labels) + 1
    for low in range(len(sample.segments)):
        for high in range(low + 1, len(sample.segments)):
            one, other = sample.segments[low], sample.segments[high]
            both = (one > 0) & (other > 0)
            pairs, overlap = np.unique(one[both].astype(np.int64) * num_ids + other[both], return_counts=True)
            first, second = np.divmod(pairs, num_ids)
            same_class = labels[first - 1] == labels[second - 1]
            crowd = sample.is_crowd[first - 1] | sample.is_crowd[second - 1]
            union = areas[first - 1] + areas[second - 1] - overlap
            count += int((same_class & ~crowd & (overlap > SAME * union)).sum())
    return count
