"""Any set in Scalabel's format (and so BDD100K's JSON): polygons with Bezier curves or run lengths, classes chosen in YAML.

    names: [direct, alternative, background]     # in label order
    things: []                                   # the countable ones; default: none
    labels:                                      # which labels are of a class; default: those whose category has its name
      direct: {category: drivable area, areaType: direct}       # a category and values of attributes; or a list of such
      alternative: {category: drivable area, areaType: alternative}
    background: background                       # the class of what no label covers; default: it is unlabelled
    skip: [lane, car]                            # categories that have no class; "*" for all others

Without a description the classes are the categories of the file's `config`, its `isThing` and `color` included. A category
that is neither described nor skipped is an error.

Source: https://doc.scalabel.ai/format.html. Labels are drawn in the order of the file as `scalabel_render` says, and what a
later one hides is gone, as in the official conversion to masks. A line (`closed: false`), a box or a tag has no area and no
pixels. What the attribute `crowd` or `ignored` marks is a crowd if it is a thing (as in scalabel/label/to_coco.py), and
`ignored` stuff is unlabelled. Own work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import yaml
from torch.utils.data import Dataset

from trimask.data.decode import read_image
from trimask.data.files import Pair, find_root, listed, locate, of_split, pictures_in, repeated_names
from trimask.data.json_stream import elements
from trimask.data.objects import Truth
from trimask.data.scalabel_index import FrameIndex, open_frames
from trimask.data.scalabel_render import Canvas, has_area
from trimask.data.segments import ValueIndex, segment_dtype
from trimask.types import ClassSpec, DataError, Sample, Size

UNLABELLED = -1
_LOOKED_AT = 20  # frames of a file that tell whether it has areas
_TAIL = 1 << 16  # bytes at the end of a file, where `config` stands


class Kind(NamedTuple):
    """What a label is: its class, or UNLABELLED for an area of no class; whether it is one object; whether it is a crowd."""

    label: int
    is_object: bool
    is_crowd: bool = False


Rule = Callable[[Mapping[str, Any]], Kind | None]  # label -> what it is; None: it is not drawn. Raises ValueError.


def truth(
    frame: Mapping[str, Any], size: Size, rule: Rule, *, background: int = UNLABELLED, lines_too: bool, where: str
) -> Truth:
    """The labels of a frame as segments: one an object, and one a class of what is no object.

    Args:
        background: the class of what no label covers.
        lines_too: as in `Canvas.draw`.
        where: the file, for messages.

    Raises:
        DataError: a label has no class, or cannot be drawn.
    """
    labels = frame.get("labels") or []
    kinds = [Kind(background, False)]
    canvas = Canvas(size, fill=0, dtype=segment_dtype(len(labels)))
    for label in labels:
        try:
            if not has_area(label, lines_too=lines_too) or (kind := rule(label)) is None:
                continue
            canvas.draw(label, len(kinds), lines_too=lines_too)
        except (ValueError, TypeError, AttributeError) as error:
            shown = label.get("id") if isinstance(label, Mapping) else label
            raise DataError(f"{where}, frame {frame.get('name')!r}, label {shown!r}: {error}.") from error
        kinds.append(kind)
    index = ValueIndex(canvas.ids)
    drawn = [kinds[value] for value in index.values.tolist()]
    numbers = [value if kind.is_object else 0 for value, kind in zip(index.values.tolist(), drawn, strict=True)]
    return gather(index, [kind.label for kind in drawn], numbers, [kind.is_crowd for kind in drawn])


def gather(index: ValueIndex, labels: Sequence[int], objects: Sequence[int], is_crowd: Sequence[bool]) -> Truth:
    """An id picture whose every value stands for a class (or UNLABELLED) and an object (0: none) -> segments.

    Args: labels, objects, is_crowd: (V,) for each of `index.values`.
    """
    values = np.array([labels, objects, is_crowd], np.int64).T.reshape(len(index.values), 3)
    known = values[:, 0] != UNLABELLED
    rows, number = np.unique(values[known], axis=0, return_inverse=True)
    ids = np.zeros(len(values), segment_dtype(len(rows)))
    ids[known] = number.ravel() + 1
    return Truth(index.replace(ids)[None], rows[:, 0].copy(), rows[:, 2].astype(np.bool_))


def flag(label: Mapping[str, Any], name: str) -> bool:
    """An attribute that is on or off; off where it is missing."""
    return bool((label.get("attributes") or {}).get(name, False))


class ScalabelDataset(Dataset[Sample]):
    """Pictures with one Scalabel file of labels for all of them.

    `offers`: "semantic" if there is stuff (a background included), "instances" if there are things, all three with both.
    Frames and pictures belong together by the name of the frame, with or without its folders. The attributes weather,
    scene and timeofday of a frame are its tags.

    Args:
        split: "train", "val", "test" or "all"; "test" is "val" where nothing tells them apart.
        root: the data set's folder; see `files.find_root`.
        labels: the file, relative to `root`; "{split}" in it tells the splits apart. Default: the only JSON there.
        images: the folder of the pictures, or a glob; "{split}" as above.
        classes: the description above, as a mapping or as a YAML file.
        lines_too: whether polygons that are not closed are areas; BDD100K's own files have such.
        partial: take the pictures that have a frame and leave out all others, and frames without a picture. Without it
            they are an error.
        test_size: share of the pictures that a random division holds out for "val", if nothing tells the splits apart.
        seed: of that division.

    Raises:
        DataError: a file is missing or is no Scalabel file, pictures and frames do not pair up, or the class description
            does not hold.
    """

    def __init__(
        self,
        split: str = "train",
        *,
        root: str | Path,
        labels: str | None = None,
        images: str = "images",
        classes: dict[str, Any] | str | Path | None = None,
        lines_too: bool = False,
        partial: bool = False,
        test_size: float = 0.2,
        seed: int = 0,
    ) -> None:
        folder = find_root(root)
        named = "{split}" in f"{labels}{images}"
        file = locate(labels.format(split=split), folder) if labels else _only_json(folder)
        self.index, self.lines_too = open_frames(file), lines_too
        self._describe(classes if classes is None or isinstance(classes, dict) else locate(classes, folder))
        rows = _matched(self.index, pictures_in(folder, images.format(split=split)), partial=partial)
        pairs = [Pair(name, image, self.index.source) for name, (image, _) in rows.items()]
        self.pairs = of_split(pairs, split, folder=folder, lists=None, test_size=test_size, seed=seed, is_divided=named)
        self.rows = np.array([rows[pair.name][1] for pair in self.pairs], np.int64)

    def _describe(self, source: Mapping[str, Any] | Path | None) -> None:
        self.classes, self.rule, self.background = read_classes(source, self.index)
        has_things = bool(self.classes.things)
        has_stuff = len(self.classes.things) < len(self.classes)
        whole = ["semantic"] * has_stuff + ["instances"] * has_things + ["panoptic"] * (has_stuff and has_things)
        self.offers = frozenset(whole)

    @classmethod
    def found_in(cls, folder: Path) -> list[dict[str, Any]]:
        """The arguments for each file here that has areas and categories, if there is a folder `images`."""
        try:
            if not (folder / "images").is_dir():
                return []
            return [
                {"root": str(folder), "labels": file.name} for file in sorted(folder.glob("*.json")) if _is_whole(file)
            ]
        except OSError:
            return []

    def __len__(self) -> int:
        return len(self.pairs)

    def files(self, index: int) -> tuple[str, ...]:
        return (self.pairs[index].image,)

    def __getitem__(self, index: int) -> Sample:
        pair, row = self.pairs[index], int(self.rows[index])
        image = read_image(pair.image)
        found = truth(
            self.index.frame(row),
            (image.shape[0], image.shape[1]),
            self.rule,
            background=self.background,
            lines_too=self.lines_too,
            where=pair.mask,
        )
        return Sample(image, found.segments, found.labels, found.is_crowd, pair.name, dict(self.index.tags(row)))


# --- classes ---


class ByDescription:
    """The rule of a class description: the first class of which a label has the category and all attributes.

    Args:
        wanted: for each class the descriptions, one of which a label fits.
        skip: categories without a class; "*" for all others.
    """

    def __init__(
        self, classes: ClassSpec, wanted: Mapping[str, Sequence[Mapping[str, Any]]], skip: Iterable[str]
    ) -> None:
        self.things = classes.things
        self.wanted = [(classes.names.index(name), dict(one)) for name, several in wanted.items() for one in several]
        self.skip = frozenset(skip)

    def __call__(self, label: Mapping[str, Any]) -> Kind | None:
        attributes = label.get("attributes") or {}
        for number, wanted in self.wanted:
            found = {key: label.get("category") if key == "category" else attributes.get(key) for key in wanted}
            if found == wanted:
                is_thing, is_ignored = number in self.things, flag(label, "ignored")
                if is_ignored and not is_thing:
                    return Kind(UNLABELLED, False)
                return Kind(number, is_thing, is_thing and (is_ignored or flag(label, "crowd")))
        if label.get("category") in self.skip or "*" in self.skip:
            return None
        raise ValueError(
            f"the category {label.get('category')!r} with the attributes {attributes} is of no class; describe it with "
            f"`labels` of the class description, or list the category with `skip`"
        )


def read_classes(source: Mapping[str, Any] | Path | None, index: FrameIndex) -> tuple[ClassSpec, ByDescription, int]:
    """The class description at the top of this file -> classes, rule, and the class of the background or UNLABELLED."""
    if source is None:
        return _of_config(index)
    where = str(source) if isinstance(source, Path) else "`classes`"
    try:
        given = yaml.safe_load(source.read_text(encoding="utf-8")) if isinstance(source, Path) else source
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(f"{where}: not a YAML file: {error}") from error
    allowed = {"names", "things", "labels", "background", "skip"}
    if not isinstance(given, Mapping) or "names" not in given or set(given) - allowed:
        found = list(given) if isinstance(given, Mapping) else given
        raise DataError(f"{where}: a class description has `names` and, if needed, {sorted(allowed)}; got {found}.")
    names, background = [str(name) for name in given["names"]], given.get("background")
    described = given.get("labels") or {}
    mentioned = [*given.get("things", ()), *described, *([] if background is None else [background])]
    if unknown := sorted({str(name) for name in mentioned if name not in names}):
        raise DataError(f"{where}: {unknown} are not among the classes {names}.")
    try:
        classes = ClassSpec(names, things=[names.index(name) for name in given.get("things", ())])
    except ValueError as error:
        raise DataError(f"{where}: {error}") from error
    if background is not None and names.index(background) in classes.things:
        raise DataError(f"{where}: the background {background!r} cannot be a thing.")
    wanted = {name: _descriptions(described.get(name), name, where) for name in names if name != background}
    return (
        classes,
        ByDescription(classes, wanted, given.get("skip", ())),
        (UNLABELLED if background is None else names.index(background)),
    )


def _descriptions(given: Any, name: str, where: str) -> list[dict[str, Any]]:
    several = [{"category": name}] if given is None else given if isinstance(given, list) else [given]
    if wrong := [one for one in several if not isinstance(one, Mapping) or not one]:
        raise DataError(f"{where}: labels of {name!r} are described by a category and attributes; got {wrong[0]!r}.")
    return [dict(one) for one in several]


def _of_config(index: FrameIndex) -> tuple[ClassSpec, ByDescription, int]:
    if not index.categories:
        raise DataError(
            f"{index.source}: the file has no `config` with categories; describe the classes with "
            f"--data.dataset.classes."
        )
    names = [category["name"] for category in index.categories]
    colors = [category.get("color") for category in index.categories]
    try:
        things = [i for i, category in enumerate(index.categories) if category.get("isThing")]
        known = all(isinstance(color, list) and len(color) == 3 for color in colors)
        classes = ClassSpec(names, things=things, colors=np.array(colors, np.uint8) if known else None)
    except ValueError as error:
        raise DataError(f"{index.source}, `config.categories`: {error}") from error
    return classes, ByDescription(classes, {name: [{"category": name}] for name in names}, ()), UNLABELLED


# --- files ---


def _only_json(folder: Path) -> Path:
    files = sorted(folder.glob("*.json"))
    if len(files) != 1:
        raise DataError(
            f"{folder} holds {listed([file.name for file in files])} JSON files; name the one with the labels with "
            f"--data.dataset.labels."
        )
    return files[0]


def _matched(index: FrameIndex, pictures: Mapping[str, str], *, partial: bool) -> dict[str, tuple[str, int]]:
    """Name -> picture and row of its frame, ordered by name."""
    short = {name: PurePosixPath(name).name for name in pictures}
    repeated = set(repeated_names(list(short.values())))
    by_name = {
        **{last: name for name, last in short.items() if last not in repeated},
        **{name: name for name in pictures},
    }
    rows: dict[str, int] = {}
    lost = []
    for row, frame_name in enumerate(index.names):
        path = (
            PurePosixPath(frame_name).with_suffix("") if PurePosixPath(frame_name).name else PurePosixPath(frame_name)
        )
        name = by_name.get(str(path)) or by_name.get(path.name)
        if name is None:
            lost.append(frame_name)
        elif name in rows:
            raise DataError(
                f"{index.source}: the frames {index.names[rows[name]]!r} and {frame_name!r} are of one picture."
            )
        else:
            rows[name] = row
    missing = [name for name in pictures if name not in rows]
    if (lost or missing) and (not partial or not rows):
        raise DataError(
            f"{index.source}: frames without a picture: {listed(lost)}; pictures without a frame: {listed(missing)}. "
            f"Set partial: true to use the {len(rows)} that have both."
        )
    return {name: (pictures[name], rows[name]) for name in pictures if name in rows}


def _is_whole(file: Path) -> bool:
    """Whether a JSON has frames with areas, and categories; only its beginning and its end are looked at."""
    try:
        first = islice(elements(file), _LOOKED_AT)
        frames = [element.value for element in first if element.is_element and element.key in ("", "frames")]
        labels = [label for frame in frames for label in frame.get("labels") or []]
        if not any(has_area(label, lines_too=False) for label in labels):
            return False
        with file.open("rb") as opened:
            start = opened.read(_TAIL)
            opened.seek(max(0, file.stat().st_size - _TAIL))
            return b'"categories"' in start + opened.read()
    except (DataError, ValueError, TypeError, AttributeError):
        return False
