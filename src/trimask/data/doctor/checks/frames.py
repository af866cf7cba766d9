"""Scalabel files (BDD100K): polygons outside their picture, polygons that are none, categories that the file does not name.

Format: doc.scalabel.ai, "format". A frame's size is that of its picture, else the file's `config.imageSize`.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Any, NamedTuple

import numpy as np

from trimask.data.doctor.annotation_files import annotation_files, objects
from trimask.data.doctor.case import Case
from trimask.data.doctor.check import Check
from trimask.data.doctor.findings import Finding, Gathered, Kind, Where, number_of, problem_findings, some
from trimask.data.doctor.subject import File
from trimask.data.json_stream import elements
from trimask.types import DataError, Size

OUTSIDE = 0.5  # pixels that a vertex may lie off the picture
BATCH = 50  # frames of one task
USUAL = 0.9  # share of the frames that must have the same number of labels for another number to be remarkable

KINDS = {
    "outside": Kind(
        "warning",
        "polygon(s) have vertices outside the picture",
        "Nothing needs to be done for a few pixels, which are cut; far outside, they were drawn on another picture size.",
    ),
    "degenerate": Kind("warning", "polygon(s) have too few vertices for an area or a line", "Remove them."),
    "types": Kind(
        "error", "polygon(s) have another number of `types` than of vertices", "One letter, L or C, a vertex."
    ),
    "number": Kind("error", "polygon(s) have vertices that are no numbers", "Correct or remove them."),
    "category": Kind(
        "error",
        "label(s) have a category that `config.categories` does not name",
        "Add it there, or correct it.",
    ),
}


class _Batch(NamedTuple):
    file: str
    frames: list[tuple[dict[str, Any], str | None]]
    size: Size | None
    categories: frozenset[str] | None


class FrameFiles(Check):
    def __init__(self) -> None:
        self.problems: dict[str, dict[str, Gathered]] = {}
        self.polygons: Counter[str] = Counter()
        self.by_count: dict[str, dict[int, Gathered]] = {}
        self.gone: dict[str, list[str]] = {}

    def tasks(self, case: Case) -> Iterator[Any]:
        if case.tree is None:
            return
        pictures = {PurePath(path).name: path for path in reversed(case.tree.pictures)}
        for path in annotation_files(case.tree, "frames"):
            name = case.tree.relative(path)
            self.problems[name] = {kind: Gathered() for kind in KINDS}
            self.by_count[name], self.gone[name] = {}, []
            try:
                yield from self._batches(path, name, pictures)
            except DataError:  # `json_files` says it
                continue

    def _batches(self, path: Path, name: str, pictures: dict[str, str]) -> Iterator[_Batch]:
        size, categories = _config(path)
        frames: list[tuple[dict[str, Any], str | None]] = []
        for _, frame in objects(path, "", "frames"):
            base = os.path.basename(str(frame.get("name")))
            if base not in pictures:
                self.gone[name].append(base)
            count = len(frame.get("labels") or [])
            where = Where("", -1, base, tuple(filter(None, [pictures.get(base)])))
            self.by_count[name].setdefault(count, Gathered()).add(where, number_of(count, "label"))
            frames.append((frame, pictures.get(base)))
            if len(frames) == BATCH:
                yield _Batch(name, frames, size, categories)
                frames = []
        if frames:
            yield _Batch(name, frames, size, categories)

    def perform(self, task: _Batch) -> Any:
        found, count = [], 0
        for frame, picture in task.frames:
            header = File(picture, "picture").header if picture else None
            size = header.upright if header else task.size
            where = Where("", -1, os.path.basename(str(frame.get("name"))), (picture,) if picture else ())
            for label in frame.get("labels") or []:
                count += len(label.get("poly2d") or [])
                found += [(kind, where, detail) for kind, detail in _problems(label, size, task.categories)]
        return task.file, count, found

    def gather(self, done: Any) -> None:
        file, count, found = done
        self.polygons[file] += count
        for kind, where, detail in found:
            self.problems[file][kind].add(where, detail)

    def findings(self, case: Case) -> Iterator[Finding]:
        for file, problems in self.problems.items():
            yield from problem_findings("frames", file, problems, KINDS, of=self.polygons[file])
            yield from self._about_frames(file)

    def _about_frames(self, file: str) -> Iterator[Finding]:
        counts = {number: found.count for number, found in self.by_count[file].items()}
        total = sum(counts.values())
        usual = max(counts, key=lambda number: counts[number], default=0)
        for number, found in self.by_count[file].items():
            if number == 0:
                yield found.finding(
                    "frames/no-label",
                    "note" if found.count * 2 < total else "warning",
                    f"{file}: {number_of(found.count, 'frame')} without a label.",
                    "Make sure that nothing is there to be found, as opposed to nobody having looked.",
                    of=total,
                    where=file,
                )
            elif number != usual and counts[usual] >= USUAL * total:
                yield found.finding(
                    "frames/unusual-count",
                    "note",
                    f"{file}: {number_of(found.count, 'frame')} with {number_of(number, 'label')}, where "
                    f"{counts[usual]:,} of {total:,} have {usual}: {some(e.where.name for e in found.examples)}.",
                    "Look whether one of them is a slip.",
                    of=total,
                    where=file,
                )
        if gone := self.gone[file]:
            yield Finding(
                "frames/missing-picture",
                "note" if len(gone) == total else "warning",
                f"{file} names {number_of(len(gone), 'picture')} not to be found here: {some(gone)}.",
                "Fetch them if they are to be used; a label file of a larger set names more than a part of it has.",
                count=len(gone),
                of=total,
                where=file,
            )


def _config(path: Path) -> tuple[Size | None, frozenset[str] | None]:
    """The size and the categories that the file states for all frames."""
    for key, value, *_ in elements(path):
        if key == "config" and isinstance(value, dict):
            size, categories = value.get("imageSize"), value.get("categories")
            names = {str(c.get("name")) for c in categories or [] if isinstance(c, dict)}
            names |= {
                str(s.get("name"))
                for c in categories or []
                if isinstance(c, dict)
                for s in c.get("subcategories") or []
            }
            given = (int(size["height"]), int(size["width"])) if isinstance(size, dict) and len(size) >= 2 else None
            return given, frozenset(names) or None
    return None, None


def _problems(label: dict[str, Any], size: Size | None, categories: frozenset[str] | None) -> Iterator[tuple[str, str]]:
    if categories is not None and label.get("category") not in categories:
        yield "category", f"label {label.get('id')} is {label.get('category')!r}"
    for polygon in label.get("poly2d") or []:
        vertices, types = polygon.get("vertices") or [], polygon.get("types")
        try:
            points = np.asarray(vertices, np.float64).reshape(-1, 2)
        except (ValueError, TypeError):
            points = np.array([[np.nan, np.nan]])
        if not np.isfinite(points).all():
            yield "number", f"label {label.get('id')}"
            continue
        if len(points) < (3 if polygon.get("closed", True) else 2):
            yield "degenerate", f"label {label.get('id')} has {len(points)}"
        if types is not None and len(types) != len(points):
            yield "types", f"label {label.get('id')} has {len(points)} vertices and {len(types)} types"
        if size is not None and len(points):
            off = np.maximum(-points, points - [size[1], size[0]]).max(axis=1)
            if off.max() > OUTSIDE:
                x, y = points[off.argmax()]
                yield "outside", f"label {label.get('id')} at {x:.1f}, {y:.1f} of {size[1]}x{size[0]}"
