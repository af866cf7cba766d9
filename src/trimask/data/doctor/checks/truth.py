"""Splits that cannot be made, and samples that the dataset refuses for a reason that no other check names."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from trimask.data.doctor.case import Case
from trimask.data.doctor.check import Check
from trimask.data.doctor.findings import Finding, Gathered, Severity, Where, counted, number_of, split_names
from trimask.data.doctor.subject import Subject


class Truth(Check):
    """An error for every refused sample; for a refused split if no other split can be made."""

    def __init__(self) -> None:
        self.refused = Gathered()
        self.wrong_shape = Gathered()
        self.wrong_label = Gathered()

    def measure(self, subject: Subject) -> Any:
        if subject.refusal:
            return None if _explained(subject) else ("refused", subject.refusal)
        sample = subject.sample
        if sample is None or subject.classes is None:
            return None
        if sample.segments.shape[1:] != sample.size:
            return "shape", f"picture {sample.size}, annotation {sample.segments.shape[1:]} (height, width)"
        if len(sample.labels) and not 0 <= sample.labels.min() <= sample.labels.max() < len(subject.classes):
            return "label", f"labels {sorted(set(sample.labels.tolist()))} with {len(subject.classes)} classes"
        return None

    def collect(self, where: Where, measured: Any) -> None:
        kind, detail = measured
        {"refused": self.refused, "shape": self.wrong_shape, "label": self.wrong_label}[kind].add(where, detail)

    def findings(self, case: Case) -> Iterator[Finding]:
        yield from _refused_splits(case)
        if self.refused:
            yield self.refused.finding(
                "truth/refused",
                "error",
                f"{number_of(self.refused.count, 'sample')} cannot be read by {case.reader or 'the dataset'}. "
                f"The first: {self.refused.examples[0].detail}",
                "Each message says what to change in the file, or in the description of the classes.",
            )
        for gathered, kind, what in (
            (self.wrong_shape, "shape", "an annotation of another size than the picture"),
            (self.wrong_label, "label", "labels outside the class list"),
        ):
            if gathered:
                yield gathered.finding(
                    f"truth/{kind}",
                    "error",
                    f"{counted(gathered.count, 'sample', 'have')} {what}, and the dataset hands them on.",
                    "This is a fault of the dataset class: correct its __getitem__.",
                )


def _explained(subject: Subject) -> bool:
    """Whether `readable`, `values` or `sizes` say why a sample is refused."""
    differ = subject.sizes is not None and subject.sizes[0] != subject.sizes[1]
    return differ or subject.wrong_kind or bool(subject.unlisted) or any(file.problem for file in subject.files)


def _refused_splits(case: Case) -> Iterator[Finding]:
    reasons: dict[str, list[str]] = {}
    for split, reason in case.refusals.items():
        reasons.setdefault(reason, []).append(split)
    for reason, splits in reasons.items():
        severity: Severity = "error"
        fix = "Correct what the message names; the files of the folder are examined nevertheless."
        if case.datasets:
            severity = "note" if splits == ["test"] else "warning"
            fix = "If the data set has no such part, nothing needs to be done."
        yield Finding(
            "truth/no-split",
            severity,
            f"{'The split' if len(splits) == 1 else 'The splits'} {', '.join(splits)} cannot be made: {reason}",
            fix,
            count=len(splits),
            where=split_names(splits),
        )
    for split, dataset in case.datasets.items():
        if not len(dataset):
            yield Finding(
                "truth/empty-split",
                "error",
                f"The split {split!r} is empty.",
                "Check folder and lists.",
                1,
                where=split,
            )
