"""YOLO label files: coordinates outside 0..1, and two sets of labels for the same pictures that number classes differently.

Format: one text file a picture, one object a line: class number, then a box (4 numbers) or a polygon, relative to the picture.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator
from itertools import combinations
from pathlib import PurePath
from typing import Any

from trimask.data.doctor.case import Case
from trimask.data.doctor.check import Check
from trimask.data.doctor.findings import Finding, Gathered, Where, number_of

MAX_FILES = 20_000
MAX_BYTES = 1 << 20
TOLERANCE = 1e-3


class YoloFiles(Check):
    def __init__(self) -> None:
        self.classes: dict[str, set[int]] = defaultdict(set)
        self.stems: dict[str, set[str]] = defaultdict(set)
        self.outside = Gathered()

    def tasks(self, case: Case) -> Iterator[Any]:
        if case.tree is None:
            return
        stems = {PurePath(path).stem for path in case.tree.pictures}
        files = [path for path in case.tree.ending(".txt") if PurePath(path).stem in stems][:MAX_FILES]
        for start in range(0, len(files), 100):
            yield [
                (path, case.tree.relative(os.path.dirname(os.path.dirname(path))))
                for path in files[start : start + 100]
            ]

    def perform(self, task: list[tuple[str, str]]) -> Any:
        return [(path, root, *found) for path, root in task if (found := read_labels(path)) is not None]

    def gather(self, done: Any) -> None:
        for path, root, classes, worst in done:
            self.classes[root].update(classes)
            self.stems[root].add(PurePath(path).stem)
            if worst is not None:
                self.outside.add(Where("", -1, path, ()), f"{worst:g}")

    def findings(self, case: Case) -> Iterator[Finding]:
        if self.outside:
            yield self.outside.finding(
                "yolo/outside",
                "warning",
                f"{number_of(self.outside.count, 'YOLO label file')} with coordinates outside 0..1; the first holds "
                f"{self.outside.examples[0].detail}.",
                "Divide coordinates by the width and height of the picture.",
            )
        for one, other in combinations(sorted(self.classes), 2):
            shared = len(self.stems[one] & self.stems[other])
            if (
                shared
                and max(self.classes[one]) != max(self.classes[other])
                and self.classes[one] ^ self.classes[other]
            ):
                ranges = [f"{root}: {min(self.classes[root])} to {max(self.classes[root])}" for root in (one, other)]
                yield Finding(
                    "yolo/numbering",
                    "note",
                    f"Two sets of YOLO labels for {number_of(shared, 'picture')} number their classes differently "
                    f"({'; '.join(ranges)}).",
                    "Read each with its own list of classes: one may use the ids of COCO with their gaps, the other 0, 1, 2, ...",
                    count=shared,
                    where=f"{one}, {other}",
                )


def read_labels(path: str) -> tuple[set[int], float | None] | None:
    """The class numbers of a label file, and its worst coordinate outside 0..1; None for other texts."""
    try:
        if os.path.getsize(path) > MAX_BYTES:
            return None
        with open(path, encoding="utf-8") as file:
            rows = [[float(word) for word in line.split()] for line in file if line.strip()]
    except (OSError, ValueError):  # another kind of text
        return None
    if not rows or any(len(row) < 5 or row[0] != int(row[0]) or row[0] < 0 for row in rows):
        return None
    worst = max((value for row in rows for value in row[1:]), key=lambda value: abs(value - 0.5))
    return {int(row[0]) for row in rows}, worst if abs(worst - 0.5) > 0.5 + TOLERANCE else None
