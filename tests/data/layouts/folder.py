"""Folder in its forms: classes alone, classes and object numbers in two pictures, both in one number, and a CSV."""

import numpy as np
from PIL import Image

CLASSES = {"names": ["ground", "road", "person"], "values": {0: "ground", 1: "road", 2: "person", 255: "ignore"}}
THINGS = CLASSES | {"things": ["person"]}
SPLITS = {"train": ("a", "b", "c"), "val": ("d", "e")}


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def pictures(root):
    """Yields split, name and class map, after it has written the picture."""
    random = np.random.default_rng(0)
    for split, names in SPLITS.items():
        for name in names:
            save(root / "images" / split / f"{name}.png", random.integers(0, 256, (20, 30, 3), np.uint8))
            labels = np.zeros((20, 30), np.uint8)
            labels[10:], labels[:5, :10], labels[2:8, 15:25] = 1, 255, 2
            yield split, name, labels


def answer(root, **arguments):
    folders = {"images": "images/{split}", "masks": "masks/{split}"}
    return {"class_path": "trimask.data.Folder", "init_args": {"root": str(root)} | folders | arguments}


def semantic(root):
    for split, name, labels in pictures(root):
        save(root / "masks" / split / f"{name}.png", labels)
    return answer(root, classes=CLASSES)


def two_pictures(root):
    for split, name, labels in pictures(root):
        save(root / "masks" / split / f"{name}.png", labels)
        numbers = (np.arange(30, dtype=np.uint16) // 4 * 100 * (labels == 2)).astype(np.uint16)
        save(root / "ids" / split / f"{name}.png", numbers)
    return answer(root, classes=THINGS, truth="panoptic", instances="ids/{split}")


def one_number(root):
    for split, name, labels in pictures(root):
        numbers = labels.astype(np.int32) * 1000 + np.arange(30, dtype=np.int32) // 4 * (labels == 2)
        path = root / "masks" / split / f"{name}.tif"
        save(path, numbers.astype(np.int32))
    return answer(root, classes=THINGS, truth="instances", divisor=1000)


def table(root):
    rows = {split: ["images,masks,instances"] for split in SPLITS}
    for split, name, labels in pictures(root):
        save(root / "masks" / f"{name}.png", labels)
        save(root / "ids" / f"{name}.png", (labels == 2).astype(np.uint8))
        rows[split].append(f"images/{split}/{name}.png,masks/{name}.png,ids/{name}.png")
    for split, lines in rows.items():
        (root / f"{split}.csv").write_text("\n".join(lines))
    return answer(root, classes=THINGS, truth="panoptic", csv="{split}.csv")


CASES = {"semantic": semantic, "two_pictures": two_pictures, "one_number": one_number, "csv": table}
