"""BDD100K in its published forms: every form of a task holds the same truth, made of rectangles that all can write exactly."""

import json
from typing import NamedTuple

import numpy as np
from PIL import Image

from trimask.data import rle
from trimask.data.bdd100k_classes import CATEGORIES, DRIVABLE, OBJECTS, SEMANTIC

SIZE = (24, 36)
SPLITS = {
    "train": ("0a0a0b1a-7c39d841", "0a0a0b1a-9d1f2b52", "0b3f8d7c-00000000"),
    "val": ("b1c9c847-3bda4659", "b1cd1e94-26dd524f"),
}
TAGS = {"weather": "rainy", "scene": "city street", "timeofday": "night"}


class Area(NamedTuple):
    """A rectangle of a category, with its flags."""

    category: str
    top: int
    left: int
    bottom: int
    right: int
    flags: tuple[str, ...] = ()

    @property
    def mask(self):
        mask = np.zeros(SIZE, np.bool_)
        mask[self.top : self.bottom, self.left : self.right] = True
        return mask


def drivable_areas(number):
    return [Area("direct", 12, 6, 24, 20 + number), Area("alternative", 10, 20 + number, 20, 33)]


def semantic_areas(number):
    return [
        Area("road", 12, 0, 24, 36),
        Area("sky", 0, 0, 8, 36),
        Area("static", 2, 2, 4, 4),
        Area("car", 8, 4 + number, 16, 20),
    ]


def object_areas(number):
    return [
        Area("car", 8, 4, 16, 12 + number),
        Area("car", 8, 14 + number, 16, 22, ("crowd",)),
        Area("pedestrian", 2, 20, 8, 24, ("occluded",)),
        Area("other vehicle", 16, 24, 20, 30, ("ignored", "truncated")),
    ]


def panoptic_areas(number):
    return [
        Area("road", 12, 0, 24, 36),
        Area("sky", 0, 0, 8, 36),
        Area("car", 8, 4, 16, 12 + number),
        Area("car", 8, 14 + number, 16, 22),
        Area("person", 2, 24, 8, 28, ("crowd",)),
        Area("sky", 8, 30, 10, 36),
    ]


def pictures(root, folder):
    """Yields split, number and name, after it has written the picture."""
    random = np.random.default_rng(0)
    for split, names in SPLITS.items():
        for number, name in enumerate(names):
            path = root / "bdd100k" / "images" / folder / split / f"{name}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(random.integers(0, 256, (*SIZE, 3), np.uint8)).save(path)
            yield split, number, name


def save(root, path, array, palette=None):
    path = root / "bdd100k" / path
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(array)
    if palette is not None:
        picture.putpalette(bytes(palette))
    picture.save(path)


def save_frames(root, path, areas_of, folder, label_of, *, bare):
    """One JSON file a split; the names of its frames end in .jpg."""
    frames = {split: [] for split in SPLITS}
    for split, number, name in pictures(root, folder):
        labels = [{"id": str(row), **label_of(area)} for row, area in enumerate(areas_of(number))]
        frames[split].append({"name": f"{name}.jpg", "attributes": dict(TAGS), "timestamp": 10000, "labels": labels})
    for split, listed in frames.items():
        file = root / "bdd100k" / path.format(split=split)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(listed if bare else {"frames": listed, "config": None, "groups": None}))


def polygon(area):
    corners = [[area.left, area.top], [area.right, area.top], [area.right, area.bottom], [area.left, area.bottom]]
    return {"poly2d": [{"vertices": [[float(x), float(y)] for x, y in corners], "types": "LLLL", "closed": True}]}


def run_lengths(area):
    return {"rle": rle.to_coco(rle.from_mask(area.mask), SIZE)}


def labelled(draw):
    """Category, flags and area as the JSON of 2020 has them."""
    return lambda area: {"category": area.category, "attributes": dict.fromkeys(area.flags, True), **draw(area)}


def answer(root, name, **arguments):
    return {"class_path": f"trimask.data.bdd100k.{name}", "init_args": {"root": str(root), **arguments}}


# --- drivable area ---


def drivable_map(number):
    labels = np.full(SIZE, 2, np.uint8)
    for area in drivable_areas(number):
        labels[area.mask] = list(DRIVABLE).index(area.category)
    return labels


def drivable_masks(root):
    for split, number, name in pictures(root, "100k"):
        save(root, f"labels/drivable/masks/{split}/{name}.png", drivable_map(number))
    return answer(root, "BDD100KDrivable")


def drivable_colormaps(root):
    palette = b"".join(bytes.fromhex(color) for color in DRIVABLE.values())
    for split, number, name in pictures(root, "100k"):
        save(root, f"labels/drivable/colormaps/{split}/{name}.png", drivable_map(number), palette)
    return answer(root, "BDD100KDrivable")


def drivable_ids_2018(root):
    for split, number, name in pictures(root, "100k"):
        ids = np.array([1, 2, 0], np.uint8)[drivable_map(number)]
        save(root, f"drivable_maps/labels/{split}/{name}_drivable_id.png", ids)
    return answer(root, "BDD100KDrivable")


def drivable_colors_2018(root):
    """The last picture of each split is RGBA in the other colors."""
    for split, number, name in pictures(root, "100k"):
        is_last = name == SPLITS[split][-1]
        colors = ("d9534fff", "5bc0deff", "000000ff") if is_last else ("ff0000", "0000ff", "000000")
        table = np.array([list(bytes.fromhex(color)) for color in colors], np.uint8)
        save(root, f"drivable_maps/color_labels/{split}/{name}_drivable_color.png", table[drivable_map(number)])
    return answer(root, "BDD100KDrivable")


def drivable_rles(root):
    path = "labels/drivable/rles/drivable_{split}.json"
    save_frames(root, path, drivable_areas, "100k", labelled(run_lengths), bare=False)
    return answer(root, "BDD100KDrivable")


def drivable_polygons(root):
    path = "labels/drivable/polygons/drivable_{split}.json"
    save_frames(root, path, drivable_areas, "100k", labelled(polygon), bare=True)
    return answer(root, "BDD100KDrivable")


def drivable_polygons_2018(root):
    def label(area):
        return {"category": "drivable area", "attributes": {"areaType": area.category}, **polygon(area)}

    path = "labels/bdd100k_labels_images_{split}.json"
    save_frames(root, path, drivable_areas, "100k", label, bare=True)
    for split in SPLITS:  # boxes and lane lines stand in the same file
        file = root / "bdd100k" / path.format(split=split)
        frames = json.loads(file.read_text())
        line = {"vertices": [[0.0, 0.0], [30.0, 20.0]], "types": "LL", "closed": False}
        frames[0]["labels"] += [
            {"id": "8", "category": "car", "attributes": {}, "box2d": {"x1": 1, "y1": 1, "x2": 9, "y2": 9}},
            {"id": "9", "category": "lane", "attributes": {"laneStyle": "solid"}, "poly2d": [line]},
        ]
        file.write_text(json.dumps(frames))
    return answer(root, "BDD100KDrivable")


# --- semantic segmentation ---


def semantic_map(number):
    labels = np.full(SIZE, 255, np.uint8)
    for area in semantic_areas(number):
        if area.category in SEMANTIC:
            labels[area.mask] = SEMANTIC.index(area.category)
    return labels


def semantic_masks(root):
    for split, number, name in pictures(root, "10k"):
        save(root, f"labels/sem_seg/masks/{split}/{name}.png", semantic_map(number))
    return answer(root, "BDD100KSemantic")


def semantic_colormaps(root):
    palette = b"".join(bytes.fromhex(CATEGORIES[name].color) for name in SEMANTIC)
    for split, number, name in pictures(root, "10k"):
        save(
            root,
            f"labels/sem_seg/colormaps/{split}/{name}.png",
            semantic_map(number),
            palette + bytes(768 - len(palette)),
        )
    return answer(root, "BDD100KSemantic")


def semantic_rles(root):
    save_frames(
        root, "labels/sem_seg/rles/sem_seg_{split}.json", semantic_areas, "10k", labelled(run_lengths), bare=False
    )
    return answer(root, "BDD100KSemantic")


def semantic_polygons(root):
    save_frames(
        root, "labels/sem_seg/polygons/sem_seg_{split}.json", semantic_areas, "10k", labelled(polygon), bare=True
    )
    return answer(root, "BDD100KSemantic")


def semantic_ids_2018(root):
    for split, number, name in pictures(root, "10k"):
        save(root, f"seg/labels/{split}/{name}_train_id.png", semantic_map(number))
    (root / "bdd100k" / "images" / "10k").rename(root / "bdd100k" / "seg" / "images")
    return answer(root, "BDD100KSemantic")


# --- instance and panoptic segmentation ---


def bitmask(areas, number_of):
    """RGBA: category, flags, object. `number_of` tells category and object number of an area and its row."""
    picture = np.zeros((*SIZE, 4), np.uint8)
    for row, area in enumerate(areas):
        category, number = number_of(area, row)
        flags = sum(
            1 << bit for bit, name in enumerate(("ignored", "crowd", "occluded", "truncated")) if name in area.flags
        )
        picture[area.mask] = [category, flags, number >> 8, number & 255]
    return picture


def instance_bitmasks(root):
    def number_of(area, row):
        category = {"other vehicle": "car"}.get(area.category, area.category)
        return OBJECTS.index(category) + 1, 255 + row  # beyond one byte

    for split, number, name in pictures(root, "10k"):
        save(root, f"labels/ins_seg/bitmasks/{split}/{name}.png", bitmask(object_areas(number), number_of))
    return answer(root, "BDD100KInstances")


def instance_rles(root):
    save_frames(
        root, "labels/ins_seg/rles/ins_seg_{split}.json", object_areas, "10k", labelled(run_lengths), bare=False
    )
    return answer(root, "BDD100KInstances")


def instance_polygons(root):
    save_frames(root, "labels/ins_seg/polygons/ins_seg_{split}.json", object_areas, "10k", labelled(polygon), bare=True)
    return answer(root, "BDD100KInstances")


def panoptic_bitmasks(root):
    def number_of(area, row):
        category = list(CATEGORIES).index(area.category) + 1
        return category, category if category <= 30 else 30 + row

    for split, number, name in pictures(root, "10k"):
        save(root, f"labels/pan_seg/bitmasks/{split}/{name}.png", bitmask(panoptic_areas(number), number_of))
    return answer(root, "BDD100KPanoptic")


def panoptic_rles(root):
    save_frames(
        root, "labels/pan_seg/rles/pan_seg_{split}.json", panoptic_areas, "10k", labelled(run_lengths), bare=False
    )
    return answer(root, "BDD100KPanoptic")


def panoptic_polygons(root):
    """As released: not one polygon is closed."""

    def label(area):
        drawn = polygon(area)
        drawn["poly2d"][0]["closed"] = False
        return {"category": area.category, "attributes": dict.fromkeys(area.flags, True), **drawn}

    save_frames(root, "labels/pan_seg/polygons/pan_seg_{split}.json", panoptic_areas, "10k", label, bare=True)
    return answer(root, "BDD100KPanoptic")


CASES = {
    "drivable_masks": drivable_masks,
    "drivable_colormaps": drivable_colormaps,
    "drivable_ids_2018": drivable_ids_2018,
    "drivable_colors_2018": drivable_colors_2018,
    "drivable_rles": drivable_rles,
    "drivable_polygons": drivable_polygons,
    "drivable_polygons_2018": drivable_polygons_2018,
    "semantic_masks": semantic_masks,
    "semantic_colormaps": semantic_colormaps,
    "semantic_rles": semantic_rles,
    "semantic_polygons": semantic_polygons,
    "semantic_ids_2018": semantic_ids_2018,
    "instance_bitmasks": instance_bitmasks,
    "instance_rles": instance_rles,
    "instance_polygons": instance_polygons,
    "panoptic_bitmasks": panoptic_bitmasks,
    "panoptic_rles": panoptic_rles,
    "panoptic_polygons": panoptic_polygons,
}
