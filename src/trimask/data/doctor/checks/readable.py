"""Files that cannot be read whole, are not what their name says, or keep a decoder busy for ever."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trimask.data.doctor.case import Case
from trimask.data.doctor.check import Check
from trimask.data.doctor.findings import Finding, Gathered, Severity, Where, counted, number_of
from trimask.data.doctor.subject import File, Subject

_FORMATS = {
    ".jpg": ("JPEG", "MPO"),
    ".jpeg": ("JPEG", "MPO"),
    ".png": ("PNG",),
    ".bmp": ("BMP", "DIB"),
    ".tif": ("TIFF",),
    ".tiff": ("TIFF",),
    ".webp": ("WEBP",),
    ".gif": ("GIF",),
}
_WHAT = {
    "missing": ("{n} named by the data set {is_} not there.", "Fetch {them} again, or take {them} out of the list."),
    "empty": ("{n} {is_} empty (0 bytes).", "Fetch {them} again: a download or a copy was cut off."),
    "too-large": (
        "{n} {is_} too large to decode safely (more pixels than the limit).",
        "Cut {them} into tiles, and make sure that {them} {is_} meant to be there: such files are also an attack. "
        "TRIMASK_MAX_PIXELS raises the limit.",
    ),
    "broken": (
        "{n} cannot be read: truncated, corrupt, or of a kind that no picture or mask has.",
        "Fetch {them} again, or convert {them}: pictures to PNG or JPEG (TIFF with several bands to 8-bit RGB), masks to "
        "grey or palette PNG.",
    ),
    "lost": (
        "{n} took longer than the time limit, or killed the process that read {them}.",
        "Look at {them} with another program; convert or remove {them}. A slow disk needs a longer --timeout.",
    ),
}


class Readable(Check):
    """Errors for what samples need; warnings for files that no sample needs."""

    def __init__(self) -> None:
        self.found: dict[tuple[str, bool], Gathered] = {}
        self.misnamed = Gathered()

    def measure(self, subject: Subject) -> Any:
        found = [(file.path, kind, detail) for file in subject.files for kind, detail in _problems(file, subject)]
        return found or None

    def collect(self, where: Where, measured: Any) -> None:
        for path, kind, detail in measured:
            here = Where(where.split, where.index, where.name if where.index < 0 else Path(path).name, (path,))
            detail = detail.removeprefix(f"{path}: ").removeprefix(f"{path} ")
            if kind == "misnamed":
                self.misnamed.add(here, detail)
            else:
                self._of(kind, where.split).add(here, detail)

    def lost(self, where: Where, reason: str) -> None:
        self._of("lost", where.split or "?").add(where, f"the worker {reason}")

    def _of(self, kind: str, split: str) -> Gathered:
        return self.found.setdefault((kind, bool(split)), Gathered())

    def findings(self, case: Case) -> Iterator[Finding]:
        for (kind, needed), gathered in self.found.items():
            what, fix = _WHAT[kind]
            one = gathered.count == 1
            words = {
                "n": number_of(gathered.count, "file"),
                "is_": "is" if one else "are",
                "them": "it" if one else "them",
            }
            fix = fix.replace("that {them} {is_}", "that it is" if one else "that they are")
            severity: Severity = "error" if needed or not case.datasets else "warning"
            yield gathered.finding(f"readable/{kind}", severity, what.format(**words), fix.format(**words))
        if self.misnamed:
            yield self.misnamed.finding(
                "readable/wrong-extension",
                "warning",
                f"{counted(self.misnamed.count, 'file', 'hold')} another format than the extension says: "
                "read by content here, but not by every program.",
                "Rename them, or save them again in the format that the name promises.",
            )


def _problems(file: File, subject: Subject) -> Iterator[tuple[str, str]]:
    """(kind, detail). A file is decoded only if the dataset has not done so: it has if it made the sample."""
    header = file.header
    if file.absence:
        yield "missing" if file.num_bytes is None else "empty", file.absence
    elif subject.sample is None and file.problem:
        yield "too-large" if "more than the limit" in file.problem else "broken", file.problem
    if header and header.format not in _FORMATS[Path(file.path).suffix.lower()]:
        yield "misnamed", f"holds {header.format}"
