"""Lists of files (text and CSV) that name what is not there, or name it by another extension or folder."""

from __future__ import annotations

import csv
import re
from collections import defaultdict
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


class _Index:
    """The pictures of a tree by name and by stem, and by both together with their folder's name."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self.folders: set[str] = set()
        self.names: dict[tuple[str, str], list[str]] = defaultdict(list)
        self.stems: dict[tuple[str, str], list[str]] = defaultdict(list)
        for path in map(PurePath, tree.pictures):
            self.folders.add(path.parent.name)
            for folder in ("", path.parent.name):
                self.names[folder, path.name].append(str(path))
                self.stems[folder, path.stem].append(str(path))

    def knows(self, entry: str) -> bool:
        return bool(self.same_stem(entry))

    def same_name(self, entry: str) -> list[str]:
        """Files that the entry may mean: of its name, in a folder called as it says if there is any such folder."""
        return self.names.get((self._folder(entry), PurePath(entry).name), [])

    def same_stem(self, entry: str) -> list[str]:
        """The same, whatever the extension."""
        return self.stems.get((self._folder(entry), PurePath(entry).stem), [])

    def _folder(self, entry: str) -> str:
        folder = PurePath(entry).parent.name
        return folder if folder in self.folders else ""


class Lists(Check):
    def findings(self, case: Case) -> Iterator[Finding]:
        if case.tree is None:
            return
        index = _Index(case.tree)
        for place, file in enumerate(case.tree.small(".txt", ".csv", ".lst", limit=MAX_BYTES)):
            if place >= MAX_LISTS:
                return
            entries = read_list(file)
            if sum(map(index.knows, entries.names)) * 2 >= len(entries.names) > 0:
                yield from _about(file, entries, index, bool(case.datasets))


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


def _about(file: Path, entries: Entries, index: _Index, opens: bool) -> Iterator[Finding]:
    where, total = index.tree.relative(file), len(entries.names)
    missing = [entry for entry in entries.names if not index.knows(entry)]
    pictures = [entry for entry in entries.names if index.knows(entry) and _is_picture(entry)]
    renamed = [entry for entry in pictures if not index.same_name(entry)]
    moved = [e for e in pictures if index.same_name(e) and not _is_there(e, file, index)]
    if missing:
        yield Finding(
            "lists/missing",
            "warning" if opens else "error",
            f"{where} names {number_of(len(missing), 'file')} not to be found: {some(missing)}.",
            "Fetch them, or take them out of the list.",
            count=len(missing),
            of=total,
            where=where,
        )
    if renamed:
        found = PurePath(index.same_stem(renamed[0])[0]).suffix
        yield Finding(
            "lists/other-extension",
            "note" if opens else "warning",
            f"{where} names {number_of(len(renamed), 'file')} by another extension: {renamed[0]} is {found} here.",
            "Nothing needs to be done where the reader goes by the name without extension, as trimask's do.",
            count=len(renamed),
            of=total,
            where=where,
        )
    if moved:
        yield Finding(
            "lists/other-folder",
            "note" if opens else "warning",
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


def _is_there(entry: str, file: Path, index: _Index) -> bool:
    """Whether the path leads to a file, from the list's own folder or from one around it, up to the data set's."""
    if len(PurePath(entry).parts) == 1:
        return True
    top = index.tree.folder
    bases = [file.parent, *(parent for parent in file.parents if parent == top or top in parent.parents)]
    wanted = {entry, *(str(base / entry) for base in bases)}
    return any(path in wanted for path in index.same_name(entry))
