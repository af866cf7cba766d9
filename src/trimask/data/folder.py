"""Any pictures and masks: two folders paired by name, or a CSV. The classes are described in a few lines of YAML.

    names: [background, road, person]        # in label order
    values: {0: background, 7: road, 24: person, 255: ignore}   # raw mask value -> class; default: 0, 1, 2, ...
    # or, for masks that are stored as colors
    colors: {"000000": background, "804080": road, "dc143c": person}
    things: [person]                         # the countable ones; default: none

Own work.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from torch.utils.data import Dataset

from trimask.data.decode import read_image, read_mask
from trimask.data.files import divide, find_root, locate, pairs_from_csv, pairs_from_folders, select, sizes_differ
from trimask.data.label_map import LabelMap
from trimask.types import ClassSpec, DataError, Sample


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

    def files(self, index: int) -> tuple[str, ...]:
        return self.pairs[index].image, self.pairs[index].mask

    def __getitem__(self, index: int) -> Sample:
        pair = self.pairs[index]
        image = read_image(pair.image)
        segments, labels = self.label_map.segments(read_mask(pair.mask), pair.mask)
        if segments.shape[1:] != image.shape[:2]:
            raise DataError(sizes_differ(pair, image.shape[:2], segments.shape[1:]))
        return Sample(image, segments, labels, np.zeros(len(labels), np.bool_), pair.name)


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
