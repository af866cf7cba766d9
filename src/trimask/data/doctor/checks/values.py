"""What masks hold, against the map from raw values (or colors) to classes: unlisted values, ids that are shifted by one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from trimask.data.doctor.case import Case
from trimask.data.doctor.check import Check
from trimask.data.doctor.findings import Finding, Gathered, Where, counted, number_of
from trimask.data.doctor.subject import MAX_VALUES, Subject, label_maps
from trimask.data.label_map import IGNORE

SHOWN = 12


class Values(Check):
    """Only what made the dataset refuse a sample is an error: a dataset may read its masks in ways of its own besides its map."""

    def __init__(self) -> None:
        self.pixels: Counter[int] = Counter()
        self.masks: Counter[int] = Counter()
        self.unlisted: dict[int, Gathered] = {}
        self.refused = Gathered()
        self.wrong_kind = Gathered()
        self.names: dict[int, str] = {}
        self.is_color = False
        self.num_masks = 0

    def measure(self, subject: Subject) -> Any:
        label_map = subject.label_map
        if label_map is None or subject.mask is None or subject.mask.pixels is None:
            return None
        if subject.wrong_kind:
            return "kind", subject.mask.header.mode if subject.mask.header else "", {}, {}
        return label_map.names, label_map.is_color, subject.values, subject.unlisted

    def collect(self, where: Where, measured: Any) -> None:
        self.num_masks += 1
        if measured[0] == "kind":
            self.wrong_kind.add(where, f"stored as {measured[1]}")
            return
        self.names, self.is_color, values, unlisted = measured
        self.pixels.update(values)
        self.masks.update(values.keys())
        if unlisted:
            self.refused.add(where, self._listed(unlisted))
        for value, count in unlisted.items():
            if len(self.unlisted) < 4 * MAX_VALUES or value in self.unlisted:
                self.unlisted.setdefault(value, Gathered()).add(where, f"{count:,} pixels")

    def _show(self, value: int) -> str:
        return f"{value:06x}" if self.is_color else str(value)

    def _listed(self, counts: dict[int, int]) -> str:
        shown = [f"{self._show(value)} ({number_of(count, 'pixel')})" for value, count in list(counts.items())[:5]]
        return ", ".join(shown) + (f" and {len(counts) - 5} more" if len(counts) > 5 else "")

    def findings(self, case: Case) -> Iterator[Finding]:
        if self.wrong_kind:
            listed, hold = ("colors", "single values") if self._color_map(case) else ("single values", "colors")
            yield self.wrong_kind.finding(
                "values/wrong-kind",
                "error",
                f"{counted(self.wrong_kind.count, 'mask', 'hold')} {hold}, but the class map lists {listed}.",
                "Describe the classes by `values` for grey and palette masks, by `colors` for RGB ones.",
                of=self.num_masks,
            )
        if not self.unlisted:
            return
        kind, fix = self._diagnosis()
        worst = sorted(self.unlisted, key=lambda value: -self.pixels[value])
        noun = "color" if self.is_color else "value"
        rows = [
            f"{self._show(v)} ({number_of(self.pixels[v], 'pixel')} in {number_of(self.unlisted[v].count, 'mask')})"
            for v in worst[:SHOWN]
        ]
        more = f" and {len(worst) - SHOWN} more" if len(worst) > SHOWN else ""
        yield self.refused.finding(
            f"values/{kind}",
            "error",
            f"{counted(self.refused.count, 'mask', 'hold')} {noun}s that the class map does not list: "
            f"{', '.join(rows)}{more}. Listed are {', '.join(map(self._show, sorted(self.names)[:SHOWN]))}"
            f"{', ...' if len(self.names) > SHOWN else ''}.",
            fix,
            of=self.num_masks,
            numbers={
                "unlisted": {self._show(v): self.pixels[v] for v in worst[:MAX_VALUES]},
                "histogram": {self._show(v): self.pixels[v] for v in sorted(self.pixels)[:MAX_VALUES]},
            },
        )

    def _color_map(self, case: Case) -> bool:
        return any(found.is_color for dataset in case.datasets.values() for found in label_maps(dataset))

    def _diagnosis(self) -> tuple[str, str]:
        """The kind of the finding, and what to do."""
        new, listed, seen = set(self.unlisted), set(self.names), set(self.pixels)
        count = len(listed)
        if len(new) > max(5, count):
            return "blurred", (
                "So many values mean that the masks were smoothed: by JPEG, or by a resize that was not nearest-neighbor. "
                "Make them again with nearest and PNG."
            )
        if self.is_color:
            return "unlisted", 'List each color with its class, or with "ignore".'
        if seen == {0, 255}:
            return "binary", (
                "These are binary masks of 0 and 255. Describe them by `values: {0: <background>, 255: <foreground>}`."
            )
        if listed == set(range(count)) and new <= {count, 255} and count in new:
            if 0 not in seen:
                return "off-by-one", (
                    "The ids count from 1: 0 never occurs. Write `values: {1: <first class>, 2: <second class>, ...}`; if 0 "
                    'means unlabelled, add 0: "ignore".'
                )
            return "reduce-zero", (
                "There is one id more than classes, and 0 occurs: 0 is probably a class of its own (background), or "
                'unlabelled as in ADE20K, where configurations call this reduce_zero_label. Write `values: {0: "ignore", '
                "1: <first class>, ...}`, or give 0 a name of its own."
            )
        if min(listed) > 0 and 0 in new:
            return (
                "zero",
                f'0 occurs but is not listed. If it means unlabelled, list `0: "{IGNORE}"`; else name its class.',
            )
        if new == {255}:
            return "void", (
                f'255 usually means unlabelled: list `255: "{IGNORE}"`. If the ids have been shifted by one before, it was 0.'
            )
        return "unlisted", f'List each value with its class, or with "{IGNORE}". 255 is often unlabelled.'
