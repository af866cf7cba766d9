"""COCO panoptic files: the ids of each PNG against its JSON in both directions, areas and boxes.

Format: github.com/cocodataset/panopticapi: id = R + 256 G + 65536 B, 0 is no segment.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Any, NamedTuple

import numpy as np

from trimask.data.decode import read_mask
from trimask.data.doctor.annotation_files import annotation_files, objects
from trimask.data.doctor.case import Case, spread
from trimask.data.doctor.check import Check
from trimask.data.doctor.findings import Finding, Gathered, Kind, Where, problem_findings, some
from trimask.data.segments import panoptic_ids
from trimask.types import DataError

BOX_PIXELS = 1  # an edge of a box may lie so far off: some tools count the last pixel, some do not

KINDS = {
    "unlisted": Kind(
        "error",
        "PNG(s) hold ids that the JSON does not list",
        "Add the segment to the JSON, or paint it 0 (no segment).",
    ),
    "absent": Kind(
        "warning",
        "picture(s) have segments in the JSON whose id is not in the PNG",
        "Remove them from the JSON.",
    ),
    "area": Kind(
        "warning",
        "picture(s) have segments whose area in the JSON is not that of the PNG",
        "Count the pixels again.",
    ),
    "box": Kind(
        "warning",
        "picture(s) have segments whose `bbox` is not that of the PNG",
        "Compute it again (x, y, width, height).",
    ),
    "category": Kind(
        "error", "picture(s) have segments of a category that the file does not list", "Add the category."
    ),
    "repeated": Kind("error", "picture(s) list one id twice", "Give every segment an id of its own."),
    "missing": Kind("error", "PNG(s) that the JSON names are not there", "Fetch them, or remove the entries."),
    "unreadable": Kind("error", "PNG(s) cannot be read", "Fetch them again."),
    "kind": Kind(
        "error",
        "PNG(s) are not RGB: ids are stored in three channels",
        "Save them as RGB; a palette or grey file has lost the ids.",
    ),
}


class _Task(NamedTuple):
    file: str
    png: str
    entry: dict[str, Any]
    categories: frozenset[Any] | None


class PanopticFiles(Check):
    def __init__(self) -> None:
        self.problems: dict[str, dict[str, Gathered]] = {}
        self.counts: dict[str, int] = {}
        self.gaps: dict[str, list[int]] = {}

    def tasks(self, case: Case) -> Iterator[Any]:
        if case.tree is None:
            return
        by_name: dict[str, list[str]] = {}
        for png in case.tree.ending(".png"):
            by_name.setdefault(os.path.basename(png), []).append(png)
        for path in annotation_files(case.tree, "panoptic"):
            name = case.tree.relative(path)
            self.problems[name] = {kind: Gathered() for kind in KINDS}
            try:
                categories = _categories(path)
                self.gaps[name] = gaps(categories or frozenset())
                yield from self._tasks_of(path, name, categories, by_name, case.limit)
            except DataError:  # `json_files` says it
                continue

    def _tasks_of(
        self, path: Path, name: str, categories: frozenset[Any] | None, by_name: dict[str, list[str]], limit: int | None
    ) -> Iterator[_Task]:
        kept = set(spread(sum(1 for _ in objects(path, "annotations")), limit)) if limit else None
        for place, (_, entry) in enumerate(objects(path, "annotations")):
            if kept is not None and place not in kept:
                continue
            self.counts[name] = self.counts.get(name, 0) + 1
            png = _png(str(entry.get("file_name")), path, by_name)
            if png is None:
                self.problems[name]["missing"].add(Where("", -1, str(entry.get("file_name")), ()))
            else:
                yield _Task(name, png, entry, categories)

    def perform(self, task: _Task) -> Any:
        return task.file, task.png, list(_problems(task))

    def gather(self, done: Any) -> None:
        file, png, problems = done
        for kind, detail in problems:
            self.problems[file][kind].add(Where("", -1, PurePath(png).name, (png,)), detail)

    def findings(self, case: Case) -> Iterator[Finding]:
        for file, problems in self.problems.items():
            yield from problem_findings("panoptic", file, problems, KINDS, of=self.counts.get(file))
            if missing := self.gaps.get(file):
                yield Finding(
                    "panoptic/category-gaps",
                    "note",
                    f"{file}: its category ids have gaps ({some(missing, 12)} are missing).",
                    "Never use them as labels: trimask maps them to 0, 1, 2, ... by the file's own list.",
                    count=len(missing),
                    where=file,
                    numbers={"missing": missing},
                )


def _categories(path: Path) -> frozenset[Any] | None:
    """The ids of the file's categories; None where it has no list of them."""
    found = [category.get("id") for _, category in objects(path, "categories")]
    return frozenset(found) or None


def gaps(categories: frozenset[Any]) -> list[int]:
    numbers = [number for number in categories if isinstance(number, int)]
    return sorted(set(range(min(numbers), max(numbers) + 1)) - set(numbers)) if numbers else []


def _png(name: str, json_path: Path, by_name: dict[str, list[str]]) -> str | None:
    """The PNG of an entry: best one in the folder that is called like the JSON file, then one near it."""
    candidates = by_name.get(PurePath(name).name, [])

    def rank(path: str) -> tuple[bool, int]:
        common = os.path.commonpath([path, json_path])
        return json_path.stem not in PurePath(path).parts, -len(common)

    return min(candidates, key=rank, default=None)


def _problems(task: _Task) -> Iterator[tuple[str, str]]:
    listed = [segment for segment in task.entry.get("segments_info", []) if isinstance(segment, dict)]
    ids = [segment.get("id") for segment in listed]
    if len(set(ids)) < len(ids):
        yield "repeated", f"ids {some(sorted({number for number in ids if ids.count(number) > 1}))}"
    if task.categories is not None:
        strange = {segment.get("category_id") for segment in listed} - task.categories
        if strange:
            yield "category", f"{PurePath(task.png).name} has category {some(strange)}"
    try:
        picture = read_mask(task.png)
    except DataError as error:
        yield "unreadable", str(error)
        return
    if picture.ndim != 3:
        yield "kind", f"{PurePath(task.png).name} has one channel"
        return
    yield from _compare(panoptic_ids(picture), listed, PurePath(task.png).name)


def _compare(id_map: np.ndarray, listed: list[dict[str, Any]], name: str) -> Iterator[tuple[str, str]]:
    values, places, counts = np.unique(id_map, return_inverse=True, return_counts=True)
    pixels = dict(zip(values.tolist(), counts.tolist(), strict=True))
    known = {segment.get("id") for segment in listed}
    if strange := {number: count for number, count in pixels.items() if number and number not in known}:
        yield (
            "unlisted",
            f"{name} holds {some([f'{number} ({count:,} pixels)' for number, count in strange.items()], 3)}",
        )
    if gone := [segment.get("id") for segment in listed if segment.get("id") not in pixels]:
        yield "absent", f"{name} lacks {some(gone, 3)}"
    wrong = [
        f"{segment['id']} has {pixels[segment['id']]:,} pixels, declared are {segment['area']:,}"
        for segment in listed
        if segment.get("id") in pixels and "area" in segment and pixels[segment["id"]] != segment["area"]
    ]
    if wrong:
        yield "area", f"{name}: {some(wrong, 3)}"
    boxes = _boxes(places.reshape(id_map.shape), values.tolist())
    off = [
        f"{segment['id']} is {boxes[segment['id']]}, declared is {segment['bbox']}"
        for segment in listed
        if segment.get("id") in boxes and len(segment.get("bbox") or ()) == 4
        and np.abs(np.subtract(boxes[segment["id"]], segment["bbox"])).max() > BOX_PIXELS
    ]  # fmt: skip
    if off:
        yield "box", f"{name}: {some(off, 3)} (x, y, width, height)"


def _boxes(places: np.ndarray, values: list[int]) -> dict[int, list[int]]:
    """Id -> x, y, width, height. Args: places: (H, W) indices into `values`, each of which occurs."""
    height, width = places.shape
    rows, columns = np.zeros((len(values), height), np.bool_), np.zeros((len(values), width), np.bool_)
    rows[places, np.arange(height)[:, None]] = True
    columns[places, np.arange(width)] = True
    x, y = columns.argmax(axis=1), rows.argmax(axis=1)
    right, bottom = width - columns[:, ::-1].argmax(axis=1), height - rows[:, ::-1].argmax(axis=1)
    return dict(zip(values, np.stack([x, y, right - x, bottom - y], axis=1).tolist(), strict=True))
