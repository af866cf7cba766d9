"""Cityscapes: 5,000 street scenes of 50 cities in 2048x1024, 19 classes, of which 8 are countable.

Source: Cordts et al., "The Cityscapes dataset for semantic urban scene understanding" (CVPR 2016),
https://www.cityscapes-dataset.com; non-commercial use, after registration. Classes, ids and colors are those of
https://github.com/mcordts/cityscapesScripts (helpers/labels.py). 2,975 pictures to train, 500 to validate; the truth of the
1,525 test pictures is withheld, and `gtFine/test` holds dummies.

| file of one picture                            | what its values are                                     | truth     |
|------------------------------------------------|---------------------------------------------------------|-----------|
| `X_gtFine_labelIds.png`                        | 34 label ids, of which 19 are evaluated                 | semantic  |
| `X_gtFine_labelTrainIds.png` (made by a script)| 0..18 in label order, 255 = void                        | semantic  |
| `X_gtFine_instanceIds.png`                     | label id x 1000 + number, or below 1000 the label id    | panoptic  |
| `cityscapes_panoptic_S[_trainId]/X_gtFine_panoptic.png` | the same numbers in three bytes, void = 0      | panoptic  |

What is peculiar: number 0 counts, 26000 is the first car; a plain 26 is a group of cars that nobody counted, a crowd. The
panoptic PNGs are made from the instance ids and keep their numbers, so they need no look into the JSON beside them.
Trailers, caravans and the 13 other label ids that are not evaluated are unlabelled.
"""

from __future__ import annotations

from pathlib import Path, PurePath
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from trimask.data.decode import read_image, read_mask
from trimask.data.files import Pair, find_root, listed, match, pictures_in, sizes_differ
from trimask.data.label_map import IGNORE, LabelMap
from trimask.data.objects import Truth, from_values, object_numbers
from trimask.data.segments import ValueIndex
from trimask.types import ClassSpec, DataError, Sample


class Label(NamedTuple):
    """A class as the label ids number it; the order below is that of the train ids."""

    id: int
    name: str
    color: tuple[int, int, int]
    is_thing: bool = False


LABELS = (
    Label(7, "road", (128, 64, 128)),
    Label(8, "sidewalk", (244, 35, 232)),
    Label(11, "building", (70, 70, 70)),
    Label(12, "wall", (102, 102, 156)),
    Label(13, "fence", (190, 153, 153)),
    Label(17, "pole", (153, 153, 153)),
    Label(19, "traffic light", (250, 170, 30)),
    Label(20, "traffic sign", (220, 220, 0)),
    Label(21, "vegetation", (107, 142, 35)),
    Label(22, "terrain", (152, 251, 152)),
    Label(23, "sky", (70, 130, 180)),
    Label(24, "person", (220, 20, 60), is_thing=True),
    Label(25, "rider", (255, 0, 0), is_thing=True),
    Label(26, "car", (0, 0, 142), is_thing=True),
    Label(27, "truck", (0, 0, 70), is_thing=True),
    Label(28, "bus", (0, 60, 100), is_thing=True),
    Label(31, "train", (0, 80, 100), is_thing=True),
    Label(32, "motorcycle", (0, 0, 230), is_thing=True),
    Label(33, "bicycle", (119, 11, 32), is_thing=True),
)
NUM_IDS = 34
DIVISOR = 1000
IMAGE_SUFFIX = "_leftImg8bit"
_OFFERS = {"semantic": frozenset({"semantic"}), "panoptic": frozenset({"semantic", "instances", "panoptic"})}


class Cityscapes(Dataset[Sample]):
    """Street scenes; `meta["city"]` says where.

    Args:
        split: "train", "val" or "test"; "test" is "val", because the truth of the test pictures is withheld.
        root: the folder with `leftImg8bit/` and `gtFine/`; see `files.find_root`.
        truth: "semantic" (label ids, or train ids where there are no others) or "panoptic" (all three questions, from
            instance ids, or from panoptic PNGs where there are no others).
        annotations: "gtFine" or "gtCoarse".
        folders: the folders of `leftImg8bit/` that a split stands for, where it is not the one of its name, e.g.
            {train: [train, val]} for the test server or {train: [train_extra]} with gtCoarse.

    Raises:
        DataError: a folder is missing, pictures and masks do not pair up, or there are no masks of this kind.
    """

    def __init__(
        self,
        split: str = "train",
        *,
        root: str | Path = "cityscapes",
        truth: str = "semantic",
        annotations: str = "gtFine",
        folders: dict[str, list[str]] | None = None,
    ) -> None:
        if truth not in _OFFERS:
            raise DataError(f"`truth` of Cityscapes is semantic or panoptic (for instances too); got {truth!r}.")
        chosen = {"train": ["train"], "val": ["val"], "test": ["val"]} | (folders or {})
        if split not in chosen:
            raise DataError(f"Cityscapes has the splits {', '.join(chosen)}; got {split!r}. Name others in `folders`.")
        folder = find_root(root)
        self.offers, self.truth = _OFFERS[truth], truth
        self.classes = ClassSpec(
            [label.name for label in LABELS],
            things=[train_id for train_id, label in enumerate(LABELS) if label.is_thing],
            colors=[list(label.color) for label in LABELS],
        )
        names = {label.id: label.name for label in LABELS}
        self.id_map = LabelMap(self.classes, values={key: names.get(key, IGNORE) for key in range(NUM_IDS)})
        train_ids = dict(enumerate(self.classes.names))
        # Datumaro writes void as the number after the last class, the official script as 255.
        self.train_id_map = LabelMap(self.classes, values={**train_ids, len(LABELS): IGNORE, 255: IGNORE})
        self.pairs = [pair for part in chosen[split] for pair in _pairs(folder, part, annotations, truth)]

    @classmethod
    def found_in(cls, folder: Path) -> list[dict[str, Any]]:
        """The arguments that read exactly this folder, with the most that the masks of its first city answer."""
        parts = [folder / top / part for top in ("leftImg8bit", "gtFine") for part in ("train", "val")]
        if not all(part.is_dir() for part in parts):
            return []
        kinds = [
            kind
            for kind in ("panoptic", "semantic")
            if all(_masks(folder, s, "gtFine", kind) for s in ("train", "val"))
        ]
        return [{"root": str(folder), "truth": kind} for kind in kinds[:1]]

    def __len__(self) -> int:
        return len(self.pairs)

    def files(self, index: int) -> tuple[str, ...]:
        return self.pairs[index].image, self.pairs[index].mask

    def __getitem__(self, index: int) -> Sample:
        pair = self.pairs[index]
        image, raw = read_image(pair.image), read_mask(pair.mask)
        if raw.shape[:2] != image.shape[:2]:
            raise DataError(sizes_differ(pair, image.shape[:2], raw.shape[:2]))
        if self.truth == "panoptic":
            truth = self._panoptic(object_numbers(raw), pair.mask)
        else:
            label_map = self.train_id_map if PurePath(pair.mask).stem.endswith("TrainIds") else self.id_map
            segments, labels = label_map.segments(raw, pair.mask)
            truth = Truth(segments, labels, np.zeros(len(labels), np.bool_))
        return Sample(image, *truth, pair.name, {"city": pair.name.partition("_")[0]})

    def _panoptic(self, raw: NDArray[Any], path: str) -> Truth:
        """Instance ids (H, W) -> segments."""
        index = ValueIndex(raw)
        values = index.values.astype(np.int64)
        is_object = values >= DIVISOR
        ids = np.where(is_object, values // DIVISOR, values)
        if not np.isin(ids, self.id_map.keys).all():
            self.id_map(
                np.where(raw >= DIVISOR, raw // DIVISOR, raw), path
            )  # says which id, and how many pixels have it
        return from_values(index, self.id_map(ids[None], path)[0], np.where(is_object, values, 0), self.classes)


def _pairs(folder: Path, part: str, annotations: str, truth: str) -> list[Pair]:
    """The pairs of one folder of leftImg8bit, named as the benchmark names its pictures: city_sequence_frame."""
    where = _masks(folder, part, annotations, truth)
    if where is None:
        wanted = ", ".join(f"{place}/*{suffix}.png" for place, suffix in _places(part, annotations, truth))
        raise DataError(f"There are no masks for truth: {truth} in {folder}; looked for {wanted}.")
    images = _by_id(pictures_in(folder, f"leftImg8bit/{part}", IMAGE_SUFFIX))
    masks = _by_id(pictures_in(folder, *where))
    return match(images, masks, where=f"{folder} (leftImg8bit/{part}, {where[0]})")


def _places(part: str, annotations: str, truth: str) -> list[tuple[str, str]]:
    """The folders and suffixes of the masks that have a truth, the original ones first."""
    own = f"{annotations}/{part}"
    if truth == "semantic":
        return [(own, f"_{annotations}_labelIds"), (own, f"_{annotations}_labelTrainIds")]
    made = [f"{annotations}/cityscapes_panoptic_{part}{ids}" for ids in ("", "_trainId")]
    return [(own, f"_{annotations}_instanceIds"), *((place, f"_{annotations}_panoptic") for place in made)]


def _masks(folder: Path, part: str, annotations: str, truth: str) -> tuple[str, str] | None:
    """Where the masks of a truth are: the first place that has any."""
    for place, suffix in _places(part, annotations, truth):
        if next((folder / place).glob(f"**/*{suffix}.png"), None):
            return place, suffix
    return None


def _by_id(files: dict[str, str]) -> dict[str, str]:
    """The same by file name alone: city folders hold the pictures, one folder the panoptic PNGs."""
    by_id = {PurePath(name).name: file for name, file in files.items()}
    if len(by_id) < len(files):
        twice = [name for name, file in files.items() if by_id[PurePath(name).name] != file]
        raise DataError(f"Pictures of the same name lie in several folders: {listed(twice)}.")
    return by_id
