"""Sets in Scalabel's format: one file for each split, and one file of all with classes from its own `config`."""

import json

import numpy as np
from PIL import Image

SIZE = (24, 36)
SPLITS = {"train": ("a1", "a2", "a3"), "val": ("b1", "b2")}
CONFIG = {
    "imageSize": {"height": 24, "width": 36},
    "categories": [
        {"name": "ground", "isThing": False, "color": [128, 64, 128]},
        {"name": "vehicle", "subcategories": [{"name": "car", "isThing": True, "color": [0, 0, 142]}]},
    ],
}


def picture(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*SIZE, 3), np.uint8)).save(path)


def frame(name, number):
    ground = [[0.0, 12.0], [36.0, 12.0], [36.0, 30.0], [-3.6, 30.0]]
    car = [[4.0, 4.0], [12.0 + number, 4.0], [12.0 + number, 4.0], [12.0 + number, 16.0], [4.0, 16.0]]
    return {
        "name": name,
        "videoName": "drive",
        "attributes": {"weather": "clear"},
        "labels": [
            {"id": "0", "category": "ground", "poly2d": [{"vertices": ground, "types": "LLLL", "closed": True}]},
            {"id": "1", "category": "car", "poly2d": [{"vertices": car, "types": "LCCLL", "closed": True}]},
            {"id": "2", "category": "lane", "poly2d": [{"vertices": ground[:2], "types": "LL", "closed": False}]},
        ],
    }


def by_split(root):
    for split, names in SPLITS.items():
        for number, name in enumerate(names):
            picture(root / "images" / split / f"{name}.png", number)
        frames = [frame(f"items/{name}.jpg", number) for number, name in enumerate(names)]
        (root / f"labels_{split}.json").write_text(json.dumps(frames))
    classes = {
        "names": ["road", "other"],
        "labels": {"road": {"category": "ground"}},
        "background": "other",
        "skip": ["car"],
    }
    arguments = {"labels": "labels_{split}.json", "images": "images/{split}", "classes": classes}
    return {"class_path": "trimask.data.scalabel.ScalabelDataset", "init_args": {"root": str(root), **arguments}}


def described_by_itself(root):
    names = [name for listed in SPLITS.values() for name in listed]
    for number, name in enumerate(names):
        picture(root / "images" / f"{name}.png", number)
    frames = [frame(f"{name}.png", number) for number, name in enumerate(names)]
    (root / "labels.json").write_text(json.dumps({"frames": frames, "config": CONFIG}))
    return {
        "class_path": "trimask.data.scalabel.ScalabelDataset",
        "init_args": {"root": str(root), "labels": "labels.json"},
    }


CASES = {"by_split": by_split, "described_by_itself": described_by_itself}
