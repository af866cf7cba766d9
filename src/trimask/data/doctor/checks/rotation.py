"""EXIF orientations: files that some programs show turned and others do not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from trimask.data.doctor.case import Case
from trimask.data.doctor.check import Check
from trimask.data.doctor.findings import Finding, Gathered, Where, counted, number_of
from trimask.data.doctor.subject import Subject


class Rotation(Check):
    def __init__(self) -> None:
        self.agree, self.differ = Gathered(), Gathered()

    def measure(self, subject: Subject) -> Any:
        turns = [file.header.orientation for file in subject.files if file.header]
        if all(turn == 1 for turn in turns):
            return None
        return turns

    def collect(self, where: Where, measured: Any) -> None:
        detail = "EXIF orientation " + ", ".join(str(turn) for turn in measured)
        (self.agree if len(set(measured)) == 1 else self.differ).add(where, detail)

    def findings(self, case: Case) -> Iterator[Finding]:
        if self.agree:
            yield self.agree.finding(
                "rotation/exif",
                "note",
                f"{counted(self.agree.count, 'picture', 'carry')} an EXIF orientation. It is applied, in training and in "
                "prediction.",
                "Nothing here; programs that ignore EXIF (OpenCV with some flags, many annotation tools) see the picture "
                "turned. Storing it upright ends the ambiguity.",
            )
        if self.differ:
            yield self.differ.finding(
                "rotation/exif-differs",
                "warning",
                f"{number_of(self.differ.count, 'sample')} whose picture and mask carry different EXIF orientations. Each is "
                "turned by its own; whether the mask was drawn on the turned picture cannot be known.",
                "Look at the examples. Store picture and mask upright, without the tag.",
            )
