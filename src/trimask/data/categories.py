"""The categories of COCO-style files -> the classes of a data set. Own work.

Category ids have gaps (COCO's go from 1 to 90 with ten missing, from 1 to 200 with stuff) and mean nothing beyond their
file. Labels are contiguous in the order of the file's `categories`, or as `categories:` chooses:

    categories: [person, car]                                   # these two, in this order
    categories: {person: human, car: vehicle, bus: vehicle, dog: ignore}   # renamed, merged, unlabelled
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import yaml
from numpy.typing import NDArray

from trimask.data.annotation_index import Record
from trimask.data.json_stream import integer
from trimask.data.label_map import IGNORE
from trimask.data.overlaps import VOID
from trimask.types import ClassSpec, DataError, distinct_colors

LEFT_OUT = -2  # instead of a label: a category of which nothing is to be seen

Choice = list[str] | dict[str, str] | None


class Category(NamedTuple):
    """One entry of a file's `categories`. `is_thing` and `color` are None where the file does not say."""

    id: int
    name: str
    is_thing: bool | None
    color: tuple[int, int, int] | None


class CategoryMap(NamedTuple):
    """What the categories of a file stand for.

    Attributes:
        names: of the classes, in label order.
        things: labels of the countable ones.
        colors: one a class, or None where the file has not one for each.
        label_of: category id -> label, LEFT_OUT or VOID.
    """

    names: list[str]
    things: frozenset[int]
    colors: list[tuple[int, int, int]] | None
    label_of: dict[int, int]


def read_categories(records: Sequence[Record], source: str, *, things: bool | None = None) -> list[Category]:
    """The entries of a file's `categories`.

    Args: things: whether all are things; None asks the file, which then has to say it with `isthing`.

    Raises:
        DataError: an entry lacks its id or its name, or one of them occurs twice.
    """
    categories = [_category(record, source, things) for record in records]
    if not categories:
        raise DataError(f"{source}: its list of categories is empty.")
    for what, count in (("id", Counter(c.id for c in categories)), ("name", Counter(c.name for c in categories))):
        key, times = count.most_common(1)[0]
        if times > 1:
            raise DataError(f"{source}: {times} categories have the {what} {key!r}; rename them in the file.")
    return categories


def _category(record: Record, source: str, things: bool | None) -> Category:
    number, name = integer(record.get("id")), record.get("name")
    if number is None or not isinstance(name, str) or not name:
        raise DataError(f"{source}: a category has a whole number `id` and a text `name`; found {record}.")
    if things is None:
        if record.get("isthing") not in (0, 1):
            raise DataError(
                f"{source}: the category {name!r} has the isthing {record.get('isthing')!r}; it must be 0 or 1."
            )
        things = bool(record["isthing"])
    return Category(number, name, things, _color(record))


def _color(record: Record) -> tuple[int, int, int] | None:
    given = record.get("color")
    if not isinstance(given, list) or len(given) != 3:
        return None
    red, green, blue = (integer(part) for part in given)
    if red is None or green is None or blue is None or not all(0 <= part <= 255 for part in (red, green, blue)):
        return None
    return red, green, blue


def read_category_file(path: Path) -> list[Record]:
    """A JSON or YAML file with a list of categories, such as panopticapi's panoptic_coco_categories.json, or an annotation
    file that has one."""
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise DataError(f"{path}: no list of categories can be read: {error}") from error
    records = content.get("categories") if isinstance(content, Mapping) else content
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise DataError(f"{path}: a category file is a list of entries with `id`, `name` and `isthing`.")
    return records


def choose(categories: Sequence[Category], choice: Choice, source: str) -> CategoryMap:
    """The classes that a user has chosen of a file's categories; all of them in the file's order by default.

    Raises:
        DataError: a name that the file does not have, or a class of both things and stuff.
    """
    if choice is None:
        chosen = {category.name: category.name for category in categories}
    else:
        chosen = {str(k): str(v) for k, v in choice.items()} if isinstance(choice, dict) else {n: n for n in choice}
    by_name = {category.name: category for category in categories}
    if unknown := [name for name in chosen if name not in by_name]:
        raise DataError(f"`categories` names {unknown}, which {source} does not have; it has {list(by_name)}.")
    names = list(dict.fromkeys(name for name in chosen.values() if name != IGNORE))
    if not names:
        raise DataError(f"`categories` leaves no class of {source}; name at least one.")
    label_of = {c.id: _label(c.name, chosen, names) for c in categories}
    members = [[c for c in categories if label_of[c.id] == label] for label in range(len(names))]
    if mixed := [name for name, group in zip(names, members, strict=True) if len({c.is_thing for c in group}) > 1]:
        raise DataError(f"`categories` joins things and stuff of {source} in {mixed}; a class is one or the other.")
    things = frozenset(label for label, group in enumerate(members) if group[0].is_thing)
    colors = [group[0].color for group in members]
    known = [color for color in colors if color is not None]
    return CategoryMap(names, things, known if len(known) == len(names) else None, label_of)


def _label(name: str, chosen: Mapping[str, str], names: list[str]) -> int:
    if name not in chosen:
        return LEFT_OUT
    return VOID if chosen[name] == IGNORE else names.index(chosen[name])


def class_spec(chosen: CategoryMap, stuff: Sequence[str] = ()) -> ClassSpec:
    """The classes of a data set: those of the file, and then `stuff` that the file does not know."""
    names = [*chosen.names, *(name for name in stuff if name not in chosen.names)]
    colors: NDArray[np.uint8] | None = None
    if chosen.colors is not None:
        colors = distinct_colors(len(names))
        colors[: len(chosen.colors)] = chosen.colors
    things = [label for label in chosen.things if names[label] not in stuff]
    return ClassSpec(names, things=things, colors=colors)
