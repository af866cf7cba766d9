"""Classes that no picture of a split holds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from trimask.data.doctor.case import Case
from trimask.data.doctor.check import Check
from trimask.data.doctor.findings import Finding, Where, some
from trimask.data.doctor.subject import Subject


class Absent(Check):
    def __init__(self) -> None:
        self.pictures: dict[str, np.ndarray] = {}

    def measure(self, subject: Subject) -> Any:
        if subject.sample is None or subject.classes is None:
            return None
        present = np.unique(subject.sample.labels[subject.areas > 0])
        return len(subject.classes), present[(present >= 0) & (present < len(subject.classes))]

    def collect(self, where: Where, measured: Any) -> None:
        num_classes, present = measured
        counts = self.pictures.setdefault(where.split, np.zeros(num_classes, np.int64))
        counts[present] += 1

    def skipped(self, case: Case) -> str:
        return "with --limit, an absent class may be among what was left out" if case.partial else ""

    def findings(self, case: Case) -> Iterator[Finding]:
        if not self.pictures or case.classes is None:
            return
        names = case.classes.names
        nowhere = [i for i in range(len(names)) if not any(counts[i] for counts in self.pictures.values())]
        if nowhere:
            yield Finding(
                "absent/everywhere",
                "warning",
                f"{_of(nowhere, names)} in no picture: {some(names[i] for i in nowhere)}.",
                "Leave them out of the class list, or find out why: is the map from raw values right, are the ids shifted?",
                count=len(nowhere),
                of=len(names),
                where=", ".join(self.pictures),
                numbers={"classes": [names[i] for i in nowhere]},
            )
        for split, counts in self.pictures.items():
            gone = [i for i in range(len(names)) if not counts[i] and i not in nowhere]
            if not gone:
                continue
            learned = "A network cannot learn them." if split == "train" else "They have no score there."
            yield Finding(
                f"absent/{split}",
                "warning" if split == "train" else "note",
                f"{_of(gone, names)} in other splits but not in {split}: {some(names[i] for i in gone)}. {learned}",
                "Divide the pictures so that every class is in every split, or leave these classes out.",
                count=len(gone),
                of=len(names),
                where=split,
                numbers={"classes": [names[i] for i in gone]},
            )


def _of(absent: list[int], names: tuple[str, ...]) -> str:
    return f"{len(absent)} of {len(names)} classes {'occurs' if len(absent) == 1 else 'occur'}"
