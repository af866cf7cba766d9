"""Segments of a few pixels: slips of a brush, or objects that nothing can learn from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from trimask.data.doctor.case import Case
from trimask.data.doctor.check import Check
from trimask.data.doctor.findings import Finding, Gathered, Where, number_of, share, some
from trimask.data.doctor.subject import Subject

TINY = 16  # pixels: four by four, one cell of a feature map of stride 4


class Tiny(Check):
    def __init__(self) -> None:
        self.found = Gathered()
        self.classes: Counter[int] = Counter()
        self.num_segments = 0

    def measure(self, subject: Subject) -> Any:
        if subject.sample is None:
            return None
        areas, labels = subject.areas, subject.sample.labels
        tiny = (areas > 0) & (areas < TINY)
        return len(labels), labels[tiny].tolist(), areas[tiny].tolist()

    def collect(self, where: Where, measured: Any) -> None:
        num_segments, labels, areas = measured
        self.num_segments += num_segments
        self.classes.update(labels)
        if labels:
            shown = some([number_of(area, "pixel") for area in areas], 3)
            self.found.add(where, shown, times=len(labels))

    def findings(self, case: Case) -> Iterator[Finding]:
        if not self.found or case.classes is None:
            return
        kinds = some([f"{case.classes.names[label]} ({count})" for label, count in self.classes.most_common()])
        yield self.found.finding(
            "tiny/segments",
            "warning" if self.found.count > self.num_segments / 5 else "note",
            f"{number_of(self.found.count, 'segment')} ({share(self.found.count, self.num_segments)}) of fewer than {TINY} "
            f"pixels: {kinds}.",
            "Look at some. Where they are slips of annotation, remove them; where they are real, train at a higher "
            "resolution, or leave them out of the evaluation by a minimum area.",
            of=self.num_segments,
        )
