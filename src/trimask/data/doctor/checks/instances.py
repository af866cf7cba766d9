"""COCO instance files: areas and boxes against the masks, polygons outside the picture, ids that lead nowhere.

Format: cocodataset.org, "data format", as read by `rle`. An area may be counted from the polygon or from the mask, and rounded;
only what no rounding explains is reported.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from trimask.data import rle
from trimask.data.doctor.annotation_files import annotation_files, objects
from trimask.data.doctor.case import Case, spread
from trimask.data.doctor.check import Check
from trimask.data.doctor.findings import Finding, Gathered, Kind, Where, number_of, problem_findings, share, some
from trimask.types import DataError, Size

BATCH = 200  # annotations of one task
AREA_SHARE, AREA_PIXELS = 0.1, 24.0  # a declared area may differ from the mask's by this share and so many pixels
BOX_PIXELS = 2.5  # an edge of a box may lie so far off the mask's
OUTSIDE = 1.0  # pixels that a vertex may lie off the picture

KINDS = {
    "segmentation": Kind("error", "annotation(s) have a segmentation that cannot be read", "Correct or remove it."),
    "picture": Kind(
        "error",
        "annotation(s) belong to an image id that the file does not list",
        "Add the image, or remove it.",
    ),
    "category": Kind(
        "error",
        "annotation(s) have a category id that the file does not list",
        "Add the category, or correct it.",
    ),
    "area": Kind(
        "warning",
        "annotation(s) declare an area that is not that of the mask",
        "Compute `area` from the mask again: COCO's scores sort objects into small, medium and large by it.",
    ),
    "box": Kind(
        "warning",
        "annotation(s) have a `bbox` that is not that of the mask",
        "Compute it from the mask again (x, y, width, height).",
    ),
    "outside": Kind(
        "warning",
        "annotation(s) have vertices outside the picture",
        "Nothing needs to be done for a pixel or two, which are cut; far outside, the annotation was made on a picture of "
        "another size.",
    ),
    "nothing": Kind(
        "warning",
        "annotation(s) have a mask without a pixel",
        "Remove it: it is counted as an object that cannot be found.",
    ),
}


class _Image(NamedTuple):
    size: Size
    name: str


class _Batch(NamedTuple):
    """A task: annotations of one file, with the pictures that they belong to."""

    file: str
    annotations: list[dict[str, Any]]
    images: dict[Any, _Image]
    categories: frozenset[Any]


class _Facts:
    """Of one file, in the main process."""

    def __init__(self) -> None:
        self.problems = {kind: Gathered() for kind in KINDS}
        self.crowds = self.annotations = 0
        self.broken = False
        self.crowd_pictures: set[Any] = set()
        self.images: dict[Any, _Image] = {}
        self.categories: list[tuple[Any, str]] = []
        self.annotated: Counter[Any] = Counter()
        self.ids: set[Any] = set()
        self.repeated_ids: list[Any] = []
        self.repeated_images: list[Any] = []


class InstanceFiles(Check):
    def __init__(self) -> None:
        self.files: dict[str, _Facts] = {}

    def tasks(self, case: Case) -> Iterator[Any]:
        if case.tree is None:
            return
        for path in annotation_files(case.tree, "instances"):
            name = case.tree.relative(path)
            facts = self.files[name] = _Facts()
            try:
                yield from _batches(path, name, facts, case.limit)
            except DataError:  # `json_files` says it
                facts.broken = True

    def perform(self, task: _Batch) -> Any:
        return task.file, [problem for one in task.annotations for problem in _problems(one, task)]

    def gather(self, done: Any) -> None:
        file, problems = done
        for kind, image, detail in problems:
            self.files[file].problems[kind].add(Where("", -1, image, ()), detail)

    def findings(self, case: Case) -> Iterator[Finding]:
        for file, facts in self.files.items():
            yield from problem_findings("instances", file, facts.problems, KINDS, of=facts.annotations)
            if not facts.broken:
                yield from _about_ids(file, facts, opens=bool(case.datasets))
                yield from _about_pictures(file, facts, case)


def _batches(path: Path, name: str, facts: _Facts, limit: int | None) -> Iterator[_Batch]:
    for key, element in objects(path, "images", "categories"):
        if key == "images":
            number = element.get("id")
            if number in facts.images:
                facts.repeated_images.append(number)
            facts.images[number] = _Image(_size(element), str(element.get("file_name", number)))
        else:
            facts.categories.append((element.get("id"), str(element.get("name"))))
    kept = None if limit is None else {list(facts.images)[index] for index in spread(len(facts.images), limit)}
    categories = frozenset(number for number, _ in facts.categories)
    batch: list[dict[str, Any]] = []
    for _, element in objects(path, "annotations"):
        _count(element, facts)
        if kept is None or element.get("image_id") in kept or element.get("image_id") not in facts.images:
            batch.append(element)
        if len(batch) == BATCH:
            yield _batch(name, batch, facts.images, categories)
            batch = []
    if batch:
        yield _batch(name, batch, facts.images, categories)


def _batch(name: str, annotations: list[Any], images: dict[Any, _Image], categories: frozenset[Any]) -> _Batch:
    needed = {one.get("image_id") for one in annotations}
    return _Batch(name, annotations, {number: images[number] for number in needed if number in images}, categories)


def _size(image: dict[str, Any]) -> Size:
    """(height, width); zeros where the file does not say."""
    try:
        return int(image["height"]), int(image["width"])
    except (KeyError, TypeError, ValueError):
        return 0, 0


def _count(annotation: dict[str, Any], facts: _Facts) -> None:
    facts.annotations += 1
    facts.annotated[annotation.get("image_id")] += 1
    if annotation.get("iscrowd"):
        facts.crowds += 1
        facts.crowd_pictures.add(annotation.get("image_id"))
    number = annotation.get("id")
    if number in facts.ids:
        facts.repeated_ids.append(number)
    facts.ids.add(number)


def _problems(annotation: dict[str, Any], task: _Batch) -> Iterator[tuple[str, str, str]]:
    """(kind, picture, detail) of one annotation."""
    number, image = annotation.get("id"), task.images.get(annotation.get("image_id"))
    name = image.name if image else str(annotation.get("image_id"))
    if annotation.get("category_id") not in task.categories:
        yield "category", name, f"annotation {number} has category {annotation.get('category_id')!r}"
    if image is None:
        yield "picture", name, f"annotation {number} belongs to image {annotation.get('image_id')!r}"
        return
    if not image.size[0]:
        return
    segmentation = annotation.get("segmentation")
    if isinstance(segmentation, list) and (worst := outside(segmentation, image.size)):
        yield (
            "outside",
            name,
            f"annotation {number} has a vertex at {worst[0]:.1f}, {worst[1]:.1f} of {image.size[1]}x{image.size[0]}",
        )
    if not segmentation:
        yield "nothing", name, f"annotation {number} has no segmentation"
        return
    try:
        runs = rle.from_coco(segmentation, image.size)
    except (ValueError, TypeError) as error:
        yield "segmentation", name, f"annotation {number}: {error}"
        return
    yield from (
        (kind, name, f"annotation {number} {detail}") for kind, detail in _measures(annotation, runs, image.size)
    )


def _measures(annotation: dict[str, Any], runs: rle.Runs, size: Size) -> Iterator[tuple[str, str]]:
    """(kind, detail) where area and box are not those of the mask. COCO's own crowds declare areas of another origin."""
    area = rle.area(runs)
    if not area:
        yield "nothing", "covers no pixel"
        return
    declared = None if annotation.get("iscrowd") else annotation.get("area")
    if isinstance(declared, int | float) and abs(declared - area) > AREA_PIXELS + AREA_SHARE * max(area, declared):
        yield "area", f"declares {declared:,.0f} pixels, its mask has {area:,}"
    box = annotation.get("bbox")
    if isinstance(box, list) and len(box) == 4 and all(isinstance(edge, int | float) for edge in box):
        x, y, width, height = box
        given = np.array([x, y, x + width, y + height], np.float64).clip(0, [size[1], size[0], size[1], size[0]])
        true = [np.array(rle.box(runs, size), np.float64), *_extent(annotation["segmentation"], size)]
        if min(np.abs(given - one).max() for one in true) > BOX_PIXELS:
            yield "box", f"has the box {_xyxy(given)}, its mask {_xyxy(true[0])} (x y x y)"


def _extent(segmentation: Any, size: Size) -> list[np.ndarray]:
    """The box of polygons by their vertices, whose thin ends cover no pixel; nothing for run lengths."""
    if not isinstance(segmentation, list) or not isinstance(segmentation[0], list):
        return []
    points = np.concatenate([np.asarray(polygon, np.float64).reshape(-1, 2) for polygon in segmentation])
    return [np.concatenate([points.min(axis=0), points.max(axis=0)]).clip(0, [size[1], size[0], size[1], size[0]])]


def _xyxy(box: Any) -> str:
    return " ".join(f"{edge:.0f}" for edge in box)


def outside(polygons: Any, size: Size) -> tuple[float, float] | None:
    """The vertex farthest off the picture, if one lies more than OUTSIDE pixels off it."""
    flat = polygons if polygons and isinstance(polygons[0], list) else [polygons]
    worst, most = None, OUTSIDE
    for polygon in flat:
        try:
            points = np.asarray(polygon, np.float64).reshape(-1, 2)
        except (ValueError, TypeError):  # an odd number of coordinates, or none: `segmentation` says it
            continue
        off = np.maximum(-points, points - [size[1], size[0]]).max(axis=1, initial=0)
        if len(off) and off.max() > most:
            most, worst = off.max(), tuple(points[off.argmax()].tolist())
    return worst


def _about_ids(file: str, facts: _Facts, *, opens: bool) -> Iterator[Finding]:
    numbers = sorted({number for number, _ in facts.categories if isinstance(number, int)})
    missing = sorted(set(range(numbers[0], numbers[-1] + 1)) - set(numbers)) if numbers else []
    if missing:
        yield Finding(
            "instances/category-gaps",
            "note",
            f"{file}: {number_of(len(numbers), 'category')} have ids {numbers[0]} to {numbers[-1]} with gaps "
            f"({some(missing, 12)} are missing).",
            "Never use them as labels: trimask maps them to 0, 1, 2, ... by the file's own list.",
            count=len(missing),
            where=file,
            numbers={"missing": missing},
        )
    for repeated, what in ((facts.repeated_ids, "annotation"), (facts.repeated_images, "image")):
        if repeated:
            yield Finding(
                f"instances/repeated-{what}-ids",
                "warning" if what == "annotation" else "error",
                f"{file}: {number_of(len(repeated), what + ' id')} occur more than once: {some(repeated)}.",
                "Give every one an id of its own: COCO's tools keep one of each only.",
                count=len(repeated),
                where=file,
            )
    everything = facts.crowds > facts.annotations / 2
    if facts.crowds and (everything or not opens):  # `crowds` says it of samples
        yield Finding(
            "instances/crowds",
            "warning" if everything else "note",
            f"{file}: {number_of(facts.crowds, 'crowd')} ({share(facts.crowds, facts.annotations)} of {facts.annotations:,} "
            f"annotations) in {number_of(len(facts.crowd_pictures), 'picture')}.",
            "An export may have set iscrowd for every run-length mask: set it to 0 for single objects."
            if everything
            else "Nothing needs to be done: crowds are ignored by losses and scores.",
            count=facts.crowds,
            of=facts.annotations,
            where=file,
        )


def _about_pictures(file: str, facts: _Facts, case: Case) -> Iterator[Finding]:
    assert case.tree is not None
    bare = [image.name for number, image in facts.images.items() if not facts.annotated[number]]
    if bare and not case.datasets:  # `empty` says it of samples
        yield Finding(
            "instances/no-annotation",
            "note" if len(bare) * 2 < len(facts.images) else "warning",
            f"{file}: {number_of(len(bare), 'picture')} without an annotation: {some(bare)}.",
            "Make sure that nothing is there to be found, as opposed to nobody having looked.",
            count=len(bare),
            of=len(facts.images),
            where=file,
        )
    there = {os.path.basename(path) for path in case.tree.pictures}
    gone = [image.name for image in facts.images.values() if os.path.basename(image.name) not in there]
    if gone:
        yield Finding(
            "instances/missing-picture",
            "warning" if case.datasets else "error",
            f"{file} lists {number_of(len(gone), 'picture')} not to be found below {case.tree.folder}: {some(gone)}.",
            "Fetch them, or remove them from the file.",
            count=len(gone),
            of=len(facts.images),
            where=file,
        )
    hostile = [i.name for i in facts.images.values() if ".." in Path(i.name).parts or Path(i.name).is_absolute()]
    if hostile:
        yield Finding(
            "instances/path",
            "error",
            f"{file}: {number_of(len(hostile), 'file name')} lead out of the data set: {some(hostile)}.",
            "Write names relative to the folder of the pictures. Nothing outside is read.",
            count=len(hostile),
            where=file,
        )
