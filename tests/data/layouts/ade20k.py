"""ADE20K: class pictures, object pictures, both, and what Mask2Former's script makes of both."""

import json

import numpy as np
from PIL import Image

FRAMES = {"train": ("ADE_train_00000001", "ADE_train_00000002"), "val": ("ADE_val_00000001",)}
FOLDERS = {"train": "training", "val": "validation"}
SIZE = (20, 30)
WALL, BED, LAMP, FLOOR, SKY = 1, 8, 37, 4, 3  # values of the class pictures
BED_THING, LAMP_THING = 1, 19  # numbers of the object pictures


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def classes():
    """A wall above a floor with a bed; a lamp, and a second one that no object stands for; a corner of something else."""
    values = np.full(SIZE, WALL, np.uint8)
    values[12:], values[10:16, 4:16], values[2:6, 20:23], values[2:6, 26:29] = FLOOR, BED, LAMP, LAMP
    values[:2, :2] = 0
    return values


def objects():
    """The bed, which covers a row of wall too, and one of the lamps."""
    picture = np.zeros((*SIZE, 3), np.uint8)
    picture[9:16, 4:16] = BED_THING, 2, 7
    picture[2:6, 20:23] = LAMP_THING, 1, 0
    return picture


def panoptic():
    """(H, W) ids and {id: category} as the preparation makes them: stuff of the classes, then objects on top."""
    values, ids, categories = classes(), np.zeros(SIZE, np.int32), {}
    for key, mask, label in (
        (0x787878, values == WALL, 0),
        (0x323250, values == FLOOR, 3),
        (0xFF05CC, objects()[..., 1] == 2, 7),
        (0x08FFE0, objects()[..., 1] == 1, 36),
    ):
        ids[mask], categories[key] = key, label
    return ids, categories


def write(root, *kinds):
    random = np.random.default_rng(0)
    for split, names in FRAMES.items():
        for name in names:
            save(root / "images" / FOLDERS[split] / f"{name}.jpg", random.integers(0, 256, (*SIZE, 3), np.uint8))
            for kind, array in (("annotations", classes()), ("annotations_instance", objects())):
                if kind in kinds:
                    save(root / kind / FOLDERS[split] / f"{name}.png", array)


def case(root, **arguments):
    return {"class_path": "trimask.data.ADE20K", "init_args": {"root": str(root)} | arguments}


def semantic(root):
    write(root, "annotations")
    lines = [f"{name} bedroom" for names in FRAMES.values() for name in names]
    (root / "sceneCategories.txt").write_text("\n".join(lines))
    return case(root)


def instances(root):
    write(root, "annotations_instance")
    return case(root, truth="instances")


def both(root):
    write(root, "annotations", "annotations_instance")
    return case(root, truth="panoptic")


def prepared(root, categories=None):
    write(root, "annotations")
    ids, labels = panoptic()
    channels = np.stack([ids & 255, ids >> 8 & 255, ids >> 16], axis=-1).astype(np.uint8)
    infos = [
        {"id": key, "category_id": label, "area": int((ids == key).sum()), "bbox": [0, 0, 1, 1], "iscrowd": 0}
        for key, label in labels.items()
    ]
    things = {7, 8, 10, 12, 14, 15, 18, 19, 20, 22, 23, 24, 27, 30, 31, 32, 33, 35, 36, 37, 38, 39, 41, 42, 43, 44, 45}
    things |= {47, 49, 50, 53, 55, 56, 57, 58, 62, 64, 65, 66, 67, 69, 70, 71, 72, 73, 74, 75, 76, 78, 80, 81, 82, 83}
    things |= {85, 86, 87, 88, 89, 90, 92, 93, 95, 97, 98, 102, 103, 104, 107, 108, 110, 111, 112, 115, 116, 118, 119}
    things |= {120, 121, 123, 124, 125, 126, 127, 129, 130, 132, 133, 134, 135, 136, 137, 138, 139, 142, 143, 144, 146}
    things |= {147, 148, 149}
    categories = categories or [{"id": i, "name": f"class {i}", "isthing": int(i in things)} for i in range(150)]
    for split, names in FRAMES.items():
        folder = f"ade20k_panoptic_{split}"
        images = [{"id": n, "file_name": f"{n}.jpg", "width": SIZE[1], "height": SIZE[0]} for n in names]
        annotations = [{"image_id": n, "file_name": f"{n}.png", "segments_info": infos} for n in names]
        for name in names:
            save(root / folder / f"{name}.png", channels)
        content = {"images": images, "annotations": annotations, "categories": categories}
        (root / f"{folder}.json").write_text(json.dumps(content))
    return case(root, truth="panoptic")


CASES = {"semantic": semantic, "instances": instances, "both": both, "prepared": prepared}
