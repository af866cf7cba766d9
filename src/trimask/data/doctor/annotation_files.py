"""The shared annotation files of a data set, told apart by what they hold rather than by their names. Own work."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from trimask.data.doctor.tree import Tree
from trimask.data.json_stream import elements
from trimask.types import DataError

Kind = Literal["instances", "panoptic", "frames", "labelme", "other", "broken"]
MAX_JSON = 2000  # files that are opened; LabelMe writes one a picture
ENOUGH = 64  # elements that show what a file holds


def annotation_files(tree: Tree, *kinds: Kind) -> Iterator[Path]:
    """The JSON files of these kinds below a folder."""
    for path in tree.ending(".json")[:MAX_JSON]:
        if kind_of(Path(path)) in kinds:
            yield Path(path)


def kind_of(path: Path) -> Kind:
    """ "instances" and "panoptic" are COCO's, "frames" is Scalabel's (BDD100K), "labelme" LabelMe's own."""
    keys: set[str] = set()
    try:
        for place, (key, element, is_element, *_) in enumerate(elements(path)):
            keys.add(key)
            if is_element and isinstance(element, dict) and (kind := _kind_of_element(key, element)):
                return kind
            if place > ENOUGH and "images" not in keys:
                return "other"
    except DataError:
        return "broken"
    return "other"


def objects(path: Path, *keys: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(key, object) for all that lists of these names hold, "" being a file that is a list; what is no object is left out.

    Raises:
        DataError: the file cannot be read to its end.
    """
    for key, value, is_element, *_ in elements(path):
        if is_element and key in keys and isinstance(value, dict):
            yield key, value


def _kind_of_element(key: str, element: dict[str, Any]) -> Kind | None:
    if key == "annotations":
        if "segments_info" in element:
            return "panoptic"
        return "instances" if "segmentation" in element and "keypoints" not in element else "other"
    if key == "shapes" and "points" in element:
        return "labelme"
    if key in ("", "frames") and "labels" in element and "name" in element:
        return "frames"
    return None
