"""Any pictures and masks: folders paired by name, or a CSV. The classes are described in a few lines of YAML.

    names: [background, road, person]        # in label order
    values: {0: background, 7: road, 24: person, 255: ignore}   # raw mask value -> class; default: 0, 1, 2, ...
    # or, for masks that are stored as colors
    colors: {"000000": background, "804080": road, "dc143c": person}
    things: [person]                         # the countable ones; default: none

Objects are told apart in one of two ways, and then serve `truth: instances` or `truth: panoptic`:

- two pictures: `masks` holds classes as above and `instances` object numbers, in 8, 16 or 32 bits or as colors (any
  color but black is a number of its own). 0 is no object; a number belongs to one object of one thing class.
- one picture: `divisor: 1000` reads every value of `masks` as class x 1000 + object number, where the class is a raw
  value of the class description and numbers count within it. Values may be in 16 or 32 bits, or in colors as COCO's
  panoptic PNG has them (R + 256 G + 65536 B).

With either one, a pixel of a thing class with the number 0 belongs to objects that nobody counted, a crowd, which losses
and metrics of objects leave out; numbers on stuff say nothing; "ignore" is unlabelled whatever its number. Own work.
"""

from __future__ import annotations

import csv as csv_files
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from torch.utils.data import Dataset

from trimask.data.decode import read_image, read_mask
from trimask.data.files import (
    Pair,
    find_root,
    locate,
    match,
    of_split,
    pairs_from_csv,
    pairs_from_folders,
    pictures_in,
    sizes_differ,
)
from trimask.data.label_map import LabelMap
from trimask.data.objects import Truth, from_maps, from_values, object_numbers
from trimask.data.segments import ValueIndex
from trimask.types import ClassSpec, DataError, Sample

OFFERS = {
    "semantic": frozenset({"semantic"}),
    "instances": frozenset({"instances"}),
    "panoptic": frozenset({"semantic", "instances", "panoptic"}),
}


class Folder(Dataset[Sample]):
    """Masks beside pictures, in any layout.

    Paths are relative to `root`; `lists` and `classes` may also be relative to the working directory. A pair shares
    its path below the two folders, less extension and `image_suffix` or `mask_suffix`; that path is its name.

    The splits are told apart in one of three ways: by "{split}" in `images` and `masks`, or in `csv`; by `lists`; or at
    random by `test_size` and `seed`.

    Args:
        split: "train", "val", "test" or "all"; "test" is "val" where nothing tells them apart.
        root: the data set's folder; see `find_root`.
        classes: the class description above, as a mapping or as a YAML file.
        truth: what the masks answer. "semantic": one segment a class. "panoptic": all three questions, one segment an
            object and one a stuff class. "instances": the objects alone; all other pixels are background, which needs
            no class (list its value as "ignore").
        images: a folder, of which all pictures at any depth are taken, or a glob such as "photos/**/*.jpg".
        masks: the same for the masks; may be the same folder if a suffix or a glob tells them apart.
        instances: the same for the pictures of object numbers.
        image_suffix: what the stem of every picture ends with, e.g. "_leftImg8bit".
        mask_suffix: what the stem of every mask ends with, e.g. "_mask".
        instance_suffix: what the stem of every picture of object numbers ends with.
        divisor: of masks that hold class x divisor + object number, instead of `instances`.
        csv: a file with the columns `images` and `masks`, and `instances` if objects are numbered in pictures of their
            own, instead of the folders; its paths are absolute or relative to the file's own folder or to `root`.
        lists: for each split a text file with one name a line, which selects and orders the pairs.
        test_size: share of the pairs that a random division holds out for "val".
        seed: of the random division.

    Raises:
        DataError: a folder, file or column is missing, the pairs do not come out even, nothing is left, or what tells
            objects apart is missing or given twice.
    """

    def __init__(
        self,
        split: str = "train",
        *,
        root: str | Path,
        classes: dict[str, Any] | str | Path,
        truth: str = "semantic",
        images: str = "images",
        masks: str = "masks",
        instances: str | None = None,
        image_suffix: str = "",
        mask_suffix: str = "",
        instance_suffix: str = "",
        divisor: int | None = None,
        csv: str | Path | None = None,
        lists: dict[str, str] | None = None,
        test_size: float = 0.2,
        seed: int = 0,
    ) -> None:
        folder = find_root(root)
        self.classes, self.label_map = read_classes(classes if isinstance(classes, dict) else locate(classes, folder))
        self.truth, self.divisor = truth, divisor
        named = "{split}" in f"{images}{csv}"
        numbers: dict[str, str] = {}
        if csv is not None:
            table = locate(str(csv).format(split=split), folder)
            pairs = pairs_from_csv(table, folder)
            if instances is not None:
                raise DataError(f"`instances` goes with folders; in {table} add a column named instances.")
            if truth != "semantic" and divisor is None:
                numbers = _numbers_from_csv(table, folder, pairs)
        else:
            pairs = pairs_from_folders(
                folder,
                images=images.format(split=split),
                masks=masks.format(split=split),
                image_suffix=image_suffix,
                mask_suffix=mask_suffix,
            )
            if instances is not None:
                numbers = _numbers_from_folder(folder, instances.format(split=split), instance_suffix, pairs)
        self._check_truth(has_numbers=bool(numbers))
        self.pairs = of_split(
            pairs, split, folder=folder, lists=lists, test_size=test_size, seed=seed, is_divided=named
        )
        self.numbers = [numbers[pair.name] for pair in self.pairs] if numbers else []

    @property
    def offers(self) -> frozenset[str]:
        return OFFERS[self.truth]

    def _check_truth(self, *, has_numbers: bool) -> None:
        if self.truth not in OFFERS:
            raise DataError(f"`truth` is one of {', '.join(OFFERS)}; got {self.truth!r}.")
        given = ["instances"] * has_numbers + ["divisor"] * (self.divisor is not None)
        if self.truth == "semantic" and given:
            raise DataError(f"`{given[0]}` tells objects apart, so set truth: panoptic or truth: instances with it.")
        if self.truth != "semantic" and len(given) != 1:
            raise DataError(
                f"`truth: {self.truth}` needs one of `instances` (pictures of object numbers; in a CSV the column "
                f"instances) and `divisor` (masks of class x divisor + number); got {' and '.join(given) or 'neither'}."
            )
        if self.truth != "semantic" and not self.classes.things:
            raise DataError(f"`truth: {self.truth}` needs countable classes; list them in `classes` as `things`.")
        if self.divisor is not None and (self.divisor < 2 or self.label_map.is_color):
            raise DataError(f"`divisor` is 2 or more and goes with class values; got {self.divisor}, {self.label_map}.")

    def __len__(self) -> int:
        return len(self.pairs)

    def files(self, index: int) -> tuple[str, ...]:
        return self.pairs[index].image, self.pairs[index].mask, *self.numbers[index : index + 1]

    def __getitem__(self, index: int) -> Sample:
        pair = self.pairs[index]
        image = read_image(pair.image)
        if self.divisor is not None:
            truth = self._divided(read_mask(pair.mask), pair.mask, self.divisor)
        elif self.numbers:
            truth = self._numbered(pair, self.numbers[index])
        else:
            segments, present = self.label_map.segments(read_mask(pair.mask), pair.mask)
            truth = Truth(segments, present, np.zeros(len(present), np.bool_))
        if truth.segments.shape[1:] != image.shape[:2]:
            raise DataError(sizes_differ(pair, image.shape[:2], truth.segments.shape[1:]))
        return Sample(image, *truth, pair.name)

    def _numbered(self, pair: Pair, file: str) -> Truth:
        """Classes and object numbers in two pictures."""
        labels = self._asked(self.label_map(read_mask(pair.mask), pair.mask))
        numbers = object_numbers(read_mask(file))
        if numbers.shape != labels.shape:
            raise DataError(sizes_differ(Pair(pair.name, pair.mask, file), labels.shape, numbers.shape))
        return from_maps(labels, numbers, self.classes, file)

    def _divided(self, raw: NDArray[Any], path: str, divisor: int) -> Truth:
        """Class x divisor + object number in one picture."""
        index = ValueIndex(object_numbers(raw))
        values, numbers = np.divmod(index.values.astype(np.int64), divisor)
        if not np.isin(values, self.label_map.keys).all():
            self.label_map(index.raw // divisor, path)  # says which class value, and how many pixels have it
        return from_values(index, self._asked(self.label_map(values[None], path)[0]), numbers, self.classes)

    def _asked(self, labels: NDArray[Any]) -> NDArray[Any]:
        """Labels without the stuff classes where only objects are asked for."""
        if self.truth != "instances":
            return labels
        return np.where(np.isin(labels, sorted(self.classes.things)), labels, self.classes.ignore_index)


def _numbers_from_folder(folder: Path, where: str, suffix: str, pairs: list[Pair]) -> dict[str, str]:
    """Name -> picture of object numbers, one for each pair."""
    files = pictures_in(folder, where, suffix)
    masks = {pair.name: pair.mask for pair in pairs}
    return {name: file for name, _, file in match(masks, files, where=f"{folder} (masks, then {where})")}


def _numbers_from_csv(table: Path, folder: Path, pairs: list[Pair]) -> dict[str, str]:
    """Name -> picture of object numbers, from the column `instances` of the CSV that gave the pairs; {} without it."""
    with table.open(newline="", encoding="utf-8-sig") as file:
        reader = csv_files.DictReader(file)
        if "instances" not in (reader.fieldnames or ()):
            return {}
        entries = [row["instances"] for row in reader]
    numbers = {}
    for pair, entry in zip(pairs, entries, strict=True):
        found = [base / entry for base in (table.parent, folder) if entry and os.path.isfile(base / entry)]
        if not found:
            raise DataError(f"{table}: the column instances has {entry!r} for {pair.name}, which is no file.")
        numbers[pair.name] = str(found[0])
    return numbers


def _check_forms(description: Mapping[str, Any], where: str) -> None:
    """Raises a DataError for a text where a list belongs, of which each letter would be a class, and the like."""
    for key in ("names", "things"):
        listed = description.get(key, ())
        if not isinstance(listed, list | tuple) or any(name is None or isinstance(name, bool) for name in listed):
            raise DataError(
                f"{where}: `{key}` is a list of names such as [background, road]; got {listed!r}. YAML takes yes, no, on, off "
                "and null for something else than texts: put such names in quotes."
            )
    for key in ("values", "colors"):
        table = description.get(key)
        if table is not None and not isinstance(table, Mapping):
            raise DataError(
                f"{where}: `{key}` goes from each {key[:-1]} of a mask to a name, such as 0: road; got {table!r}."
            )


def read_classes(source: Mapping[str, Any] | Path) -> tuple[ClassSpec, LabelMap]:
    """The class description at the top of this file -> the classes, and what the raw values of masks mean."""
    if isinstance(source, Path):
        try:
            description = yaml.safe_load(source.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise DataError(f"{source}: not a YAML file: {error}") from error
        where = str(source)
    else:
        description, where = source, "`classes`"
    allowed = ("names", "values", "colors", "things")
    if not isinstance(description, Mapping) or "names" not in description or set(description) - set(allowed):
        found = list(description) if isinstance(description, Mapping) else description
        raise DataError(f"{where}: a class description has `names` and, if needed, {allowed[1:]}; got {found}.")
    _check_forms(description, where)
    try:
        names = [str(name) for name in description["names"]]
        if unknown := sorted(set(description.get("things", ())) - set(names)):
            raise DataError(f"`things` names {unknown}, which are not among the classes {names}.")
        classes = ClassSpec(names, things=[names.index(name) for name in description.get("things", ())])
        values, colors = description.get("values"), description.get("colors")
        if values is None and colors is None:
            values = dict(enumerate(names))
        return classes, LabelMap(classes, values=values, colors=colors)
    except ValueError as error:
        raise DataError(f"{where}: {error}") from error
