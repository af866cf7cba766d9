"""BDD100K: drivable area, semantic, instance and panoptic segmentation of driving scenes, in every published form.

Source: F. Yu et al., BDD100K: A Diverse Driving Dataset for Heterogeneous Multitask Learning, CVPR 2020
(https://arxiv.org/abs/1805.04687) and its toolkit, https://github.com/bdd100k/bdd100k. The data may be used for education,
research and not-for-profit purposes.

Where the folder of the release has several forms of the same labels, the first of these counts that has the split; `form`
chooses another. The folder is `bdd100k/` of the archives, or the one around it.

| form          | drivable                                  | semantic                     | instances, panoptic           |
|---------------|-------------------------------------------|------------------------------|-------------------------------|
| masks         | labels/drivable/masks/{split}/X.png       | labels/sem_seg/masks/...     |                               |
| bitmasks      |                                           |                              | labels/ins_seg/bitmasks/...   |
| colormaps     | labels/drivable/colormaps/... (palette)   | labels/sem_seg/colormaps/... | no truth: numbers only        |
| rles          | labels/drivable/rles/drivable_{split}.json| .../sem_seg_{split}.json     | .../ins_seg_{split}.json      |
| polygons      | labels/drivable/polygons/...json          | .../sem_seg_{split}.json     | .../ins_seg_{split}.json      |
| ids_2018      | drivable_maps/labels/.../X_drivable_id.png| seg/labels/.../X_train_id.png|                               |
| colors_2018   | drivable_maps/color_labels/...            |                              |                               |
| polygons_2018 | labels/bdd100k_labels_images_{split}.json |                              |                               |

(pan_seg for ins_seg.) What differs between them: the masks of 2020 count 0 direct, 1 alternative, 2 background, those of
2018 0 background, 1 direct, 2 alternative; a few of the color maps of 2018 are RGBA in other colors. Polygons are
drawn by `scalabel_render` as the toolkit draws them, all closed, which is what BDD100K's masks of 2020 were made with; those
of 2018 were drawn with an outline and are up to a pixel wider. RLE and bitmasks never overlap.

Flags of objects follow the toolkit's evaluation. "crowd" makes a crowd. "ignored" (persons and vehicles of no class, which
are filed under the nearest one): for instances neither hit nor false alarm (bdd100k/eval/ins_seg.py; exported to COCO's
format, scalabel/label/to_coco.py, they are crowds), hence a crowd; for panoptic segmentation void whatever is predicted there
(bdd100k/eval/pan_seg.py), hence unlabelled. Pixels with the object number 0 are no object, as there.

Own work. Deviations: in panoptic truth a crowd stays a crowd of its class, where the toolkit makes it void.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from trimask.data.bdd100k_classes import (
    CATEGORIES,
    DRIVABLE,
    DRIVABLE_2018,
    DRIVABLE_COLORS,
    DRIVABLE_FORMS,
    FIRST_SEMANTIC_THING,
    FIRST_THING,
    IGNORED,
    INSTANCE_FORMS,
    OBJECTS,
    PANOPTIC_FORMS,
    RENAMED,
    SEMANTIC,
    SEMANTIC_FORMS,
)
from trimask.data.bdd100k_release import Form, find_part, find_tags, forms_in, release
from trimask.data.decode import read_image, read_mask
from trimask.data.files import find_root, sizes_differ
from trimask.data.label_map import IGNORE, LabelMap
from trimask.data.objects import Truth
from trimask.data.scalabel import UNLABELLED, Kind, flag, gather, truth
from trimask.data.segments import ValueIndex, bitmask_fields
from trimask.types import ClassSpec, DataError, Sample, Size


class BDD100K(Dataset[Sample], ABC):
    """What the four tasks have in common. The tags of a sample are weather, scene and timeofday of its frame.

    Args:
        split: "train" or "val" of the release, or "all" of both. BDD100K publishes no labels of its test pictures, so
            "test" is "val", unless labels of one's own lie where those of "test" would.
        root: the folder of the release or the one around it; see `files.find_root`. Default: bdd100k_drivable for the
            drivable area, bdd100k_10k for the other tasks.
        form: one of the forms at the top of this file.
        course: instead of the official splits, those of the course: `course_size` of all labelled pictures, chosen and
            ordered by `seed` and their names, of which 70 % are "train", 20 % "val" and 10 % "test"; with the default 2100,
            600 and 300. Of fewer pictures all are taken in the same proportions.
        course_size: how many pictures the course takes.
        seed: of the course's choice.
        partial: take the pictures that have a label and leave out all others, which else are an error: for who has a part
            of the pictures and the JSON of all.
        tags: where the tags stand: "auto" for the labels themselves where they are JSON, or else the detection labels of
            2020 or the labels of 2018 beside them; a JSON file relative to the release, with or without {split}; null for
            no tags. A file of 450 MB is read in 4 s with 10 MB of memory, once: see `scalabel_index`.

    Raises:
        DataError: folders or files are missing, pictures and labels do not pair up, or a file is not what it should be.
    """

    task: str
    usual_root: str
    forms: tuple[Form, ...]
    classes: ClassSpec
    offers: frozenset[str]
    background = UNLABELLED  # the label of what no label of a JSON file covers

    def __init__(
        self,
        split: str = "train",
        *,
        root: str | Path | None = None,
        form: str | None = None,
        course: bool = False,
        course_size: int = 3000,
        seed: int = 0,
        partial: bool = False,
        tags: str | None = "auto",
    ) -> None:
        if course_size < 10:
            raise DataError(f"`course_size` is a number of pictures from 10 on; got {course_size}.")
        folder = release(find_root(self.usual_root if root is None else root))
        size = course_size if course else 0
        part = find_part(
            self.task, self.forms, split, folder=folder, form=form, partial=partial, course_size=size, seed=seed
        )
        self.form, self.pairs, self.rows, self.indexes = part.form, part.pairs, part.rows, part.indexes
        self.tag_codes, self.tag_table = find_tags(folder, part, tags)

    @classmethod
    def found_in(cls, folder: Path) -> list[dict[str, Any]]:
        """The arguments that read the preferred form, if there is one of train and val with their pictures."""
        return [{"root": str(folder)}] if forms_in(folder, cls.forms) else []

    def __len__(self) -> int:
        return len(self.pairs)

    def files(self, index: int) -> tuple[str, ...]:
        pair = self.pairs[index]
        return (pair.image,) if self.form.is_json else (pair.image, pair.mask)

    def __getitem__(self, index: int) -> Sample:
        pair = self.pairs[index]
        image = read_image(pair.image)
        size = image.shape[0], image.shape[1]
        if self.form.is_json:
            found = self._drawn(self.indexes[pair.mask].frame(int(self.rows[index])), size, pair.mask)
        else:
            found = self._stored(read_mask(pair.mask), pair.mask)
        if found.segments.shape[1:] != size:
            raise DataError(sizes_differ(pair, size, found.segments.shape[1:]))
        tags = dict(self.tag_table[self.tag_codes[index]])
        return Sample(image, found.segments, found.labels, found.is_crowd, pair.name, tags)

    def _drawn(self, frame: Mapping[str, Any], size: Size, path: str) -> Truth:
        return truth(frame, size, self._kind, background=self.background, lines_too=True, where=path)

    @abstractmethod
    def _kind(self, label: Mapping[str, Any]) -> Kind | None:
        """What a label of a JSON file is; None for what the task leaves out. Raises ValueError for what nobody knows."""

    @abstractmethod
    def _stored(self, raw: NDArray[Any], path: str) -> Truth:
        """What a mask says."""


class BDD100KDrivable(BDD100K):
    """The area that one may drive on: direct (the own lane), alternative (other lanes), and all else as background.

    How it is scored: the code of 2018 means the IoU of all three classes (bdd_data/evaluate.py). The toolkit that followed
    means direct and alternative alone (bdd100k/eval/seg.py); its first versions count every pixel, and so does
    `SemanticConfusion(exclude=[background])`; its last ones skip pixels whose truth is background, so that what is predicted
    there is no error. Numbers of different rules cannot be compared.

    Args: as `BDD100K`.
    """

    task, usual_root, forms = "drivable", "bdd100k_drivable", DRIVABLE_FORMS
    offers = frozenset({"semantic"})
    classes = ClassSpec(list(DRIVABLE), colors=[list(bytes.fromhex(color)) for color in DRIVABLE.values()])
    background = 2
    values = LabelMap(classes, values=dict(enumerate(DRIVABLE)))
    values_2018 = LabelMap(classes, values=DRIVABLE_2018)
    colors = LabelMap(classes, colors=DRIVABLE_COLORS)

    def _kind(self, label: Mapping[str, Any]) -> Kind | None:
        name = label.get("category")
        if name == "drivable area":
            name = (label.get("attributes") or {}).get("areaType")
            if name not in ("direct", "alternative"):
                raise ValueError(f"a drivable area is of the areaType direct or alternative, not {name!r}")
        return Kind(self.classes.names.index(name), False) if name in ("direct", "alternative") else None

    def _stored(self, raw: NDArray[Any], path: str) -> Truth:
        values = self.values_2018 if self.form.name == "ids_2018" else self.values
        return _semantic(self.colors if raw.ndim == 3 else values, raw, path)


class BDD100KSemantic(BDD100K):
    """The 19 classes of Cityscapes in the 10k pictures; all else is unlabelled.

    Args: as `BDD100K`.
    """

    task, usual_root, forms = "sem_seg", "bdd100k_10k", SEMANTIC_FORMS
    offers = frozenset({"semantic"})
    classes = ClassSpec(
        SEMANTIC,
        things=range(FIRST_SEMANTIC_THING, len(SEMANTIC)),
        colors=[list(bytes.fromhex(CATEGORIES[name].color)) for name in SEMANTIC],
    )
    values = LabelMap(classes, values={**dict(enumerate(SEMANTIC)), 255: IGNORE})
    colors = LabelMap(classes, colors={"000000": IGNORE, **{CATEGORIES[name].color: name for name in SEMANTIC}})

    def _kind(self, label: Mapping[str, Any]) -> Kind | None:
        name = label.get("category")
        if name not in CATEGORIES and name != "unlabeled":
            raise ValueError(f"{name!r} is none of BDD100K's categories")
        return Kind(self.classes.names.index(name), False) if name in self.classes.names else None

    def _stored(self, raw: NDArray[Any], path: str) -> Truth:
        return _semantic(self.colors if raw.ndim == 3 else self.values, raw, path)


class BDD100KInstances(BDD100K):
    """Persons and vehicles of eight classes in the 10k pictures.

    Args: as `BDD100K`, and
        ignored: what objects of no class are: "crowd" as in the toolkit's evaluation, or "unlabelled", as if not there.
    """

    task, usual_root, forms = "ins_seg", "bdd100k_10k", INSTANCE_FORMS
    offers = frozenset({"instances"})
    classes = ClassSpec(
        OBJECTS,
        things=range(len(OBJECTS)),
        colors=[list(bytes.fromhex(CATEGORIES[name.replace("pedestrian", "person")].color)) for name in OBJECTS],
    )

    def __init__(
        self,
        split: str = "train",
        *,
        root: str | Path | None = None,
        form: str | None = None,
        course: bool = False,
        course_size: int = 3000,
        seed: int = 0,
        partial: bool = False,
        tags: str | None = "auto",
        ignored: str = "crowd",
    ) -> None:
        if ignored not in ("crowd", "unlabelled"):
            raise DataError(f"`ignored` is crowd or unlabelled; got {ignored!r}.")
        self.ignored = ignored
        super().__init__(
            split, root=root, form=form, course=course, course_size=course_size, seed=seed, partial=partial, tags=tags
        )

    def _kind(self, label: Mapping[str, Any]) -> Kind | None:
        name = label.get("category")
        filed = IGNORED.get(str(name)) or RENAMED.get(str(name), name)
        if filed not in OBJECTS:
            raise ValueError(f"{name!r} is none of the objects {', '.join(OBJECTS)}, nor filed under one of them")
        is_ignored = name in IGNORED or flag(label, "ignored")
        return self._object(OBJECTS.index(filed), flag(label, "crowd"), is_ignored)

    def _object(self, label: int, is_crowd: bool, is_ignored: bool) -> Kind:
        if is_ignored and self.ignored == "unlabelled":
            return Kind(UNLABELLED, False)
        return Kind(label, True, is_crowd or is_ignored)

    def _stored(self, raw: NDArray[Any], path: str) -> Truth:
        return _from_bitmask(raw, path, len(OBJECTS), self._object)


class BDD100KPanoptic(BDD100K):
    """30 classes of stuff and 10 of things in the 10k pictures.

    Args: as `BDD100K`.
    """

    task, usual_root, forms = "pan_seg", "bdd100k_10k", PANOPTIC_FORMS
    offers = frozenset({"semantic", "instances", "panoptic"})
    classes = ClassSpec(
        list(CATEGORIES),
        things=range(FIRST_THING, len(CATEGORIES)),
        colors=[list(bytes.fromhex(category.color)) for category in CATEGORIES.values()],
    )

    def _kind(self, label: Mapping[str, Any]) -> Kind | None:
        name = label.get("category")
        if name == "unlabeled":
            return None
        if name not in CATEGORIES:
            raise ValueError(f"{name!r} is none of BDD100K's categories")
        return self._region(list(CATEGORIES).index(name), flag(label, "crowd"), flag(label, "ignored"))

    def _region(self, label: int, is_crowd: bool, is_ignored: bool) -> Kind:
        is_thing = label >= FIRST_THING
        return Kind(UNLABELLED, False) if is_ignored else Kind(label, is_thing, is_thing and is_crowd)

    def _stored(self, raw: NDArray[Any], path: str) -> Truth:
        return _from_bitmask(raw, path, len(CATEGORIES), self._region)


def _semantic(label_map: LabelMap, raw: NDArray[Any], path: str) -> Truth:
    segments, labels = label_map.segments(raw, path)
    return Truth(segments, labels, np.zeros(len(labels), np.bool_))


def _from_bitmask(
    raw: NDArray[Any], path: str, num_categories: int, kind_of: Callable[[int, bool, bool], Kind]
) -> Truth:
    """An RGBA bitmask, read value by value.

    Args: kind_of: from label, crowd and ignored to what it is.

    Raises:
        DataError: no RGBA, an unknown category, or an object of two categories or with two sets of flags.
    """
    if raw.ndim != 3 or raw.shape[2] != 4:
        channels = raw.shape[2] if raw.ndim == 3 else 1
        raise DataError(f"{path}: a bitmask is RGBA (category, flags, object); this picture has {channels} channel(s).")
    index = ValueIndex(np.ascontiguousarray(raw).view("<u4")[..., 0])
    fields = bitmask_fields(index.values.astype("<u4").view(np.uint8).reshape(1, -1, 4))
    categories, flags, objects = (field[0].tolist() for field in fields)
    if unknown := {category for category in categories if category > num_categories}:
        counts = ", ".join(f"{one} ({np.count_nonzero(raw[..., 0] == one)} pixels)" for one in sorted(unknown))
        raise DataError(f"{path}: the bitmask holds the category {counts}; known are 1..{num_categories}.")
    kinds = [
        kind_of(category - 1, bool(flag & 2), bool(flag & 1)) if category and number else Kind(UNLABELLED, False)
        for category, flag, number in zip(categories, flags, objects, strict=True)
    ]
    _check_objects(objects, kinds, path)
    numbers = [number if kind.is_object else 0 for number, kind in zip(objects, kinds, strict=True)]
    return gather(index, [kind.label for kind in kinds], numbers, [kind.is_crowd for kind in kinds])


def _check_objects(objects: Sequence[int], kinds: Sequence[Kind], path: str) -> None:
    """An object is of one class and has one set of flags."""
    seen: dict[int, Kind] = {}
    for number, kind in zip(objects, kinds, strict=True):
        if kind.is_object and seen.setdefault(number, kind) != kind:
            raise DataError(
                f"{path}: the object {number} is of two categories or has two sets of flags, but an object has one. The "
                f"file is damaged, or was not saved as RGBA."
            )
