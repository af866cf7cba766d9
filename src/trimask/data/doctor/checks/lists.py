"""Lists of files (text and CSV) that name what is not there, or name it by another extension or folder."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import NamedTuple

from trimask.data.doctor.case import Case
from trimask.data.doctor.check import Check
from trimask.data.doctor.findings import Finding, number_of, some
from trimask.data.doctor.tree import Tree
from trimask.data.files import PICTURE_SUFFIXES

MAX_BYTES = 64 << 20
MAX_LISTS = 200


class Entries(NamedTuple):
    """What a list names: the entries, each once; and the columns of a CSV."""

    names: list[str]
    columns: list[str]


class Lists(Check):
    def findings(self, case: Case) -> Iterator[Finding]:
        if case.tree is None:
            return
        by_name: dict[str, list[str]] = {}
        by_stem: dict[str, list[str]] = {}
        for path in case.tree.pictures:
            by_name.setdefault(PurePath(path).name, []).append(path)
            by_stem.setdefault(PurePath(path).stem, []).append(path)
        for place, file in enumerate(case.tree.small(".txt", ".csv", ".lst", limit=MAX_BYTES)):
            if place >= MAX_LISTS:
                return
            entries = read_list(file)
            known = [e for e in entries.names if PurePath(e).name in by_name or PurePath(e).stem in by_stem]
            if len(known) * 2 >= len(entries.names) > 0:
                yield from _about(file, entries, by_name, by_stem, case)


def read_list(path: Path) -> Entries:
    """The words of a list that look like files: with a picture's extension, or whole lines of one word. Nothing for other
    texts."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.reader(file)) if path.suffix.lower() == ".csv" else [line.split() for line in file]
    except (OSError, UnicodeDecodeError, csv.Error):  # no list, whatever it is
        return Entries([], [])
    rows = [[word.strip() for word in row if word.strip()] for row in rows]
    columns = rows[0] if path.suffix.lower() == ".csv" and rows and not any(map(_is_picture, rows[0])) else []
    body = [row for row in rows[bool(columns) :] if row]
    words = [word for row in body for word in row if _is_picture(word)]
    if not words and body and all(len(row) == 1 or re.fullmatch(r"-?[01]", row[-1]) for row in body):
        words = [row[0] for row in body]
    return Entries(list(dict.fromkeys(words)), columns)


def _is_picture(word: str) -> bool:
    return PurePath(word).suffix.lower() in PICTURE_SUFFIXES


def _about(
    file: Path, entries: Entries, by_name: dict[str, list[str]], by_stem: dict[str, list[str]], case: Case
) -> Iterator[Finding]:
    assert case.tree is not None
    where, total = case.tree.relative(file), len(entries.names)
    missing, renamed, moved = [], [], []
    for entry in entries.names:
        name = PurePath(entry).name
        if name not in by_name and PurePath(entry).stem not in by_stem:
            missing.append(entry)
        elif not _is_picture(entry):
            continue
        elif name not in by_name:
            renamed.append(entry)
        elif not _is_there(entry, file, case.tree, by_name[name]):
            moved.append(entry)
    if missing:
        yield Finding(
            "lists/missing",
            "error" if not case.datasets else "warning",
            f"{where} names {number_of(len(missing), 'file')} that are not there: {some(missing)}.",
            "Fetch them, or take them out of the list.",
            count=len(missing),
            of=total,
            where=where,
        )
    if renamed:
        found = PurePath(by_stem[PurePath(renamed[0]).stem][0]).suffix
        yield Finding(
            "lists/other-extension",
            "note" if case.datasets else "warning",
            f"{where} names {number_of(len(renamed), 'file')} by another extension: {renamed[0]} is {found} here.",
            "Nothing needs to be done where the reader goes by the name without extension, as trimask's do.",
            count=len(renamed),
            of=total,
            where=where,
        )
    if moved:
        yield Finding(
            "lists/other-folder",
            "note" if case.datasets else "warning",
            f"{where} names {number_of(len(moved), 'file')} in a folder that is not here: {some(moved, 1)}; files of these "
            "names lie elsewhere.",
            "Nothing needs to be done where the reader goes by the file name; otherwise correct the beginning of the paths.",
            count=len(moved),
            of=total,
            where=where,
        )
    if len(entries.columns) > 1 and re.match("mask|label", entries.columns[0], re.I):
        yield Finding(
            "lists/masks-first",
            "note",
            f"{where} has its columns in the order {', '.join(entries.columns)}: the masks come first.",
            "Read it by the names of its columns, as trimask does, not by their order.",
            count=1,
            where=where,
        )


def _is_there(entry: str, file: Path, tree: Tree, candidates: list[str]) -> bool:
    """Whether the path leads to a file, from the list's own folder or from one around it, up to the data set's."""
    if PurePath(entry).is_absolute():
        return entry in candidates
    bases = [
        file.parent,
        *(parent for parent in file.parents if parent == tree.folder or tree.folder in parent.parents),
    ]
    wanted = {str(base / entry) for base in bases}
    return any(path in wanted for path in candidates) or len(PurePath(entry).parts) == 1
