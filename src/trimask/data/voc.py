"""Pascal VOC segmentation: 20 classes of objects and background, with a second picture that tells the objects apart.

Source: Everingham et al., "The Pascal Visual Object Classes challenge: a retrospective" (IJCV 2015),
http://host.robots.ox.ac.uk/pascal/VOC/voc2012/; pictures from Flickr under its terms. 1,464 pictures to train and 1,449 to
validate in 2012. "trainaug" adds the Semantic Boundaries Dataset (Hariharan et al., ICCV 2011), 10,582 pictures, whose
class maps usually come as `SegmentationClassAug/` with the list `trainaug.txt`.

The same folders are written by LabelMe (`class_names.txt`) and by CVAT and Datumaro (`labelmap.txt`, masks as colors).
Masks may be palette or grey PNGs, whose values count, or RGB in the palette's colors; 255, or e0e0c0, is void. An object
has the class that the class map says for its pixels; where one of the two is void, nothing is labelled; object pixels
that the class map calls background are background; a class without an object number is a crowd. Most pictures of VOC
have no mask and are no part of this data set.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from trimask.data.decode import read_image, read_mask
from trimask.data.files import Pair, divide, find_root, listed, locate, pictures_in, read_lines, select, sizes_differ
from trimask.data.label_map import IGNORE, LabelMap
from trimask.data.objects import Truth, from_maps, object_numbers
from trimask.types import ClassSpec, DataError, Sample

CLASSES = (
    "background",
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)
VOID, VOID_COLOR = 255, "e0e0c0"
VOID_NUMBER = 0xC0E0E0  # the void color as `object_numbers` reads it
_BACKGROUND = ("background", "_background_", "__background__")
_VOID_NAMES = ("ignored", "ignore", "__ignore__", "void")
_OFFERS = {"semantic": frozenset({"semantic"}), "panoptic": frozenset({"semantic", "instances", "panoptic"})}
_LISTS = Path("ImageSets") / "Segmentation"


class VOC(Dataset[Sample]):
    """Objects on a background; `truth: panoptic` also tells the objects apart, with the background as stuff.

    The splits are the lists of `ImageSets/Segmentation`; "test" is "val" where there is no such list. Where there is
    neither train.txt nor val.txt, as in exports of annotation tools, all pictures with a mask are divided at random.

    Args:
        split: "train", "val", "test" or "all" (every picture with a mask).
        root: the folder of a year (with `JPEGImages/` and `SegmentationClass/`), or one that holds it as
            `VOCdevkit/VOC2012/` or `VOC2012/`; see `files.find_root`.
        year: which of several years below `root`.
        truth: "semantic" (class maps alone) or "panoptic" (all three questions, from `SegmentationObject/` too).
        train_list: the list that "train" stands for: "train", "trainval", or "trainaug" with the masks of
            `SegmentationClassAug/`, which has no objects.
        classes: a text of class names, one a line (LabelMe's class_names.txt), or a CVAT `labelmap.txt`; by default the one
            of the two that is in the folder, else the 21 classes of VOC.
        test_size: share of the pictures that a random division holds out for "val".
        seed: of the random division.

    Raises:
        DataError: a folder, list or file is missing, a list names what has no mask, or the class file is damaged.
    """

    def __init__(
        self,
        split: str = "train",
        *,
        root: str | Path = "voc",
        year: int = 2012,
        truth: str = "semantic",
        train_list: str = "train",
        classes: str | Path | None = None,
        test_size: float = 0.2,
        seed: int = 0,
    ) -> None:
        if truth not in _OFFERS:
            raise DataError(f"`truth` of VOC is semantic or panoptic (which serves instances too); got {truth!r}.")
        folder = _year_folder(find_root(root), year)
        self.offers = _OFFERS[truth]
        self.classes, self.value_map, self.color_map = _classes(_class_file(folder, classes))
        is_aug = split == "train" and train_list == "trainaug"
        if is_aug and truth == "panoptic":
            raise DataError(
                "trainaug has no objects (SegmentationClassAug); use truth: semantic, or another train_list."
            )
        pairs = _pairs(folder, "SegmentationClassAug" if is_aug else "SegmentationClass")
        self.pairs = _part(pairs, folder / _LISTS, split, train_list, test_size, seed)
        self.objects = _objects(folder, self.pairs) if truth == "panoptic" else []

    @classmethod
    def found_in(cls, folder: Path) -> list[dict[str, Any]]:
        """The arguments that read exactly this folder, if it is that of a year or of an export."""
        if not _is_year(folder):
            return []
        has_objects = (folder / "SegmentationObject").is_dir()
        return [{"root": str(folder), "truth": "panoptic" if has_objects else "semantic"}]

    def __len__(self) -> int:
        return len(self.pairs)

    def files(self, index: int) -> tuple[str, ...]:
        return self.pairs[index].image, self.pairs[index].mask, *self.objects[index : index + 1]

    def __getitem__(self, index: int) -> Sample:
        pair = self.pairs[index]
        image, raw = read_image(pair.image), read_mask(pair.mask)
        if raw.shape[:2] != image.shape[:2]:
            raise DataError(sizes_differ(pair, image.shape[:2], raw.shape[:2]))
        label_map = self.color_map if raw.ndim == 3 else self.value_map
        if self.objects:
            truth = self._with_objects(label_map(raw, pair.mask), pair, self.objects[index])
        else:
            segments, present = label_map.segments(raw, pair.mask)
            truth = Truth(segments, present, np.zeros(len(present), np.bool_))
        return Sample(image, *truth, pair.name)

    def _with_objects(self, labels: NDArray[Any], pair: Pair, file: str) -> Truth:
        raw = read_mask(file)
        if raw.shape[:2] != labels.shape:
            raise DataError(sizes_differ(pair._replace(mask=file), labels.shape, raw.shape[:2]))
        numbers = object_numbers(raw)
        labels[numbers == (VOID_NUMBER if raw.ndim == 3 else VOID)] = self.classes.ignore_index
        return from_maps(labels, numbers, self.classes, file)


def palette(num_colors: int) -> NDArray[np.uint8]:
    """(num_colors, 3) the colors of VOC's palette: bit b of a channel's byte, from the highest down, is bit 3 b + channel of
    the index."""
    index = np.arange(num_colors)
    bits = [(index[:, None] >> (3 * b + np.arange(3)) & 1) << (7 - b) for b in range(8)]
    return np.sum(bits, axis=0).astype(np.uint8)


# --- classes ---


def _class_file(folder: Path, given: str | Path | None) -> Path | None:
    if given is not None:
        return locate(given, folder)
    found = [folder / name for name in ("class_names.txt", "labelmap.txt") if (folder / name).is_file()]
    return found[0] if found else None


def _classes(path: Path | None) -> tuple[ClassSpec, LabelMap, LabelMap]:
    """The classes, and what values and what colors mean."""
    if path is None:
        entries: list[tuple[str, tuple[int, ...] | None]] = [(name, None) for name in CLASSES]
    else:
        entries = [_entry(line, path) for line in read_lines(path) if not line.startswith("#")]
    known = [(name, color) for name, color in entries if name.lower() not in _VOID_NAMES]
    void = {VOID_COLOR} | {bytes(color).hex() for name, color in entries if name.lower() in _VOID_NAMES and color}
    names = [name for name, _ in known]
    colors = palette(len(names))
    for row, (_, color) in enumerate(known):
        colors[row] = color or colors[row]
    of_colors = {bytes(color).hex(): name for name, color in zip(names, colors, strict=True)}
    try:
        things = [label for label, name in enumerate(names) if name.lower() not in _BACKGROUND]
        classes = ClassSpec(names, things=things, colors=colors)
        return (
            classes,
            LabelMap(classes, values={**dict(enumerate(names)), VOID: IGNORE}),
            LabelMap(classes, colors={**dict.fromkeys(sorted(void), IGNORE), **of_colors}),
        )
    except ValueError as error:
        raise DataError(f"{path or 'VOC'}: {error}") from error


def _entry(line: str, path: Path) -> tuple[str, tuple[int, ...] | None]:
    """A line of class_names.txt (a name), or of labelmap.txt (name:red,green,blue:parts:actions)."""
    name, *rest = line.split(":")
    if not rest or not rest[0]:
        return name, None
    channels = rest[0].split(",")
    if len(channels) != 3 or not all(channel.strip().isdecimal() and int(channel) < 256 for channel in channels):
        raise DataError(f"{path}: {line!r} is no class; a line is a name, or name:red,green,blue::.")
    return name, tuple(int(channel) for channel in channels)


# --- files ---


def _is_year(folder: Path) -> bool:
    return (folder / "JPEGImages").is_dir() and (folder / "SegmentationClass").is_dir()


def _year_folder(root: Path, year: int) -> Path:
    for folder in (root, root / f"VOC{year}", root / "VOCdevkit" / f"VOC{year}"):
        if _is_year(folder):
            return folder
    raise DataError(
        f"{root} is no Pascal VOC: neither it nor VOC{year}/ nor VOCdevkit/VOC{year}/ inside has JPEGImages/ and "
        f"SegmentationClass/. Name the folder that has with --data.dataset.root, or another `year`."
    )


def _pairs(folder: Path, masks: str) -> list[Pair]:
    """Every mask with its picture."""
    mask_files, image_files = pictures_in(folder, masks), pictures_in(folder, "JPEGImages")
    if missing := [name for name in mask_files if name not in image_files]:
        raise DataError(f"{folder / masks} has masks whose pictures are not in JPEGImages: {listed(missing)}.")
    return [Pair(name, image_files[name], file) for name, file in mask_files.items()]


def _part(pairs: list[Pair], lists: Path, split: str, train_list: str, test_size: float, seed: int) -> list[Pair]:
    if split == "all":
        return pairs
    if train_list == "train" and not any((lists / f"{name}.txt").is_file() for name in ("train", "val")):
        return divide(pairs, test_size, seed)[split != "train"]
    name = train_list if split == "train" else split
    if split == "test" and not (lists / "test.txt").is_file():
        name = "val"
    return select(pairs, locate(f"{name}.txt", lists))


def _objects(folder: Path, pairs: list[Pair]) -> list[str]:
    """The object picture of every pair."""
    files = pictures_in(folder, "SegmentationObject")
    if missing := [pair.name for pair in pairs if pair.name not in files]:
        raise DataError(
            f"{folder / 'SegmentationObject'} lacks the pictures of objects of {listed(missing)}; use truth: semantic."
        )
    return [files[pair.name] for pair in pairs]
