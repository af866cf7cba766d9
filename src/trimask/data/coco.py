"""COCO: instances (polygons and run lengths) and panoptic pictures, for any pictures and any set of categories.

Source: the formats of https://cocodataset.org/#format-data, pycocotools and panopticapi. The annotations of COCO are
CC BY 4.0; its pictures have the licences of their owners on Flickr.

What is particular here:

- labels are contiguous in the order of the file's `categories`, whatever gaps its ids have;
- an annotation is a crowd if `iscrowd` says so, and for no other reason: run lengths are only a way to write a mask;
- overlaps are kept; one layer is made only by a rule that the user names (`overlaps`);
- the annotation file is never held in memory (`annotation_index`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path, PurePath
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from trimask.data import rle
from trimask.data.annotation_index import AnnotationIndex, Record, open_index
from trimask.data.categories import (
    LEFT_OUT,
    Choice,
    choose,
    class_spec,
    read_categories,
    read_category_file,
)
from trimask.data.decode import read_image, read_mask
from trimask.data.files import Pair, find_root, inside, listed, locate, of_split, sizes_differ, subfolders
from trimask.data.json_stream import elements, integer
from trimask.data.label_map import IGNORE, LabelMap
from trimask.data.overlaps import VOID, Object, Overlap, arrange, check_rule
from trimask.data.segments import ValueIndex, panoptic_ids, segment_dtype
from trimask.types import DataError, Sample, Size

# Where the files of a split are looked for, in this order; Roboflow says "valid", and COCO has no truth for "test".
SPLIT_NAMES = {"train": ("train",), "val": ("val", "valid"), "test": ("test", "val", "valid")}
INSTANCE_FILES = (
    "annotations/instances_{split}2017.json",
    "annotations/instances_{split}2014.json",
    "annotations/instances_{split}.json",
    "{split}/_annotations.coco.json",
    "annotations.json",
)
PANOPTIC_FILES = (
    "annotations/panoptic_{split}2017.json",
    "annotations/panoptic_{split}.json",
    "panoptic_segmentation/annotations/panoptic_{split}2017.json",
)
IMAGE_FOLDERS = (
    "{split}2017",
    "images/{split}2017",
    "{split}2014",
    "images/{split}2014",
    "{split}",
    "images/{split}",
    "images",
    ".",
)
_LOOKED_AT = 1000  # elements of a JSON in which the first picture is looked for
_TRIED = 8  # pictures of which one has to be in a folder for it to be the pictures' folder


class CocoInstances(Dataset[Sample]):
    """Things one by one. With `background` or `stuff` every pixel has a class; with an `overlap` rule just one segment.

    Rows of a sample: crowds, then the other annotations in the order of the file, then the classes below them. An
    annotation that draws no pixel, or none that a rule leaves visible, is no segment. `meta["image_id"]` is the id of the
    picture in the file.

    `offers`: "instances"; also "semantic" with `background` or `stuff` (where objects overlap, the one that comes later in
    the file is on top, unless `overlap` says otherwise); also "panoptic" with an `overlap` rule on top of that. A rule cuts
    masks down to what is visible: leave it out to compare average precision with that of COCO.

    Args:
        split: "train", "val", "test" ("val" where there is no such file), or "all" where one file holds all pictures.
        root: the data set's folder; see `files.find_root`.
        annotations: the JSON file, with "{split}" if there is one a split; by default the first of INSTANCE_FILES.
        images: the folder to which file names are relative, with "{split}"; by default the first of IMAGE_FOLDERS, or the
            folder of the JSON, that holds one of the file's first pictures.
        categories: which categories are classes, as names in label order, or as {name in the file: class name or
            "ignore"}. What is left out is as if it were not annotated; "ignore" leaves its pixels unlabelled where no other
            object lies. By default all categories in the file's order.
        keep_empty: whether pictures without an annotation (of the chosen categories) belong to the data set.
        background: a class of stuff for all pixels that no object covers; a category of the file of that name, such as
            LabelMe's `_background_`, becomes this class.
        stuff: a folder of semantic PNGs, with "{split}", that lie below the objects, as COCO-Stuff's `stuffthingmaps`.
        stuff_values: what the values of those PNGs mean, {value or "first-last": class name or "ignore"}; every value that
            occurs has to be listed. These classes follow those of the file.
        overlap: a rule of `overlaps`: "smaller", "later" or "ignore"; None keeps overlapping masks whole.
        without_mask: what to do with annotations that have a box and no mask: "refuse" or "drop".
        lists: where one file holds all pictures: for each split a text file with one name a line.
        test_size: else the share of the pictures that a random division holds out for "val".
        seed: of the random division.

    Raises:
        DataError: a file or folder is missing, the annotation file is damaged or of another kind, or a name is unknown.
    """

    def __init__(
        self,
        split: str = "train",
        *,
        root: str | Path = "coco",
        annotations: str | None = None,
        images: str | None = None,
        categories: Choice = None,
        keep_empty: bool = True,
        background: str | None = None,
        stuff: str | None = None,
        stuff_values: dict[int | str, str] | None = None,
        overlap: Overlap | None = None,
        without_mask: Literal["refuse", "drop"] = "refuse",
        lists: dict[str, str] | None = None,
        test_size: float = 0.2,
        seed: int = 0,
    ) -> None:
        check_rule(overlap)
        if (background and (stuff or stuff_values)) or bool(stuff) != bool(stuff_values):
            raise DataError("Give `background`, or `stuff` together with `stuff_values`, or none of them.")
        folder = find_root(root)
        source = _find_source(folder, split, (annotations,) if annotations else INSTANCE_FILES)
        self.index = _open(source.file, "instances")
        self.images = _image_folder(folder, source, images, self.index)
        chosen = choose(
            read_categories(self.index.header.categories or [], source.file, things=True), categories, source.file
        )
        below = [background] if background else _stuff_names(stuff_values, chosen.names)
        self.classes = class_spec(chosen, below)
        self.overlap, self.background = overlap, self.classes.names.index(background) if background else None
        self.label_of = {key: LEFT_OUT if label == self.background else label for key, label in chosen.label_of.items()}
        self.stuff = _split_folder(folder, stuff, source) if stuff else None
        self.stuff_map = LabelMap(self.classes, values=_values(stuff_values)) if stuff_values else None
        kinds = ["instances", *(["semantic"] if below else []), *(["panoptic"] if below and overlap else [])]
        self.offers = frozenset(kinds)
        self.pictures = _select(self.index, source, split, lists, folder, test_size, seed)
        counts = self._counts(without_mask)
        if not keep_empty:
            self.pictures = self.pictures[counts[self.pictures] > 0]

    def _counts(self, without_mask: str) -> NDArray[np.int64]:
        """(P,) annotations of the chosen categories of each picture of the file; all categories are checked."""
        labels = _labels(self.index, self.label_of)
        wanted = labels != LEFT_OUT
        if without_mask != "drop" and (wanted & ~self.index.has_mask).any():
            rows = np.flatnonzero(wanted & ~self.index.has_mask)
            ids = [str(record.get("id")) for record in self.index.read(rows[:5].tolist())]
            raise DataError(
                f"{self.index.header.source}: {len(rows)} of {len(labels)} annotations have no `segmentation`, such as "
                f"{', '.join(ids)}; boxes say nothing of pixels. Leave them out with without_mask: drop."
            )
        seen = np.concatenate([[0], np.cumsum((labels >= 0) & self.index.has_mask)])
        return np.diff(seen[self.index.first])

    @classmethod
    def found_in(cls, folder: Path) -> list[dict[str, Any]]:
        """The arguments with which an instance layout of `folder` is read."""
        return _found_in(folder, INSTANCE_FILES, b'"segmentation"')

    def __len__(self) -> int:
        return len(self.pictures)

    def files(self, index: int) -> tuple[str, ...]:
        picture = int(self.pictures[index])
        image = _image_path(self.index, self.images, picture)
        return (image, self._stuff_path(picture)) if self.stuff else (image,)

    def __getitem__(self, index: int) -> Sample:
        picture = int(self.pictures[index])
        path = _image_path(self.index, self.images, picture)
        image = read_image(path)
        size = _checked_size(self.index, picture, path, image)
        truth = arrange(
            self._objects(picture, size),
            size,
            overlap=self.overlap,
            under=self._under(picture, path, size),
            ignore_index=self.classes.ignore_index,
        )
        meta = {"image_id": self.index.image_id(picture)}
        return Sample(image, *truth, name=self.index.name(picture), meta=meta)

    def _objects(self, picture: int, size: Size) -> list[Object]:
        """What the file says of a picture: first what is ignored, then crowds, then the rest in the file's order."""
        objects = []
        for record in self.index.records(picture):
            label = self.label_of[_category_id(record)]
            if label == LEFT_OUT or not record.get("segmentation"):
                continue
            where = f"{self.index.header.source}: annotation {record.get('id')!r}"
            objects.append(Object(label, _is_crowd(record, where), _runs(record, size, where)))
        return sorted(objects, key=lambda one: (one.label != VOID, not one.is_crowd))

    def _under(self, picture: int, path: str, size: Size) -> NDArray[Any] | None:
        """(H, W) the classes of what lies below the objects."""
        if self.background is not None:
            return np.full(size, self.background, np.uint8 if self.classes.ignore_index == 255 else np.int32)
        if self.stuff_map is None:
            return None
        file = self._stuff_path(picture)
        under = self.stuff_map(read_mask(file), file)
        if under.shape != size:
            raise DataError(sizes_differ(Pair("", path, file), size, under.shape))
        return under

    def _stuff_path(self, picture: int) -> str:
        assert self.stuff is not None
        source = self.index.header.source
        return str(inside(Path(self.stuff), self.index.file_name(picture), source).with_suffix(".png"))


class CocoPanoptic(Dataset[Sample]):
    """A segment for every pixel: things one by one, stuff one segment a class. Offers all three questions.

    Rows of a sample are in the order of the file's `segments_info`; segments of one class of stuff are one row, a
    crowd if all of them are.
    `meta["image_id"]` is the id of the picture in the file.

    Args:
        split: "train", "val", "test" ("val" where there is no such file), or "all" where one file holds all pictures.
        root: the data set's folder; see `files.find_root`.
        annotations: the JSON file, with "{split}" if there is one a split; by default the first of PANOPTIC_FILES.
        masks: the folder of the PNGs, with "{split}"; by default the JSON's path without its ending.
        images: as for `CocoInstances`; or a pattern with "{id}", such as "leftImg8bit/{id}_leftImg8bit.png", where the JSON
            does not list its pictures.
        categories: as for `CocoInstances`; what is left out, or "ignore", is unlabelled.
        category_file: a JSON or YAML list of categories, where the annotation file has none.
        keep_empty: whether pictures that the file lists without truth belong to the data set.
        lists, test_size, seed: as for `CocoInstances`.

    Raises:
        DataError: a file or folder is missing, the annotation file is damaged or of another kind, or a name is unknown.
    """

    offers = frozenset({"semantic", "instances", "panoptic"})

    def __init__(
        self,
        split: str = "train",
        *,
        root: str | Path = "coco",
        annotations: str | None = None,
        masks: str | None = None,
        images: str | None = None,
        categories: Choice = None,
        category_file: str | None = None,
        keep_empty: bool = False,
        lists: dict[str, str] | None = None,
        test_size: float = 0.2,
        seed: int = 0,
    ) -> None:
        folder = find_root(root)
        source = _find_source(folder, split, (annotations,) if annotations else PANOPTIC_FILES)
        self.index = _open(source.file, "panoptic")
        self.images = _image_folder(folder, source, images, self.index)
        self.masks = _split_folder(folder, masks, source) if masks else source.file.removesuffix(".json")
        if not os.path.isdir(self.masks):
            raise DataError(f"There is no folder {self.masks} with the PNGs of {source.file}; name it with `masks`.")
        records = self.index.header.categories
        if category_file:
            records = read_category_file(locate(category_file, folder))
        if records is None:
            raise DataError(
                f"{source.file} has no `categories`; give a `category_file` with their ids, names and isthing."
            )
        chosen = choose(read_categories(records, source.file), categories, source.file)
        self.label_of, self.classes = chosen.label_of, class_spec(chosen)
        counts = np.diff(self.index.first)
        if len(counts) and counts.max() > 1:
            twice = self.index.image_id(int(counts.argmax()))
            raise DataError(
                f"{source.file}: the picture {twice} has {counts.max()} annotations; one PNG is its whole truth."
            )
        self.pictures = _select(self.index, source, split, lists, folder, test_size, seed)
        if not keep_empty:
            self.pictures = self.pictures[counts[self.pictures] > 0]

    @classmethod
    def found_in(cls, folder: Path) -> list[dict[str, Any]]:
        """The arguments with which a panoptic layout of `folder` is read, or else each JSON with its PNGs beside it."""
        return _found_in(folder, PANOPTIC_FILES, b'"segments_info"') or list(_beside_pngs(folder))

    def __len__(self) -> int:
        return len(self.pictures)

    def files(self, index: int) -> tuple[str, ...]:
        picture = int(self.pictures[index])
        masks = [self._mask_path(record) for record in self.index.records(picture)]
        return _image_path(self.index, self.images, picture), *masks

    def __getitem__(self, index: int) -> Sample:
        picture = int(self.pictures[index])
        path = _image_path(self.index, self.images, picture)
        image = read_image(path)
        size = _checked_size(self.index, picture, path, image)
        segments, labels, is_crowd = np.zeros((1, *size), np.uint8), np.zeros(0, np.int64), np.zeros(0, np.bool_)
        for record in self.index.records(picture):
            file = self._mask_path(record)
            ids = _read_ids(file)
            if ids.shape != size:
                raise DataError(sizes_differ(Pair("", path, file), size, ids.shape))
            segments, labels, is_crowd = self._segments(ids, record, file)
        return Sample(
            image, segments, labels, is_crowd, self.index.name(picture), {"image_id": self.index.image_id(picture)}
        )

    def _segments(
        self, ids: NDArray[Any], record: Record, file: str
    ) -> tuple[NDArray[Any], NDArray[np.int64], NDArray[np.bool_]]:
        """(H, W) ids and what the JSON says of them -> segments, labels and crowd flags."""
        infos = self._infos(record)
        index = ValueIndex(ids)
        if unmatched := (set(index.values.tolist()) - {0}) ^ set(infos):
            raise DataError(self._mismatch(unmatched, infos, ids, file))
        rows: dict[tuple[int, int], int] = {}  # (label, id of a thing or 0) -> row
        crowds: list[bool] = []
        row_of = {0: 0}
        for key, (label, crowd) in infos.items():
            own = (label, key if label in self.classes.things else 0)
            row_of[key] = 0 if label < 0 else rows.setdefault(own, len(rows)) + 1
            if len(rows) > len(crowds):
                crowds.append(crowd)
            elif label >= 0:
                crowds[rows[own]] &= crowd
        new = np.array([row_of[value] for value in index.values.tolist()], segment_dtype(len(rows)))
        return index.replace(new)[None], np.array([label for label, _ in rows], np.int64), np.array(crowds, np.bool_)

    def _infos(self, record: Record) -> dict[int, tuple[int, bool]]:
        """Segment id -> label (or LEFT_OUT, VOID) and whether it is a crowd."""
        source, picture = self.index.header.source, record.get("image_id")
        infos: dict[int, tuple[int, bool]] = {}
        given = record["segments_info"]
        if not isinstance(given, list) or not all(isinstance(info, dict) for info in given):
            raise DataError(f"{source}: the `segments_info` of picture {picture!r} is no list of objects.")
        for info in given:
            key = integer(info.get("id"))
            where = f"{source}: picture {picture!r}, segment {info.get('id')!r}"
            if key is None or not 0 < key < 1 << 24:
                raise DataError(f"{where} has no id between 1 and {(1 << 24) - 1}.")
            if key in infos:
                raise DataError(f"{where} occurs twice.")
            category = integer(info.get("category_id"))
            if category not in self.label_of:
                raise DataError(f"{where} has the category_id {info.get('category_id')!r}, which no category has.")
            infos[key] = (self.label_of[category], _is_crowd(info, where))
        return infos

    def _mismatch(self, unmatched: set[int], infos: dict[int, Any], ids: NDArray[Any], file: str) -> str:
        source = self.index.header.source
        in_file = sorted(unmatched - set(infos))
        if not in_file:
            missing = listed([str(key) for key in sorted(unmatched)])
            return f"{file}: none of its pixels has an id that {source} lists for it: {missing}."
        shown = [f"{key} ({int((ids == key).sum())} pixels)" for key in in_file]
        return f"{file} has pixels of ids that {source} does not list for it: {listed(shown)}. Unlabelled pixels are 0."

    def _mask_path(self, record: Record) -> str:
        source = self.index.header.source
        name = record.get("file_name")
        if not isinstance(name, str):
            raise DataError(f"{source}: the annotation of the picture {record.get('image_id')!r} has no `file_name`.")
        return str(inside(Path(self.masks), name, source))


def _read_ids(file: str) -> NDArray[np.int32]:
    raw = read_mask(file)
    if raw.ndim != 3:
        raise DataError(f"{file}: a panoptic PNG has three channels (id = R + 256 G + 65536 B); this one has one.")
    return panoptic_ids(raw)


# --- one annotation ---


def _runs(record: Record, size: Size, where: str) -> rle.Runs:
    try:
        return rle.from_coco(record["segmentation"], size)
    except (ValueError, TypeError, OverflowError) as error:
        raise DataError(f"{where} has a segmentation that cannot be drawn: {error}.") from error


def _is_crowd(record: Record, where: str) -> bool:
    value = record.get("iscrowd", 0)
    if value not in (0, 1):
        raise DataError(f"{where} has the iscrowd {value!r}; it must be 0 or 1.")
    return bool(value)


def _category_id(record: Record) -> int:
    category = integer(record["category_id"])
    assert category is not None, "the index has checked it"
    return category


# --- the files of a split ---


class _Source(NamedTuple):
    """The annotation file, and what "{split}" stands for; `is_split`: whether its name has one."""

    file: str
    split: str
    is_split: bool


def _find_source(folder: Path, split: str, templates: Sequence[str]) -> _Source:
    names = SPLIT_NAMES.get(split, (split,))
    for template in templates:
        for name in names:
            file = folder / template.replace("{split}", name)
            if file.is_file():
                return _Source(str(file), name, "{split}" in template)
    looked = ", ".join(template.replace("{split}", names[0]) for template in templates)
    found = sorted(str(file.relative_to(folder)) for file in [*folder.glob("*.json"), *folder.glob("*/*.json")])
    raise DataError(
        f"There is no annotation file of the split {split!r} in {folder}: looked for {looked}; the JSON files there are "
        f"{listed(found)}. Name it with `annotations`."
    )


def _open(file: str, kind: str) -> AnnotationIndex:
    index = open_index(file)
    other = {"instances": "CocoPanoptic", "panoptic": "CocoInstances"}
    if index.header.kind != kind and len(index.category_ids):
        raise DataError(f"{file} is a file of kind {index.header.kind}, not {kind}: read it with {other[kind]}.")
    return index


def _split_folder(folder: Path, template: str, source: _Source) -> str:
    path = os.path.normpath(folder / template.replace("{split}", source.split))
    if not os.path.isdir(path):
        raise DataError(f"There is no folder {path}.")
    return path


def _image_folder(folder: Path, source: _Source, images: str | None, index: AnnotationIndex) -> str:
    """The folder, or the pattern with "{id}", of the pictures."""
    if images and "{id}" in images:
        return str(folder / images.replace("{split}", source.split))
    if not index.header.has_images:
        raise DataError(
            f"{source.file} does not list its pictures; give their files with `images`, which has '{{id}}' in it."
        )
    if images:
        return _split_folder(folder, images, source)
    candidates = [folder / template.replace("{split}", source.split) for template in IMAGE_FOLDERS]
    first = [index.file_name(picture) for picture in range(min(_TRIED, index.num_pictures))]
    for candidate in [*candidates, Path(source.file).parent]:
        if any(inside(candidate, name, source.file).is_file() for name in first):
            return str(candidate)
    looked = ", ".join(os.path.relpath(candidate, folder) for candidate in candidates)
    raise DataError(
        f"{source.file} names {listed(first)}, of which none is in {folder} below {looked}; name their folder with `images`."
    )


def _image_path(index: AnnotationIndex, images: str, picture: int) -> str:
    source = index.header.source
    if "{id}" in images:
        base, _, pattern = images.partition("{id}")
        folder, start = os.path.split(base)
        return str(inside(Path(folder), start + index.image_id(picture) + pattern, source))
    return str(inside(Path(images), index.file_name(picture), source))


def _checked_size(index: AnnotationIndex, picture: int, path: str, image: NDArray[np.uint8]) -> Size:
    height, width = (int(side) for side in index.sizes[picture])
    size = image.shape[0], image.shape[1]
    if index.header.has_images and size != (height, width):
        turned = " One of the two seems to be turned by its EXIF orientation." if size == (width, height) else ""
        raise DataError(
            f"{path} is {size[1]}x{size[0]}, but {index.header.source} says {width}x{height}, so its annotations do not fit."
            f"{turned}"
        )
    return size


def _select(
    index: AnnotationIndex,
    source: _Source,
    split: str,
    lists: dict[str, str] | None,
    folder: Path,
    test_size: float,
    seed: int,
) -> NDArray[np.int64]:
    """The numbers of the pictures of a split."""
    everything = np.arange(index.num_pictures)
    if source.is_split or (split == "all" and not lists):
        return everything
    pairs = [Pair(index.name(picture), str(picture), source.file) for picture in range(index.num_pictures)]
    pairs = of_split(pairs, split, folder=folder, lists=lists, test_size=test_size, seed=seed)
    return np.array([int(pair.image) for pair in pairs], np.int64)


def _found_in(folder: Path, templates: Sequence[str], word: bytes) -> list[dict[str, Any]]:
    """The layouts of a folder that have files of this kind: their names say so, or a word at their beginning does."""
    found = []
    for template in templates:
        for name in SPLIT_NAMES["train"] + SPLIT_NAMES["val"]:
            file = folder / template.replace("{split}", name)
            if file.is_file() and ("{split}" in template or word in _beginning(file)):
                found.append({"root": str(folder), "annotations": template})
                break
    return found


def _beside_pngs(folder: Path) -> Iterator[dict[str, Any]]:
    """X.json of panoptic truth with a folder X of its PNGs, and a folder of any name with its pictures; as panopticapi has it."""
    for file in sorted(folder.glob("*.json")):
        if not file.with_suffix("").is_dir() or b'"segments_info"' not in _beginning(file):
            continue
        name = _first_picture(file)
        if name and (file.with_suffix("") / name).with_suffix(".png").is_file():
            others = [entry for entry in subfolders(folder) if entry.name != file.stem and (entry / name).is_file()]
            yield from ({"root": str(folder), "annotations": file.name, "images": entry.name} for entry in others[:1])


def _first_picture(file: Path) -> str:
    """The first file name in the list of pictures, if that list is near the beginning."""
    try:
        for key, record, is_element, *_ in islice(elements(file), _LOOKED_AT):
            if key == "images" and is_element:
                name = record.get("file_name") if isinstance(record, dict) else None
                return PurePath(name).name if isinstance(name, str) else ""
    except DataError:
        return ""
    return ""


def _beginning(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            return opened.read(1 << 20)
    except OSError:
        return b""


# --- what lies below the objects ---


def _values(given: dict[int | str, str]) -> dict[int, str]:
    """{5: a, "7-9": b} -> {5: a, 7: b, 8: b, 9: b}."""
    values: dict[int, str] = {}
    for key, name in given.items():
        for value in _range(key):
            if value in values:
                raise DataError(f"`stuff_values` lists the value {value} twice.")
            values[value] = name
    return values


def _range(key: int | str) -> range:
    first, _, last = str(key).partition("-")
    if not first.isdecimal() or not (last or first).isdecimal():
        raise DataError(
            f"The keys of `stuff_values` are values such as 92, or ranges such as '0-91'; {key!r} is neither."
        )
    return range(int(first), int(last or first) + 1)


def _stuff_names(values: dict[int | str, str] | None, things: Sequence[str]) -> list[str]:
    names = list(dict.fromkeys(name for name in (values or {}).values() if name != IGNORE))
    if shared := sorted(set(names) & set(things)):
        raise DataError(
            f"`stuff_values` names {shared}, which are things of the annotation file; say {IGNORE!r} for them."
        )
    return names


def _labels(index: AnnotationIndex, label_of: dict[int, int]) -> NDArray[np.int64]:
    """(A,) the label of every annotation of a file."""
    known = np.array(sorted(label_of), np.int64)
    wrong = np.flatnonzero(~np.isin(index.category_ids, known))
    if len(wrong):
        record = index.read([int(wrong[0])])[0]
        raise DataError(
            f"{index.header.source}: the annotation {record.get('id')!r} has the category_id {record['category_id']!r}, which "
            f"no category has; so do {len(wrong) - 1} more."
        )
    return np.array([label_of[int(key)] for key in known], np.int64)[np.searchsorted(known, index.category_ids)]
