"""OCHuman: people who hide each other, in the data set's own JSON.

Source: Zhang et al., Pose2Seg, CVPR 2019; https://github.com/liruilong940607/OCHumanApi (MIT; the pictures for research
only). `ochuman.json` lists pictures, each with its persons; `segms` of a person has `outer` polygons and `inner` ones, which
are holes, drawn here as pycocotools draws polygons. The files `ochuman_coco_format_*.json` of the same release are read by
`coco.CocoInstances`.

What is peculiar: sizes inside `segms` are text, and many persons have a box and no outline (`segms` is null). Such a box is a
crowd here: somebody is in it, and which pixels they cover is not known. There is no division into training and validation.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from trimask.data import rle
from trimask.data.decode import read_image
from trimask.data.files import Pair, find_root, inside, listed, of_split
from trimask.data.json_stream import elements, integer, stamp_of, values_at
from trimask.data.overlaps import Object, arrange
from trimask.types import ClassSpec, DataError, Sample, Size

FILES = ("ochuman.json", "annotations/ochuman.json")
PERSON = 0


class OCHuman(Dataset[Sample]):
    """Persons one by one, overlaps kept. Offers instances alone, since other people in the pictures are not outlined.

    Rows of a sample: boxes without an outline as crowds, then the persons in the file's order.

    Args:
        split: "train", "val", "test" (which is "val") or "all".
        root: the folder with `ochuman.json` or `annotations/ochuman.json`; see `files.find_root`.
        images: the folder of the pictures.
        lists: for each split a text file with one name a line, instead of the random division.
        test_size: share of the pictures that the random division holds out for "val".
        seed: of the random division.

    Raises:
        DataError: a file or folder is missing or damaged, or nothing is left for the split.
    """

    offers = frozenset({"instances"})

    def __init__(
        self,
        split: str = "train",
        *,
        root: str | Path = "ochuman",
        images: str = "images",
        lists: dict[str, str] | None = None,
        test_size: float = 0.2,
        seed: int = 0,
    ) -> None:
        folder = find_root(root)
        found = [folder / name for name in FILES if (folder / name).is_file()]
        if not found:
            raise DataError(f"{folder} holds neither {' nor '.join(FILES)}.")
        self.source, self.images = str(found[0]), str(folder / images)
        self.classes = ClassSpec(["person"], things=[PERSON])
        self.stamp, pictures = stamp_of(self.source), _pictures(self.source)
        pairs = [Pair(name, str(row), self.source) for row, name in enumerate(pictures)]
        pairs = of_split(pairs, split, folder=folder, lists=lists, test_size=test_size, seed=seed)
        self.names = [pair.name for pair in pairs]
        self.spans = np.array([pictures[name] for name in self.names], np.int64)

    @classmethod
    def found_in(cls, folder: Path) -> list[dict[str, Any]]:
        """The data set's own JSON, by its name."""
        return [{"root": str(folder)}] if any((folder / name).is_file() for name in FILES) else []

    def __len__(self) -> int:
        return len(self.names)

    def files(self, index: int) -> tuple[str, ...]:
        return (self._image_path(self._record(index)),)

    def __getitem__(self, index: int) -> Sample:
        record = self._record(index)
        path = self._image_path(record)
        image = read_image(path)
        size: Size = (image.shape[0], image.shape[1])
        where = f"{self.source}: picture {self.names[index]}"
        if _size(record) != size:
            raise DataError(
                f"{path} is {size[1]}x{size[0]}, but {where} says {record.get('width')}x{record.get('height')}."
            )
        persons = record.get("annotations")
        if not isinstance(persons, list) or not all(isinstance(person, dict) for person in persons):
            raise DataError(f"{where} has no list `annotations`.")
        objects = [_person(person, size, f"{where}, person {row}") for row, person in enumerate(persons)]
        truth = arrange(sorted(objects, key=lambda one: not one.is_crowd), size)
        return Sample(image, *truth, name=self.names[index], meta={"image_id": str(record.get("image_id"))})

    def _record(self, index: int) -> dict[str, Any]:
        return values_at(self.source, [self.spans[index].tolist()], self.stamp)[0]

    def _image_path(self, record: dict[str, Any]) -> str:
        return str(inside(Path(self.images), record["file_name"], self.source))


def _pictures(source: str) -> dict[str, tuple[int, int]]:
    """Name -> where the record of the picture stands in the file, in the file's order."""
    pictures: dict[str, tuple[int, int]] = {}
    repeated = []
    for key, picture, is_element, *span in elements(source):
        if key != "images" or not is_element:
            continue
        name = picture.get("file_name") if isinstance(picture, dict) else None
        if not isinstance(name, str) or not name or "annotations" not in picture:
            raise DataError(f"{source}: at byte {span[0]} is no picture with a `file_name` and its own `annotations`.")
        stem = name.rpartition(".")[0] or name
        repeated += [stem] * (stem in pictures)
        pictures[stem] = span[0], span[1]
    if repeated or not pictures:
        raise DataError(
            f"{source}: pictures that are listed twice: {listed(repeated)}; pictures in all: {len(pictures)}."
        )
    return pictures


def _size(record: dict[str, Any]) -> tuple[int | None, int | None]:
    return integer(record.get("height")), integer(record.get("width"))


def _person(person: dict[str, Any], size: Size, where: str) -> Object:
    outline = person.get("segms")
    try:
        if outline is None:
            return Object(PERSON, True, _box(person["bbox"], size))
        if _size(outline) != size:
            raise ValueError(f"its outline is for {outline.get('width')}x{outline.get('height')} pixels")
        covered = rle.to_mask(rle.from_polygons(outline["outer"], size), size)
        hole = rle.to_mask(rle.from_polygons(outline["inner"], size), size)
        return Object(PERSON, False, rle.from_mask(covered & ~hole))
    except (KeyError, ValueError, TypeError, AttributeError, OverflowError) as error:
        raise DataError(f"{where} cannot be drawn: {error}.") from error


def _box(given: Any, size: Size) -> rle.Runs:
    """A box [x0, y0, x1, y1] in pixels."""
    if not np.isfinite(np.asarray(given, np.float64)).all():
        raise ValueError(f"its box is {given}")
    x0, y0, x1, y1 = np.clip(np.rint(np.asarray(given, np.float64)), 0, [*size[::-1]] * 2).astype(int)
    mask: NDArray[np.bool_] = np.zeros(size, np.bool_)
    mask[y0:y1, x0:x1] = True
    return rle.from_mask(mask)
