"""Pascal VOC as the challenge has it, augmented, as LabelMe exports it, and as CVAT does, with the masks as colors."""

import shutil

import numpy as np
from PIL import Image

LISTS = {"train": ("2007_000032", "2007_000039"), "val": ("2007_000033",)}
UNMASKED = "2008_000001"  # most pictures of VOC have no mask


def save(path, array, palette=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(array)
    if palette is not None:
        picture = picture.convert("P")
        picture.putpalette(palette)
    picture.save(path)


def maps():
    """Class and object numbers: two persons and a dog on background, each object with a void border."""
    labels, numbers = np.zeros((20, 30), np.uint8), np.zeros((20, 30), np.uint8)
    for number, (label, columns) in enumerate(((15, slice(1, 9)), (15, slice(9, 17)), (12, slice(18, 28))), start=1):
        labels[2:14, columns], numbers[2:14, columns] = 255, 255
        inner = slice(columns.start + 1, columns.stop - 1)
        labels[3:13, inner], numbers[3:13, inner] = label, number
    return labels, numbers


def pictures(root, names):
    random = np.random.default_rng(0)
    for name in names:
        save(root / "JPEGImages" / f"{name}.jpg", random.integers(0, 256, (20, 30, 3), np.uint8))


def case(root, **arguments):
    return {"class_path": "trimask.data.VOC", "init_args": {"root": str(root)} | arguments}


def lists(root):
    for split, names in LISTS.items():
        path = root / "ImageSets" / "Segmentation" / f"{split}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(names) + "\n")


def challenge(root, **arguments):
    palette = [channel for i in range(256) for channel in (i, 255 - i, i // 2)]  # what colors they are plays no part
    labels, numbers = maps()
    names = [name for part in LISTS.values() for name in part]
    pictures(root, [*names, UNMASKED])
    lists(root)
    for name in names:
        save(root / "SegmentationClass" / f"{name}.png", labels, palette)
        save(root / "SegmentationObject" / f"{name}.png", numbers, palette)
    return case(root, truth="panoptic", **arguments)


def augmented(root):
    challenge(root)
    shutil.copytree(root / "SegmentationClass", root / "SegmentationClassAug")
    folder = root / "ImageSets" / "Segmentation"
    shutil.copy(folder / "train.txt", folder / "trainaug.txt")
    return case(root, train_list="trainaug")


def labelme(root):
    labels, _ = maps()
    names = ("a", "b", "c", "d")
    pictures(root, names)
    (root / "class_names.txt").write_text("_background_\ndog\nperson\n")
    for name in names:
        values = np.where(labels == 12, 1, np.where(labels == 15, 2, labels)).astype(np.uint8)
        save(root / "SegmentationClass" / f"{name}.png", values, list(range(256)) * 3)
    return case(root)


def cvat(root):
    labels, numbers = maps()
    names = [name for part in LISTS.values() for name in part]
    pictures(root, names)
    lists(root)
    (root / "labelmap.txt").write_text(
        "# label:color_rgb:parts:actions\nbackground:0,0,0::\ncat:255,53,94::\nperson:18,52,86::\nignored:9,8,7::\n"
    )
    colors = np.zeros((256, 3), np.uint8)
    colors[[12, 15, 255]] = (255, 53, 94), (18, 52, 86), (9, 8, 7)
    tints = np.zeros((256, 3), np.uint8)
    tints[[1, 2, 3, 255]] = (128, 0, 0), (0, 128, 0), (128, 128, 0), (224, 224, 192)
    for name in names:
        save(root / "SegmentationClass" / f"{name}.png", colors[labels])
        save(root / "SegmentationObject" / f"{name}.png", tints[numbers])
    return case(root, truth="panoptic")


CASES = {"challenge": challenge, "augmented": augmented, "labelme": labelme, "cvat": cvat}
