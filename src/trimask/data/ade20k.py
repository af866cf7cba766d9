"""ADE20K, the 150 classes of the scene parsing benchmark: 20,210 pictures to train, 2,000 to validate, of any scene.

Source: Zhou et al., "Scene parsing through ADE20K dataset" (CVPR 2017), http://sceneparsing.csail.mit.edu; BSD-3 for the
annotations, research and education for the pictures. Class order and the first name of each class are those of
objectInfo150.txt, colors those of the benchmark's color150 (road and skyscraper share one). Which 100 classes are things,
and how their numbers 1..100 in the instance pictures map to the 150, is the Places Challenge of 2017's, as
https://github.com/facebookresearch/Mask2Former lists it (datasets/ade20k_instance_catid_mapping.txt).

| folder of ADEChallengeData2016              | content                                                      | truth     |
|---------------------------------------------|--------------------------------------------------------------|-----------|
| `annotations/{training,validation}`         | values 1..150, 0 = anything else, which is unlabelled here   | semantic  |
| `annotations_instance/{training,validation}`| R = thing 1..100, G = object, from 1                         | instances |
| both                                        | stuff of the first below objects of the second               | panoptic  |
| `ade20k_panoptic_{train,val}` and `.json`   | the same, prepared by Mask2Former's script                   | panoptic  |

What is peculiar: the two annotations overlap and do not agree everywhere. Panoptic truth is therefore not the semantic truth
with objects told apart: a thing that only `annotations` knows is unlabelled in it, as in Mask2Former's preparation. Compare
mIoU on `truth: semantic`. The full releases (index files of 2016, JSON of 2020 and 2021) are not read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from trimask.data.coco import CocoPanoptic
from trimask.data.decode import read_image, read_mask
from trimask.data.files import Pair, find_root, match, pictures_in, read_lines, sizes_differ
from trimask.data.label_map import IGNORE, LabelMap
from trimask.data.objects import Truth, from_values
from trimask.data.segments import ValueIndex
from trimask.types import ClassSpec, DataError, Sample

# Every class in label order with its color; * marks the things.
_TABLE = """
wall 787878, building b47878, sky 06e6e6, floor 503232, tree 04c803, ceiling 787850, road 8c8c8c, *bed cc05ff,
*windowpane e6e6e6, grass 04fa07, *cabinet e005ff, sidewalk ebff07, *person 96053d, earth 787846, *door 08ff33,
*table ff0652, mountain 8fff8c, plant ccff04, *curtain ff3307, *chair cc4603, *car 0066c8, water 3de6fa,
*painting ff0633, *sofa 0b66ff, *shelf ff0747, house ff09e0, sea 0907e6, *mirror dcdcdc, rug ff095c, field 7009ff,
*armchair 08ffd6, *seat 07ffe0, *fence ffb806, *desk 0aff47, rock ff290a, *wardrobe 07ffff, *lamp e0ff08,
*bathtub 6608ff, *railing ff3d06, *cushion ffc207, base ff7a08, *box 00ff14, *column ff0829, *signboard ff0599,
*chest of drawers 0633ff, *counter eb0cff, sand a09614, *sink 00a3ff, skyscraper 8c8c8c, *fireplace fa0a0f,
*refrigerator 14ff00, grandstand 1fff00, path ff1f00, *stairs ffe000, runway 99ff00, *case 0000ff,
*pool table ff4700, *pillow 00ebff, *screen door 00adff, stairway 1f00ff, river 0bc8c8, bridge ff5200,
*bookcase 00fff5, blind 003dff, *coffee table 00ff70, *toilet 00ff85, *flower ff0000, *book ffa300, hill ff6600,
*bench c2ff00, *countertop 008fff, *stove 33ff00, *palm 0052ff, *kitchen island 00ff29, *computer 00ffad,
*swivel chair 0a00ff, *boat adff00, bar 00ff99, *arcade machine ff5c00, hovel ff00ff, *bus ff00f5, *towel ff0066,
*light ffad00, *truck ff0014, tower ffb8b8, *chandelier 001fff, *awning 00ff3d, *streetlight 0047ff, *booth ff00cc,
*television 00ffc2, *airplane 00ff52, dirt track 000aff, *apparel 0070ff, *pole 3300ff, land 00c2ff,
*bannister 007aff, escalator 00ffa3, *ottoman ff9900, *bottle 00ff0a, buffet ff7000, poster 8fff00, stage 5200ff,
*van a3ff00, *ship ffeb00, *fountain 08b8aa, conveyer belt 8500ff, canopy 00ff5c, *washer b800ff,
*plaything ff001f, swimming pool 00b8ff, *stool 00d6ff, *barrel ff0070, *basket 5cff00, waterfall 00e0ff,
tent 70e0ff, *bag 46b8a0, *minibike a300ff, cradle 9900ff, *oven 47ff00, *ball ff00a3, *food ffcc00, *step ff008f,
tank 00ffeb, *trade name 85ff00, *microwave ff00eb, *pot f500ff, *animal ff007a, *bicycle fff500, lake 0abed4,
*dishwasher d6ff00, *screen 00ccff, blanket 1400ff, *sculpture ffff00, *hood 0099ff, *sconce 0029ff, *vase 00ffcc,
*traffic light 2900ff, *tray 29ff00, *ashcan ad00ff, *fan 00f5ff, pier 4700ff, crt screen 7a00ff, *plate 00ffb8,
*monitor 005cff, *bulletin board b8ff00, shower 0085ff, *radiator ffd600, *glass 19c2c2, *clock 66ff00,
*flag 5c00ff
"""
_ROWS = [entry.strip() for entry in _TABLE.split(",")]
CLASSES = tuple(entry.removeprefix("*").rpartition(" ")[0] for entry in _ROWS)
THINGS = tuple(name for name, entry in zip(CLASSES, _ROWS, strict=True) if entry.startswith("*"))
COLORS = tuple(tuple(bytes.fromhex(entry.rpartition(" ")[2])) for entry in _ROWS)
OFFERS = {
    "semantic": frozenset({"semantic"}),
    "instances": frozenset({"instances"}),
    "panoptic": frozenset({"semantic", "instances", "panoptic"}),
}
# split -> the folder below images/, the word in file names and prepared files
_PARTS = {"train": ("training", "train"), "val": ("validation", "val"), "test": ("validation", "val")}
_SEMANTIC, _INSTANCE = "annotations", "annotations_instance"


class ADE20K(Dataset[Sample]):
    """Scenes in 150 classes; `meta["scene"]` is the scene, where `sceneCategories.txt` lies beside the folders.

    Args:
        split: "train", "val" or "test", which is "val": the truth of the test pictures is withheld.
        root: the folder ADEChallengeData2016, or the one that holds it; see `files.find_root`. Pictures and masks lie in
            folders of their split, or all together with ADE_train or ADE_val in their names.
        truth: "semantic", "instances" (the 100 things alone) or "panoptic" (all three questions); see the table above.

    Raises:
        DataError: a folder is missing, pictures and masks do not pair up, or the prepared JSON has other classes.
    """

    def __init__(self, split: str = "train", *, root: str | Path = "ade20k", truth: str = "semantic") -> None:
        if truth not in OFFERS:
            raise DataError(f"`truth` is one of {', '.join(OFFERS)}; got {truth!r}.")
        if split not in _PARTS:
            raise DataError(f"ADE20K has the splits {', '.join(_PARTS)}; got {split!r}.")
        folder = _release(find_root(root))
        self.offers, self.truth = OFFERS[truth], truth
        things = [CLASSES.index(name) for name in THINGS]
        self.classes = ClassSpec(CLASSES, things=things, colors=[list(color) for color in COLORS])
        self.value_map = LabelMap(self.classes, values={0: IGNORE, **dict(enumerate(CLASSES, start=1))})
        self.thing_map = LabelMap(self.classes, values={0: IGNORE, **dict(enumerate(THINGS, start=1))})
        self.prepared = self._prepared(split, folder) if truth == "panoptic" and _is_prepared(folder) else None
        self.pairs: list[Pair] = []
        self.stuff: list[str] = []
        if self.prepared is None:
            self.pairs = _pairs(folder, split, _SEMANTIC if truth == "semantic" else _INSTANCE)
        if self.prepared is None and truth == "panoptic":
            self.stuff = [pair.mask for pair in _pairs(folder, split, _SEMANTIC)]
        self.scenes = _scenes(folder)

    def _prepared(self, split: str, folder: Path) -> CocoPanoptic:
        """The reader of the files that Mask2Former's script has made, which has this data set's labels as they are."""
        images, word = _PARTS[split]
        prepared = CocoPanoptic(
            word, root=folder, annotations="ade20k_panoptic_{split}.json", images=_folder(folder, "images", images)
        )
        same = all(label == key for key, label in prepared.label_of.items())
        if not same or len(prepared.classes) != len(CLASSES) or prepared.classes.things != self.classes.things:
            raise DataError(
                f"{folder}/ade20k_panoptic_{word}.json has other categories than the 150 of ADE20K with ids from 0; read it "
                f"with trimask.data.CocoPanoptic."
            )
        return prepared

    @classmethod
    def found_in(cls, folder: Path) -> list[dict[str, Any]]:
        """The arguments that read exactly this folder, with the most that its annotations answer. images/ and annotations/ are
        common names, so they hold training/ and validation/, or files that are called as the benchmark calls them.
        """
        images, semantic, instance = (_is_known(folder / kind) for kind in ("images", _SEMANTIC, _INSTANCE))
        if not images:
            return []
        if _is_prepared(folder) or (semantic and instance):
            return [{"root": str(folder), "truth": "panoptic"}]
        kinds = ["semantic"] * semantic or ["instances"] * instance
        return [{"root": str(folder), "truth": kind} for kind in kinds]

    def __len__(self) -> int:
        return len(self.pairs) if self.prepared is None else len(self.prepared)

    def files(self, index: int) -> tuple[str, ...]:
        if self.prepared is not None:
            return self.prepared.files(index)
        return self.pairs[index].image, self.pairs[index].mask, *self.stuff[index : index + 1]

    def __getitem__(self, index: int) -> Sample:
        if self.prepared is not None:
            sample = self.prepared[index]
            name, image, truth = sample.name, sample.image, Truth(sample.segments, sample.labels, sample.is_crowd)
        else:
            pair = self.pairs[index]
            name, image, truth = pair.name, read_image(pair.image), self._truth(index)
            if truth.segments.shape[1:] != image.shape[:2]:
                raise DataError(sizes_differ(pair, image.shape[:2], truth.segments.shape[1:]))
        scene = self.scenes.get(name)
        return Sample(image, *truth, name, {"scene": scene} if scene else {})

    def _truth(self, index: int) -> Truth:
        path = self.pairs[index].mask
        raw = read_mask(path)
        if self.truth == "semantic":
            segments, labels = self.value_map.segments(raw, path)
            return Truth(segments, labels, np.zeros(len(labels), np.bool_))
        if raw.ndim != 3:
            raise DataError(f"{path}: a picture of objects is RGB (R class, G object); this one holds single values.")
        objects = _as_numbers(raw)
        if self.truth == "instances":
            return self._objects(ValueIndex(objects), path)
        below = read_mask(self.stuff[index])
        if below.shape != objects.shape:
            pair = self.pairs[index]._replace(image=path, mask=self.stuff[index])
            raise DataError(sizes_differ(pair, objects.shape, below.shape))
        self.value_map(below, self.stuff[index])
        return self._objects(ValueIndex(objects | below.astype(np.int32) << 16), path)

    def _objects(self, index: ValueIndex, path: str) -> Truth:
        """Object, its thing and the class below it, as one number of three bytes from the lowest -> segments."""
        number, thing, below = (index.values >> shift & 0xFF for shift in (0, 8, 16))
        if not np.isin(thing, self.thing_map.keys).all():
            self.thing_map(index.raw >> 8 & 0xFF, path)  # says which number of a thing, and how many pixels have it
        pairs = np.unique(np.stack([number, thing], axis=1)[number > 0], axis=0)
        repeated = pairs[:-1][np.diff(pairs[:, 0]) == 0] if len(pairs) else pairs
        if len(repeated):
            raise DataError(f"{path}: object {repeated[0, 0]} (channel G) has pixels of two things (channel R).")
        ignore = self.classes.ignore_index
        stuff = self.value_map(below[None], path)[0]
        stuff = np.where(np.isin(stuff, sorted(self.classes.things)), ignore, stuff)
        labels = np.where(number > 0, self.thing_map(thing[None], path)[0], stuff)
        return from_values(index, labels, number, self.classes)


def _as_numbers(raw: NDArray[np.uint8]) -> NDArray[np.int32]:
    """(H, W, 3) an instance picture -> (H, W) thing << 8 | object."""
    return raw[..., 0].astype(np.int32) << 8 | raw[..., 1]


def _release(root: Path) -> Path:
    for folder in (root, root / "ADEChallengeData2016"):
        if (folder / "images").is_dir() and any((folder / kind).is_dir() for kind in (_SEMANTIC, _INSTANCE)):
            return folder
    raise DataError(
        f"{root} is no ADE20K: neither it nor ADEChallengeData2016/ inside has images/ with {_SEMANTIC}/ or {_INSTANCE}/. "
        f"Name the folder that has with --data.dataset.root."
    )


def _is_known(folder: Path) -> bool:
    divided = all((folder / part).is_dir() for part in ("training", "validation"))
    return divided or any(next(folder.glob(f"ADE_{word}_*"), None) for word in ("train", "val"))


def _is_prepared(folder: Path) -> bool:
    return all((folder / f"ade20k_panoptic_{word}.json").is_file() for word in ("train", "val"))


def _folder(folder: Path, kind: str, part: str) -> str:
    """The folder of a split, or the one of all where there are no such folders."""
    return f"{kind}/{part}" if (folder / kind / part).is_dir() else kind


def _pairs(folder: Path, split: str, masks: str) -> list[Pair]:
    part, word = _PARTS[split]
    found = []
    for kind in ("images", masks):
        where = _folder(folder, kind, part)
        files = pictures_in(folder, where)
        if where == kind:
            files = {name: file for name, file in files.items() if name.startswith(f"ADE_{word}_")}
        found.append(files)
    images, mask_files = found
    if not images:
        raise DataError(
            f"There are no pictures of the split {split!r} in {folder / 'images'}: no {part}/, no ADE_{word}_*."
        )
    return match(images, mask_files, where=f"{folder} (images, {masks}; {part})")


def _scenes(folder: Path) -> dict[str, str]:
    """Name -> scene, from lines such as "ADE_train_00000001 airport_terminal"; {} without the file."""
    path = folder / "sceneCategories.txt"
    lines = [line.split() for line in read_lines(path)] if path.is_file() else []
    return {line[0]: line[-1] for line in lines if len(line) == 2}
