"""LabelMe files, one a picture: shapes outside the picture, pictures that are not there, sizes that do not agree.

Format: github.com/wkentaro/labelme, `label_file.py`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from trimask.data.doctor.annotation_files import annotation_files
from trimask.data.doctor.case import Case
from trimask.data.doctor.check import Check
from trimask.data.doctor.findings import Finding, Gathered, Where, number_of
from trimask.data.doctor.subject import File
from trimask.data.json_stream import elements
from trimask.types import DataError

OUTSIDE = 1.0  # pixels that a vertex may lie off the picture


class LabelMeFiles(Check):
    def __init__(self) -> None:
        self.outside, self.gone, self.sizes = Gathered(), Gathered(), Gathered()
        self.num_files = 0

    def tasks(self, case: Case) -> Iterator[Any]:
        if case.tree is not None:
            yield from ((str(path), case.tree.relative(path)) for path in annotation_files(case.tree, "labelme"))

    def perform(self, task: tuple[str, str]) -> Any:
        path, name = task
        try:
            shapes, facts = _read(Path(path))
        except DataError:  # `json_files` says it
            return None
        picture = os.path.join(os.path.dirname(path), str(facts.get("imagePath") or ""))
        declared = facts.get("imageHeight"), facts.get("imageWidth")
        header = File(picture, "picture").header
        size = header.size if header else declared
        there = header is not None or bool(facts.get("imageData"))
        wrong = f"declared {declared}, picture {size} (height, width)" if header and tuple(size) != declared else ""
        return name, picture, there, wrong, _outside(shapes, size)

    def gather(self, done: Any) -> None:
        if done is None:
            return
        name, picture, there, wrong, outside = done
        self.num_files += 1
        where = Where("", -1, name, (picture,) if there and os.path.isfile(picture) else ())
        if not there:
            self.gone.add(where, os.path.basename(picture))
        if wrong:
            self.sizes.add(where, wrong)
        if outside:
            self.outside.add(where, outside[0], times=len(outside))

    def findings(self, case: Case) -> Iterator[Finding]:
        if self.outside:
            yield self.outside.finding(
                "labelme/outside",
                "warning",
                f"{number_of(self.outside.count, 'LabelMe shape')} with a vertex outside the picture. The first: "
                f"{_first(self.outside)}.",
                "What lies outside is cut. Far outside, it was drawn on a picture of another size.",
            )
        if self.gone:
            yield self.gone.finding(
                "labelme/missing-picture",
                "warning",
                f"{number_of(self.gone.count, 'LabelMe file')} whose picture is neither there nor in the file. The first: "
                f"{_first(self.gone)}.",
                "Put the picture beside it, or correct imagePath.",
                of=self.num_files,
            )
        if self.sizes:
            yield self.sizes.finding(
                "labelme/size",
                "warning",
                f"{number_of(self.sizes.count, 'LabelMe file')} that state another size than their picture has. The first: "
                f"{_first(self.sizes)}.",
                "The picture was scaled or turned after it was annotated: bring back the original.",
                of=self.num_files,
            )


def _first(gathered: Gathered) -> str:
    return f"{gathered.examples[0].where.name}, {gathered.examples[0].detail}"


def _read(path: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    shapes, facts = [], {}
    for key, value, is_element, *_ in elements(path):
        if is_element and key == "shapes" and isinstance(value, dict):
            shapes.append(value)
        elif key in ("imagePath", "imageHeight", "imageWidth", "imageData"):
            facts[key] = bool(value) if key == "imageData" else value
    return shapes, facts


def _outside(shapes: list[dict[str, Any]], size: Any) -> list[str]:
    if not all(isinstance(side, int) for side in size):
        return []
    found = []
    for shape in shapes:
        try:
            points = np.asarray(shape.get("points"), np.float64).reshape(-1, 2)
        except (ValueError, TypeError):
            continue
        off = np.maximum(-points, points - [size[1], size[0]]).max(axis=1, initial=0)
        if len(off) and off.max() > OUTSIDE:
            x, y = points[off.argmax()]
            found.append(f"{shape.get('label')} at {x:.1f}, {y:.1f} of {size[1]}x{size[0]}")
    return found
