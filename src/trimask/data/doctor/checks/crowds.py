"""How much of the truth is crowds: regions of objects that nobody has counted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from trimask.data.doctor.case import Case
from trimask.data.doctor.check import Check
from trimask.data.doctor.findings import Finding, Gathered, Where, number_of, share
from trimask.data.doctor.subject import Subject


class Crowds(Check):
    def __init__(self) -> None:
        self.found = Gathered()
        self.num_segments = 0

    def measure(self, subject: Subject) -> Any:
        if subject.sample is None or not len(subject.sample.labels):
            return None
        return int(subject.sample.is_crowd.sum()), len(subject.sample.labels)

    def collect(self, where: Where, measured: Any) -> None:
        crowds, segments = measured
        self.num_segments += segments
        if crowds:
            self.found.add(where, number_of(crowds, "crowd"), times=crowds)

    def findings(self, case: Case) -> Iterator[Finding]:
        if not self.found:
            return
        everything = self.found.count > self.num_segments / 2
        one = self.found.count == 1
        yield self.found.finding(
            "crowds/share",
            "warning" if everything else "note",
            f"{number_of(self.found.count, 'segment')} ({share(self.found.count, self.num_segments)}) "
            f"{'is a crowd' if one else 'are crowds'} "
            f"({', '.join(f'{count} in {split}' for split, count in self.found.by_split.items())}). Losses and scores "
            "treat them as regions where nothing is counted.",
            "Most segments are crowds: an export may have set iscrowd for every run-length mask. Set it to 0 for single objects."
            if everything
            else "Nothing needs to be done.",
            of=self.num_segments,
            numbers={"by_split": dict(self.found.by_split)},
        )
