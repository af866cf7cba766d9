"""Nuclei of the 2018 Data Science Bowl (`stage1_train`): microscope pictures, one PNG of {0, 255} for each nucleus.

Source: https://bbbc.broadinstitute.org/BBBC038 (Caicedo et al., Nature Methods 2019; CC0). One folder a picture, with
`images/X.png` (RGBA, of which alpha says nothing) and `masks/*.png`. The rules of the challenge forbid that nuclei overlap;
masks that do are an error here, because they are no panoptic truth. The test stages have their truth in a CSV and are not
read.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from trimask.data.decode import read_image, read_mask
from trimask.data.files import PICTURE_SUFFIXES, Pair, find_root, of_split, sizes_differ
from trimask.data.segments import segment_dtype
from trimask.types import ClassSpec, DataError, Sample, Size

PARTS = ("stage1_train", ".")
BACKGROUND, NUCLEUS = 0, 1


class Nuclei(Dataset[Sample]):
    """Every nucleus is a thing, all else is the stuff "background". Offers all three questions.

    Rows of a sample: the nuclei in the order of their files' names, then the background. A file without a white pixel is no
    nucleus.

    Args:
        split: "train", "val", "test" (which is "val") or "all".
        root: the folder that holds `stage1_train/`, or that folder itself; see `files.find_root`.
        lists: for each split a text file with one name a line, instead of the random division.
        test_size: share of the pictures that the random division holds out for "val".
        seed: of the random division.

    Raises:
        DataError: no picture is found, a folder lacks its picture or its masks, or nothing is left for the split.
    """

    offers = frozenset({"semantic", "instances", "panoptic"})

    def __init__(
        self,
        split: str = "train",
        *,
        root: str | Path = "dsb2018_nuclei",
        lists: dict[str, str] | None = None,
        test_size: float = 0.2,
        seed: int = 0,
    ) -> None:
        folder = find_root(root)
        self.classes = ClassSpec(["background", "nucleus"], things=[NUCLEUS])
        self.pairs = of_split(_pictures(folder), split, folder=folder, lists=lists, test_size=test_size, seed=seed)

    @classmethod
    def found_in(cls, folder: Path) -> list[dict[str, Any]]:
        """`stage1_train` or a folder of its kind: the first folder inside has `images` and `masks`."""
        try:
            for part in PARTS:
                if (folder / part).is_dir() and _is_picture(next((folder / part).iterdir(), folder)):
                    return [{"root": str(folder)}]
        except OSError:
            return []
        return []

    def __len__(self) -> int:
        return len(self.pairs)

    def files(self, index: int) -> tuple[str, ...]:
        pair = self.pairs[index]
        return pair.image, *_masks(pair)

    def __getitem__(self, index: int) -> Sample:
        pair = self.pairs[index]
        image = read_image(pair.image)
        segments, num_nuclei = _numbered(pair, (image.shape[0], image.shape[1]))
        labels = np.full(num_nuclei, NUCLEUS, np.int64)
        if not segments.all():
            segments[segments == 0] = num_nuclei + 1
            labels = np.append(labels, BACKGROUND)
        return Sample(image, segments[None], labels, np.zeros(len(labels), np.bool_), pair.name)


def _pictures(folder: Path) -> list[Pair]:
    """Name, picture and folder of masks of every picture, by name."""
    for part in PARTS:
        found = [entry for entry in sorted((folder / part).glob("*")) if _is_picture(entry)]
        if found:
            return [Pair(entry.name, _only_picture(entry / "images"), str(entry / "masks")) for entry in found]
    raise DataError(f"{folder} holds no folder with images/ and masks/ in it, and neither does its {PARTS[0]}/.")


def _is_picture(entry: Path) -> bool:
    return (entry / "images").is_dir() and (entry / "masks").is_dir()


def _only_picture(folder: Path) -> str:
    files = _pictures_in(str(folder))
    if len(files) != 1:
        raise DataError(
            f"{folder} holds {len(files)} pictures; the picture to the masks beside it must be the only one."
        )
    return files[0]


def _pictures_in(folder: str) -> list[str]:
    with os.scandir(folder) as entries:
        names = [e.name for e in entries if os.path.splitext(e.name)[1].lower() in PICTURE_SUFFIXES]
    return [os.path.join(folder, name) for name in sorted(names) if not name.startswith(".")]


def _masks(pair: Pair) -> list[str]:
    try:
        return _pictures_in(pair.mask)
    except OSError as error:
        raise DataError(f"{pair.mask}: cannot be read: {error.strerror}.") from error


def _numbered(pair: Pair, size: Size) -> tuple[NDArray[Any], int]:
    """The masks of a picture as (H, W) ids 1..N, and N.

    Raises:
        DataError: a mask is of another size, holds values other than 0 and 255 (or 1), or overlaps an earlier one.
    """
    files = _masks(pair)
    ids = np.zeros(size, segment_dtype(len(files) + 1))
    number = 0
    for file in files:
        mask = read_mask(file)
        if mask.ndim != 2 or mask.dtype != np.uint8:
            raise DataError(
                f"{file}: a mask of one nucleus has one channel of 8 bits; this one has {mask.shape[2:]} {mask.dtype}."
            )
        if mask.shape != size:
            raise DataError(sizes_differ(pair._replace(mask=file), size, mask.shape))
        left, top, width, height = cv2.boundingRect(mask)
        if not width:
            continue
        part = np.s_[top : top + height, left : left + width]
        inside = _inside(mask[part], file)
        if overlap := np.count_nonzero(ids[part][inside]):
            other = int(ids[part][inside].max())
            raise DataError(
                f"{file} overlaps nucleus {other} of the folder in {overlap} pixels; masks must be disjoint."
            )
        number += 1
        ids[part][inside] = number
    return ids, number


def _inside(mask: NDArray[Any], file: str) -> NDArray[np.bool_]:
    highest = mask.max()
    inside = mask == highest
    if highest not in (1, 255) or np.count_nonzero(mask) != np.count_nonzero(inside):
        found = np.unique(mask).tolist()
        raise DataError(f"{file}: a mask of one nucleus holds 0 and 255, or 0 and 1; this one holds {found[:9]}.")
    return inside
