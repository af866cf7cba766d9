"""Gaps in the numbers of pictures: what a download or a cleaning has left out."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterator

from trimask.data.doctor.case import Case
from trimask.data.doctor.check import Check
from trimask.data.doctor.findings import Finding, number_of, some

DENSE = 0.8  # share of the numbers between the first and the last that must be there; else they are no numbering
FEWEST = 8


class Numbering(Check):
    def findings(self, case: Case) -> Iterator[Finding]:
        if case.tree is None:
            return
        told: set[tuple[int, ...]] = set()
        for folder, names in case.tree.picture_folders.items():
            missing = gaps(names)
            if not missing or tuple(missing) in told:  # the masks lack what the pictures lack
                continue
            told.add(tuple(missing))
            yield Finding(
                "numbering/gaps",
                "note",
                f"{number_of(len(missing), 'number')} between the first and the last in {case.tree.relative(folder)} "
                f"{'is' if len(missing) == 1 else 'are'} missing: {some(_ranges(missing))}.",
                "Nothing needs to be done if the pictures were left out on purpose.",
                count=len(missing),
                where=case.tree.relative(folder),
                numbers={"missing": missing[:1000]},
            )


def gaps(names: list[str]) -> list[int]:
    """The numbers that are missing where names are numbered densely; names of several series are taken apart."""
    series: dict[tuple[str, str], set[int]] = defaultdict(set)
    for name in names:
        if found := re.fullmatch(r"(.*?)(\d+)(\D*)", os.path.splitext(name)[0]):
            series[found.group(1), found.group(3)].add(int(found.group(2)))
    missing: list[int] = []
    for numbers in series.values():
        low, high = min(numbers), max(numbers)
        if len(numbers) >= FEWEST and len(numbers) >= DENSE * (high - low + 1):
            missing += sorted(set(range(low, high + 1)) - numbers)
    return missing


def _ranges(numbers: list[int]) -> list[str]:
    """1, 2, 3, 7 -> 1-3, 7."""
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return [str(low) if low == high else f"{low}-{high}" for low, high in ranges]
