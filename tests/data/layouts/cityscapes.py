"""Cityscapes with the files of the release, with those that its scripts make, and coarse."""

import json

import numpy as np
from PIL import Image

FRAMES = {
    "train": ("aachen/aachen_000000_000019", "aachen/aachen_000001_000019", "bochum/bochum_000000_000313"),
    "val": ("lindau/lindau_000000_000019", "munster/munster_000000_000019"),
}
SIZE = (20, 40)
TRAIN_IDS = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def instance_ids():
    """Sky above road; two cars, of which the first has the number 0, a group of cars, a caravan and the ego vehicle."""
    ids = np.full(SIZE, 23, np.uint16)
    ids[8:] = 7
    ids[10:14, :6], ids[10:14, 8:14], ids[10:14, 20:30], ids[10:14, 32:38] = 26000, 26001, 26, 29000
    ids[-3:] = 1
    return ids


def label_ids(ids):
    return np.where(ids >= 1000, ids // 1000, ids).astype(np.uint8)


def train_ids(ids):
    table = np.full(256, 255, np.uint8)
    table[TRAIN_IDS] = np.arange(19)
    return table[label_ids(ids)]


def panoptic_ids(ids):
    """What createPanopticImgs.py keeps: what is evaluated."""
    return np.where(train_ids(ids) == 255, 0, ids)


def pictures(root):
    """Yields split and path below a folder of the split, after it has written the picture."""
    random = np.random.default_rng(0)
    for split, names in FRAMES.items():
        for name in names:
            picture = random.integers(0, 256, (*SIZE, 3), np.uint8)
            save(root / "leftImg8bit" / split / f"{name}_leftImg8bit.png", picture)
            yield split, name


def case(root, **arguments):
    return {"class_path": "trimask.data.Cityscapes", "init_args": {"root": str(root)} | arguments}


def release(root, kind="gtFine", **arguments):
    for split, name in pictures(root):
        for suffix, array in (("labelIds", label_ids(instance_ids())), ("instanceIds", instance_ids())):
            save(root / kind / split / f"{name}_{kind}_{suffix}.png", array)
        save(root / kind / split / f"{name}_{kind}_color.png", np.zeros((*SIZE, 3), np.uint8))
    return case(root, **{"truth": "panoptic", **arguments})


def coarse(root):
    return release(root, kind="gtCoarse", annotations="gtCoarse", truth="semantic")


def made_train_ids(root):
    for split, name in pictures(root):
        save(root / "gtFine" / split / f"{name}_gtFine_labelTrainIds.png", train_ids(instance_ids()))
    return case(root)


def made_panoptic(root, suffix="_trainId"):
    """The PNGs and the JSON of createPanopticImgs.py --use-train-id."""
    ids = panoptic_ids(instance_ids()).astype(np.int32)
    channels = np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1).astype(np.uint8)
    annotations = {split: [] for split in FRAMES}
    for split, name in pictures(root):
        name = name.split("/")[1]
        (root / "gtFine" / split).mkdir(parents=True, exist_ok=True)
        save(root / "gtFine" / f"cityscapes_panoptic_{split}{suffix}" / f"{name}_gtFine_panoptic.png", channels)
        annotations[split].append(
            {"image_id": name, "file_name": f"{name}_gtFine_panoptic.png", "segments_info": infos(ids)}
        )
    for split, listed in annotations.items():
        (root / "gtFine" / f"cityscapes_panoptic_{split}{suffix}.json").write_text(json.dumps({"annotations": listed}))
    return case(root, truth="panoptic")


def infos(ids):
    found = []
    for key in np.unique(ids[ids > 0]).tolist():
        label = TRAIN_IDS.index(key // 1000 if key >= 1000 else key)
        crowd = int(key < 1000 and label >= 11)
        found.append({"id": key, "category_id": label, "area": int((ids == key).sum()), "iscrowd": crowd})
    return found


CASES = {"release": release, "coarse": coarse, "train_ids": made_train_ids, "panoptic_png": made_panoptic}
