"""Small data sets in COCO's layouts: instances (of COCO, Roboflow, one file for all) and panoptic pictures."""

import json
import shutil

import numpy as np
from PIL import Image

from trimask.data import rle
from trimask.data.segments import panoptic_picture

SIZE = (24, 32)
CATEGORIES = [
    {"id": 3, "name": "person", "supercategory": "any"},
    {"id": 7, "name": "kite", "supercategory": "any"},
    {"id": 90, "name": "rope", "supercategory": "any"},
]
PANOPTIC_CATEGORIES = [
    {**CATEGORIES[0], "isthing": 1, "color": [220, 20, 60]},
    {**CATEGORIES[1], "isthing": 1, "color": [0, 0, 142]},
    {"id": 119, "name": "sky", "supercategory": "any", "isthing": 0, "color": [70, 130, 180]},
    {"id": 200, "name": "sea", "supercategory": "any", "isthing": 0, "color": [152, 251, 152]},
]


def write_picture(file, seed):
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (*SIZE, 3), np.uint8)
    Image.fromarray(pixels).save(file)


def image_record(number, name):
    return {"id": number, "file_name": name, "height": SIZE[0], "width": SIZE[1]}


def annotations_of(picture, first):
    """A polygon, an overlapping polygon in two parts, a box with a hole as run lengths, and a crowd."""
    hole = np.zeros(SIZE, bool)
    hole[10:20, 18:30], hole[13:16, 22:25] = True, False
    crowd = np.zeros(SIZE, bool)
    crowd[20:, :9] = True
    forms = [
        (3, 0, [[2, 2, 14, 2, 14, 12, 2, 12]]),
        (7, 0, [[8, 6, 20, 6, 20, 9, 8, 9], [1, 15, 5, 15, 3, 18]]),
        (3, 0, {"size": list(SIZE), "counts": rle.from_mask(hole).tolist()}),
        (90, 1, rle.to_coco(rle.from_mask(crowd), SIZE)),
    ]
    return [
        {"id": first + i, "image_id": picture, "category_id": category, "iscrowd": crowd_flag, "segmentation": form}
        for i, (category, crowd_flag, form) in enumerate(forms)
    ]


def write_instances(file, images, numbers, prefix=""):
    names = [f"{number:06}.jpg" for number in numbers]
    for number, name in zip(numbers, names, strict=True):
        write_picture(images / prefix / name, number)
    content = {
        "images": [image_record(n, prefix + name) for n, name in zip(numbers, names, strict=True)],
        "annotations": [a for k, number in enumerate(numbers[:-1]) for a in annotations_of(number, 10 * k)],
        "categories": CATEGORIES,
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))


def write_panoptic(file, images, numbers):
    annotations = []
    folder = file.with_suffix("")
    folder.mkdir(parents=True)
    for number in numbers:
        write_picture(images / f"{number:06}.jpg", number)
        ids = np.zeros(SIZE, np.int32)
        ids[:12], ids[12:22] = 70000, 300
        ids[4:16, 3:9], ids[5:9, 12:30], ids[18:, 20:] = 9, 1 << 20, 513
        Image.fromarray(panoptic_picture(ids)).save(folder / f"{number:06}.png")
        described = [(9, 3, 0), (70000, 119, 0), (1 << 20, 7, 0), (300, 200, 0), (513, 7, 1)]
        infos = [
            {"id": i, "category_id": c, "iscrowd": crowd, "area": int((ids == i).sum())} for i, c, crowd in described
        ]
        annotations.append({"image_id": number, "file_name": f"{number:06}.png", "segments_info": infos})
    content = {
        "images": [image_record(number, f"{number:06}.jpg") for number in numbers],
        "annotations": annotations,
        "categories": PANOPTIC_CATEGORIES,
    }
    file.write_text(json.dumps(content))


def instances(folder):
    for split, numbers in (("train", [1, 2, 3]), ("val", [4, 5])):
        write_instances(folder / "annotations" / f"instances_{split}2017.json", folder / f"{split}2017", numbers)
    return {"class_path": "trimask.data.coco.CocoInstances", "init_args": {"root": str(folder)}}


def roboflow(folder):
    for split, numbers in (("train", [1, 2, 3]), ("valid", [4, 5])):
        write_instances(folder / split / "_annotations.coco.json", folder / split, numbers)
    return {"class_path": "trimask.data.coco.CocoInstances", "init_args": {"root": str(folder), "keep_empty": True}}


def one_file(folder):
    write_instances(folder / "annotations.json", folder, [1, 2, 3, 4, 5, 6], prefix="JPEGImages/")
    arguments = {"root": str(folder), "background": "rest", "overlap": "smaller"}
    return {"class_path": "trimask.data.coco.CocoInstances", "init_args": arguments}


def with_stuff(folder):
    case = instances(folder)
    for split, numbers in (("train", [1, 2, 3]), ("val", [4, 5])):
        (folder / "stuff" / f"{split}").mkdir(parents=True)
        for number in numbers:
            values = np.full(SIZE, 119, np.uint8)
            values[14:], values[:, -1] = 154, 255
            values[3:8, 4:8] = 2
            Image.fromarray(values).save(folder / "stuff" / split / f"{number:06}.png")
    case["init_args"] |= {
        "stuff": "stuff/{split}",
        "stuff_values": {"0-90": "ignore", 119: "sky", 154: "sand", 255: "ignore"},
        "overlap": "later",
    }
    return case


def panoptic(folder):
    for split, numbers in (("train", [1, 2, 3]), ("val", [4, 5])):
        write_panoptic(
            folder / "annotations" / f"panoptic_{split}2017.json", folder / "images" / f"{split}2017", numbers
        )
    return {"class_path": "trimask.data.coco.CocoPanoptic", "init_args": {"root": str(folder)}}


def panoptic_beside(folder):
    """As panopticapi's example: one file, its PNGs in a folder of the same name, pictures and something else beside it."""
    write_panoptic(folder / "examples.json", folder / "input", [1, 2, 3, 4])
    shutil.copytree(folder / "examples", folder / "another_format")
    arguments = {"root": str(folder), "annotations": "examples.json", "images": "input"}
    return {"class_path": "trimask.data.coco.CocoPanoptic", "init_args": arguments}


CASES = {
    "instances": instances,
    "roboflow": roboflow,
    "one_file": one_file,
    "with_stuff": with_stuff,
    "panoptic": panoptic,
    "panoptic_beside": panoptic_beside,
}
