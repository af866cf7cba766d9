"""Masks of another size than their picture, and how sizes vary over the data set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from trimask.data.doctor.case import Case
from trimask.data.doctor.check import Check
from trimask.data.doctor.findings import Finding, Gathered, Where, number_of
from trimask.data.doctor.subject import Subject
from trimask.types import Size

RANGE = 16  # pictures of one set whose areas differ by more than this factor hardly belong together


class Sizes(Check):
    def __init__(self) -> None:
        self.refused, self.handled = Gathered(), Gathered()
        self.worst_aspect = 0.0
        self.larger = 0
        self.pictures: Counter[Size] = Counter()
        self.alone: Counter[Size] = Counter()
        self.first: dict[Size, Where] = {}

    def measure(self, subject: Subject) -> Any:
        file = subject.files[0] if subject.files else None
        size = file.header.upright if file and file.header else None
        return None if size is None else (size, subject.sizes, bool(subject.refusal))

    def collect(self, where: Where, measured: Any) -> None:
        size, pair, refused = measured
        (self.pictures if where.split else self.alone)[size] += 1
        self.first.setdefault(size, where)
        if pair is None or pair[0] == pair[1]:
            return
        (height, width), (mask_height, mask_width) = pair
        self.larger += mask_height * mask_width > height * width
        aspect = abs(mask_width * height / (mask_height * width) - 1)
        detail = f"mask {mask_width}x{mask_height}, picture {width}x{height}"
        if refused:
            turned = ", turned by 90 degrees?" if pair[0] == pair[1][::-1] else ""
            self.refused.add(where, detail + turned)
        else:
            self.worst_aspect = max(self.worst_aspect, aspect)
            self.handled.add(where, detail)

    def findings(self, case: Case) -> Iterator[Finding]:
        total = sum(self.pictures.values())
        if self.refused:
            yield self.refused.finding(
                "sizes/mask-differs",
                "error",
                f"{number_of(self.refused.count, 'mask')} of another size than the picture.",
                "Make masks at the size of their pictures, with nearest-neighbor resizing. Where width and height are "
                "exchanged, one of the two files was turned by its EXIF orientation.",
                of=total,
            )
        if self.handled:
            which = "smaller" if not self.larger else "larger or smaller"
            yield self.handled.finding(
                "sizes/mask-scaled",
                "warning",
                f"{number_of(self.handled.count, 'mask')} {which} than the picture; proportions differ by up to "
                f"{self.worst_aspect:.1%}. The dataset scales them to the picture.",
                "Nothing needs to be done if the dataset does so on purpose; edges of the truth are as coarse as the mask. "
                "Proportions that differ by more than 2 % mean that the two do not belong together.",
                of=total,
                numbers={"worst_aspect_mismatch": round(self.worst_aspect, 5)},
            )
        yield from _mixed(self.pictures, self.first, "picture", "")
        yield from _mixed(self.alone, self.first, "file of no sample", "-alone")


def _mixed(sizes: Counter[Size], first: dict[Size, Where], noun: str, suffix: str) -> Iterator[Finding]:
    if len(sizes) < 2:
        return
    alone = noun != "picture"
    small, large = (pick(sizes, key=lambda size: size[0] * size[1]) for pick in (min, max))
    factor = large[0] * large[1] / (small[0] * small[1])
    if alone and factor <= RANGE:
        return
    named = f"{small[1]}x{small[0]} to {large[1]}x{large[0]} (width x height)"
    if len(sizes) <= 4:
        named = ", ".join(f"{width}x{height}" for height, width in sorted(sizes)) + " (width x height)"
    common, often = sizes.most_common(1)[0]
    gathered = Gathered()
    for size in (small, large):
        gathered.add(first[size], f"{size[1]}x{size[0]}")
    total = sum(sizes.values())
    plural = "picture files of no sample" if alone else "pictures"
    yield gathered.finding(
        f"sizes/mixed{suffix}",
        "warning" if factor > RANGE else "note",
        f"{total:,} {plural} have {len(sizes):,} sizes, {named}; {often:,} have the most frequent, {common[1]}x{common[0]}."
        + (f" The largest has {factor:,.0f} times the pixels of the smallest." if factor > RANGE else ""),
        "A batch needs one size: training crops or resizes (`Warp`); validation pads. Make sure that thumbnails or test "
        "files are not among them."
        if factor > RANGE
        else "A batch needs one size: training crops or resizes (`Warp`).",
        count=len(sizes),
        of=total,
        numbers={"sizes": {f"{w}x{h}": n for (h, w), n in sizes.most_common(30)}},
    )
