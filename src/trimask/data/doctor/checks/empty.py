"""Pictures without any annotation, masks of background alone, and the share of pixels that is unlabelled."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from trimask.data.doctor.case import Case
from trimask.data.doctor.check import Check
from trimask.data.doctor.findings import Finding, Gathered, Where, counted, number_of, share, some
from trimask.data.doctor.subject import Subject, label_maps
from trimask.data.label_map import IGNORE

BACKGROUND = frozenset({"background", "_background_", "__background__", "bg", "void", "unlabelled", "unlabeled"})


class Empty(Check):
    def __init__(self) -> None:
        self.empty, self.background = Gathered(), Gathered()
        self.ignored: dict[str, list[int]] = {}  # split -> unlabelled pixels, pixels, pictures with some, pictures

    def measure(self, subject: Subject) -> Any:
        if subject.sample is None or subject.classes is None:
            return None
        labelled = subject.num_labelled
        present = set(subject.sample.labels[subject.areas > 0].tolist())
        names = {subject.classes.names[label].lower() for label in present if 0 <= label < len(subject.classes)}
        kind = "empty" if not labelled else "background" if names <= BACKGROUND else ""
        return kind, subject.sample.segments[0].size - labelled, subject.sample.segments[0].size

    def collect(self, where: Where, measured: Any) -> None:
        kind, unlabelled, total = measured
        if kind:
            {"empty": self.empty, "background": self.background}[kind].add(where)
        counts = self.ignored.setdefault(where.split, [0, 0, 0, 0])
        for place, number in enumerate((unlabelled, total, unlabelled > 0, 1)):
            counts[place] += number

    def findings(self, case: Case) -> Iterator[Finding]:
        num_samples = sum(counts[3] for counts in self.ignored.values())
        objects_only = all("semantic" not in dataset.offers for dataset in case.datasets.values())
        if self.empty:
            yield self.empty.finding(
                "empty/no-annotation",
                "note" if objects_only and self.empty.count < num_samples / 2 else "warning",
                f"{number_of(self.empty.count, 'picture')} without a labelled pixel.",
                "Make sure that there is nothing to be found in them, as opposed to nobody having looked. A semantic loss "
                "ignores them wholly.",
                of=num_samples,
            )
        if self.background:
            most = self.background.count > num_samples / 2
            yield self.background.finding(
                "empty/background",
                "warning" if most else "note",
                f"{counted(self.background.count, 'mask', 'hold')} background alone.",
                "Make sure that nothing is there, and that the mask belongs to the picture.",
                of=num_samples,
            )
        unlabelled, total = (sum(counts[i] for counts in self.ignored.values()) for i in (0, 1))
        with_some = sum(counts[2] for counts in self.ignored.values())
        if unlabelled and not objects_only:
            void = _ignored_values(case)
            yield Finding(
                "empty/unlabelled",
                "note" if unlabelled < total / 2 else "warning",
                f"{share(unlabelled, total)} of all pixels are unlabelled{void}, in {number_of(with_some, 'picture')}. Losses "
                "and scores leave them out.",
                "Nothing needs to be done if that is what the class map means by ignoring a value.",
                count=with_some,
                of=num_samples,
                where=", ".join(self.ignored),
                numbers={"unlabelled_share": round(unlabelled / total, 6)},
            )


def _ignored_values(case: Case) -> str:
    """In brackets, the raw values and colors that the class maps leave out; "" where there are none."""
    maps = [found for dataset in case.datasets.values() for found in label_maps(dataset)]
    shown = {
        f"{value:06x}" if label_map.is_color else str(value)
        for label_map in maps
        for value, name in label_map.names.items()
        if name == IGNORE
    }
    return f" (raw {some(sorted(shown))})" if shown else ""
