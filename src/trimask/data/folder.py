"""Any pictures and masks: two folders paired by name, or a CSV. The classes are described in a few lines of YAML.

    names: [background, road, person]        # in label order
    values: {0: background, 7: road, 24: person, 255: ignore}   # raw mask value -> class; default: 0, 1, 2, ...
    # or, for masks that are stored as colors
    colors: {"000000": background, "804080": road, "dc143c": person}
    things: [person]                         # the countable ones; default: none

Own work. `HumanSegmentation` is built from the same pieces.
"""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import takewhile
from pathlib import Path, PurePath
from typing import Any, NamedTuple

import numpy as np
import yaml
from numpy.typing import NDArray
from torch.utils.data import Dataset

from trimask.data.decode import LabelMap, read_image, read_mask
from trimask.data.segments import from_semantic
from trimask.types import ClassSpec, DataError, Sample

PICTURE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif"})


class Pair(NamedTuple):
    """Where a sample comes from. Strings, because thousands of them travel to every worker."""

    name: str
    image: str
    mask: str


class Folder(Dataset[Sample]):
    """Semantic masks beside pictures, in any layout.

    Paths are relative to `root`; `lists` and `classes` may also be relative to the working directory. A pair shares
    its path below the two folders, less extension and `image_suffix` or `mask_suffix`; that path is its name.

    The splits are told apart in one of three ways: by "{split}" in `images` and `masks`, or in `csv`; by `lists`; or at
    random by `test_size` and `seed`.

    Args:
        split: "train", "val", "test" or "all"; "test" is "val" where nothing tells them apart.
        root: the data set's folder; see `find_root`.
        classes: the class description above, as a mapping or as a YAML file.
        images: a folder, of which all pictures at any depth are taken, or a glob such as "photos/**/*.jpg".
        masks: the same for the masks; may be the same folder if a suffix or a glob tells them apart.
        image_suffix: what the stem of every picture ends with, e.g. "_leftImg8bit".
        mask_suffix: what the stem of every mask ends with, e.g. "_mask".
        csv: a file with the columns `images` and `masks`, instead of the two folders; its paths are absolute or
            relative to the file's own folder or to `root`.
        lists: for each split a text file with one name a line, which selects and orders the pairs.
        test_size: share of the pairs that a random division holds out for "val".
        seed: of the random division.

    Raises:
        DataError: a folder, file or column is missing, the pairs do not come out even, or nothing is left.
    """

    offers = frozenset({"semantic"})

    def __init__(
        self,
        split: str = "train",
        *,
        root: str | Path,
        classes: dict[str, Any] | str | Path,
        images: str = "images",
        masks: str = "masks",
        image_suffix: str = "",
        mask_suffix: str = "",
        csv: str | Path | None = None,
        lists: dict[str, str] | None = None,
        test_size: float = 0.2,
        seed: int = 0,
    ) -> None:
        folder = find_root(root)
        self.classes, self.label_map = read_classes(classes if isinstance(classes, dict) else locate(classes, folder))
        named = "{split}" in f"{images}{csv}"
        if csv is not None:
            pairs = pairs_from_csv(locate(str(csv).format(split=split), folder), folder)
        else:
            images, masks = images.format(split=split), masks.format(split=split)
            pairs = pairs_from_folders(
                folder, images=images, masks=masks, image_suffix=image_suffix, mask_suffix=mask_suffix
            )
        if lists and split in lists:
            pairs = select(pairs, locate(lists[split], folder))
        elif lists and split != "all":
            raise DataError(f"`lists` has a file for {', '.join(lists)}, but none for the split {split!r}; add one.")
        elif not named and split != "all":
            pairs = divide(pairs, test_size, seed)[split != "train"]
        self.pairs = pairs

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Sample:
        pair = self.pairs[index]
        image = read_image(pair.image)
        labels = self.label_map(read_mask(pair.mask), pair.mask)
        if labels.shape != image.shape[:2]:
            raise DataError(_sizes_differ(pair, image.shape[:2], labels.shape))
        return semantic_sample(image, labels, pair.name, ignore_index=self.classes.ignore_index)


def semantic_sample(
    image: NDArray[np.uint8],
    labels: NDArray[Any],
    name: str,
    *,
    ignore_index: int,
    meta: dict[str, str] | None = None,
) -> Sample:
    """A picture and its (H, W) class map as a `Sample` with one segment for each class that occurs."""
    segments, present = from_semantic(labels, ignore_index)
    return Sample(image, segments, present, np.zeros(len(present), np.bool_), name, meta or {})


def find_root(root: str | Path) -> Path:
    """The folder of a data set: absolute as it is, else below the data folder, else below the working directory.

    The data folder holds one folder a data set; the environment variable TRIMASK_DATA names it (default: ./data).
    """
    data = Path(os.environ.get("TRIMASK_DATA") or "data")
    candidates = [data / root] if Path(root).is_absolute() else [data / root, Path(root)]
    for candidate in candidates:
        if candidate.is_dir():
            return candidate.resolve()
    looked = " or ".join(str(candidate.absolute()) for candidate in candidates)
    raise DataError(
        f"The data folder {looked} does not exist. Set DATA=<folder that holds {Path(root).name}> with make (or "
        f"TRIMASK_DATA), or name the data set itself with --data.dataset.root=<folder>."
    )


def locate(path: str | Path, folder: Path) -> Path:
    """An existing file given absolutely, or relative to `folder` or to the working directory."""
    for candidate in (folder / path, Path(path)):
        if candidate.is_file():
            return candidate
    raise DataError(
        f"There is no file {folder / path}" + ("." if Path(path).is_absolute() else f" and no {path} here.")
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


def pairs_from_folders(
    folder: Path, *, images: str, masks: str, image_suffix: str = "", mask_suffix: str = ""
) -> list[Pair]:
    """Every picture below `images` with the mask of the same relative path below `masks`, ordered by name."""
    mask_files = _find(folder, masks, mask_suffix)
    taken = set(mask_files.values()) if mask_suffix else set()
    image_files = {name: file for name, file in _find(folder, images, image_suffix).items() if file not in taken}
    return match(image_files, mask_files, where=f"{folder} ({images}, {masks})")


def _find(folder: Path, where: str, suffix: str) -> dict[str, Path]:
    """Name -> file of the pictures in a folder or of a glob; the name is relative to the fixed part of the glob."""
    parts = PurePath(where).parts
    base = folder.joinpath(*takewhile(lambda part: not set(part) & set("*?["), parts))
    pattern = str((folder / where).relative_to(base)) if base != folder / where else "**/*"
    if not base.is_dir():
        raise DataError(f"There is no folder {base}.")
    found: dict[str, Path] = {}
    for file in sorted(base.glob(pattern)):
        if file.suffix.lower() not in PICTURE_SUFFIXES or not file.stem.endswith(suffix):
            continue
        if file.name.startswith("."):  # macOS leaves a ._1.jpg beside 1.jpg
            continue
        name = file.relative_to(base).with_suffix("").as_posix().removesuffix(suffix)
        if name in found:
            raise DataError(f"{found[name]} and {file} have the same name {name!r}; choose with a glob such as *.png.")
        found[name] = file
    if not found:
        ending = f" whose stem ends with {suffix!r}" if suffix else ""
        raise DataError(f"There is no picture{ending} in {base} (pattern {pattern}).")
    return found


def match(images: Mapping[str, Path], masks: Mapping[str, Path], *, where: str) -> list[Pair]:
    """Pairs in the order of `images`; a picture without a mask or the reverse is a DataError."""
    if images.keys() != masks.keys():
        no_mask = _first([name for name in images if name not in masks])
        no_image = _first([name for name in masks if name not in images])
        raise DataError(
            f"{where}: {len(images)} pictures and {len(masks)} masks do not pair up by name; pictures without a mask: "
            f"{no_mask}; masks without a picture: {no_image}."
        )
    return [Pair(name, str(file), str(masks[name])) for name, file in images.items()]


def _repeated(names: Sequence[str]) -> list[str]:
    return [name for name, count in Counter(names).items() if count > 1]


def _first(names: Sequence[str]) -> str:
    return f"{len(names)} ({', '.join(names[:5])}{', ...' if len(names) > 5 else ''})" if names else "none"


def read_csv(path: Path) -> list[tuple[str, str]]:
    """The (image, mask) paths of a CSV with the columns `images` and `masks`, in any order of columns."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        if not {"images", "masks"} <= set(reader.fieldnames or ()):
            raise DataError(f"{path}: the first line must name the columns images and masks; got {reader.fieldnames}.")
        rows = [(row["images"], row["masks"]) for row in reader]
    for line, row in enumerate(rows, start=2):
        if not all(row):
            raise DataError(f"{path}: row {line} lacks its image or its mask: {row}.")
    if not rows:
        raise DataError(f"{path}: the file lists no pictures.")
    return rows


def pairs_from_csv(path: Path, folder: Path) -> list[Pair]:
    """The pairs of a CSV in its own order; a sample is named by its image's path without extension."""

    def resolve(entry: str) -> str:
        for base in (path.parent, folder):
            if (base / entry).is_file():
                return str(base / entry)
        raise DataError(f"{path} lists {entry}, which is neither below {path.parent} nor below {folder}.")

    def name(entry: str) -> str:
        return "/".join(part for part in PurePath(entry).with_suffix("").parts if part not in ("..", os.sep))

    pairs = [Pair(name(image), resolve(image), resolve(mask)) for image, mask in read_csv(path)]
    if repeated := _repeated([pair.name for pair in pairs]):
        raise DataError(f"{path} lists pictures twice: {_first(repeated)}.")
    return pairs


def select(pairs: Iterable[Pair], split: Path) -> list[Pair]:
    """The pairs that a text file names, one a line (an extension is allowed), in its order."""
    by_name = {pair.name: pair for pair in pairs}
    names = [line.strip() for line in split.read_text(encoding="utf-8").splitlines() if line.strip()]
    names = [str(PurePath(n).with_suffix("")) if PurePath(n).suffix.lower() in PICTURE_SUFFIXES else n for n in names]
    if not names:
        raise DataError(f"The split {split} is empty; write one name a line, such as {next(iter(by_name), '1')}.")
    if unknown := [name for name in names if name not in by_name]:
        raise DataError(f"The split {split} names what is not there: {_first(unknown)}.")
    if repeated := _repeated(names):
        raise DataError(f"The split {split} lists names twice: {_first(repeated)}.")
    return [by_name[name] for name in names]


def _sizes_differ(pair: Pair, image: tuple[int, ...], mask: tuple[int, ...]) -> str:
    if mask == image[::-1]:
        advice = "One of the two seems to be turned by its EXIF orientation; store both upright."
    else:
        advice = "Make masks at the size of their pictures (resize with nearest)."
    return f"{pair.mask} is {mask[1]}x{mask[0]}, but its picture {pair.image} is {image[1]}x{image[0]}. {advice}"


def divide(pairs: list[Pair], test_size: float, seed: int) -> tuple[list[Pair], list[Pair]]:
    """(train, held out): scikit-learn's `train_test_split`, which many tutorials use."""
    from sklearn.model_selection import train_test_split  # takes a second to import, and only this needs it

    try:
        train, val = train_test_split(pairs, test_size=test_size, random_state=seed)
    except ValueError as error:
        raise DataError(f"{len(pairs)} picture(s) cannot be split with test_size={test_size}: {error}") from error
    return train, val
