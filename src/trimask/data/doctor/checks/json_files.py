"""JSON files that are not JSON: cut off, or damaged."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from trimask.data.doctor.annotation_files import MAX_JSON
from trimask.data.doctor.case import Case
from trimask.data.doctor.check import Check
from trimask.data.doctor.findings import Finding, Gathered, Where, number_of, some
from trimask.data.json_stream import elements
from trimask.types import DataError

ENTRIES = 2000  # of a file, that are searched for numbers written as text
DEPTH = 4
NUMBERS = frozenset({"width", "height", "area", "iscrowd", "category_id", "imageWidth", "imageHeight", "bbox"})


class JsonFiles(Check):
    """Also numbers that are written as text, such as "width": "640"."""

    def __init__(self) -> None:
        self.broken = Gathered()
        self.texts: dict[str, dict[str, str]] = {}

    def tasks(self, case: Case) -> Iterator[Any]:
        if case.tree is not None:
            yield from ((path, case.tree.relative(path)) for path in case.tree.ending(".json")[:MAX_JSON])

    def perform(self, task: tuple[str, str]) -> Any:
        path, name = task
        texts: dict[str, str] = {}
        try:
            for place, (key, element, *_) in enumerate(elements(path)):
                if place < ENTRIES:
                    _numbers_as_text(element, key, DEPTH, texts)
        except DataError as error:
            return name, str(error), {}
        return name, "", texts

    def gather(self, done: Any) -> None:
        name, problem, texts = done
        if problem:
            self.broken.add(Where("", -1, name, ()), problem)
        if texts:
            self.texts[name] = texts

    def findings(self, case: Case) -> Iterator[Finding]:
        if self.broken:
            yield self.broken.finding(
                "json_files/broken",
                "error",
                f"{number_of(self.broken.count, 'JSON file')} cannot be read whole. The first: "
                f"{self.broken.examples[0].detail}",
                "Fetch it again, or open it in an editor at the place that the message names.",
            )
        for name, texts in self.texts.items():
            yield Finding(
                "json_files/text-numbers",
                "warning",
                f"{name} writes numbers as text: {some([f'{key}: {value!r}' for key, value in texts.items()])}.",
                "Write them as numbers, without quotes; COCO's tools fail on text.",
                count=len(texts),
                where=name,
            )


def _numbers_as_text(value: Any, key: str, depth: int, found: dict[str, str]) -> None:
    """Keeps the first text of each key that should hold numbers and holds numbers as text."""
    if isinstance(value, dict) and depth:
        for name, member in value.items():
            _numbers_as_text(member, name, depth - 1, found)
    elif isinstance(value, list) and depth:
        for member in value[:50]:
            if isinstance(member, dict | list | str):
                _numbers_as_text(member, key, depth - 1, found)
    elif isinstance(value, str) and key in NUMBERS and _is_number(value):
        found.setdefault(key, value)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
