"""The four forms of CamVid, with frames that really belong to train and val."""

import numpy as np
from PIL import Image

FRAMES = {"train": ("0001TP_006690", "0006R0_f00930"), "val": ("0016E5_07959",), "test": ("Seq05VD_f00000",)}
ROAD, CAR, VOID, SIDEWALK = (128, 64, 128), (64, 0, 128), (0, 0, 0), (0, 0, 192)
CODES = ["Car", "Road", "Sidewalk", "Void"]


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def write(root, images, masks, suffix, values, extension=".png"):
    """Road, a car on it and void, in the values of the form; `images` and `masks` may name the split."""
    random = np.random.default_rng(0)
    for split, names in FRAMES.items():
        for name in names:
            picture = random.integers(0, 256, (18, 24, 3), np.uint8)
            save(root / images.format(split=split) / f"{name}{extension}", picture)
            mask = np.full((18, 24, *np.shape(values[0])), values[0], np.uint8)
            mask[4:9, 5:12], mask[:3], mask[12:, :4] = values[1:]
            save(root / masks.format(split=split) / f"{name}{suffix}.png", mask)
    return {"class_path": "trimask.data.CamVid", "init_args": {"root": str(root)}}


def segnet(root):
    case = write(root, "{split}", "{split}annot", "", (3, 8, 11, 4), extension=".jpg")
    for split, names in FRAMES.items():
        lines = [f"/SegNet/CamVid/{split}/{name}.png /SegNet/CamVid/{split}annot/{name}.png" for name in names]
        (root / f"{split}.txt").write_text("\n".join(lines))
    return case


def release(root):
    return write(root, "701_StillsRaw_full", "LabeledApproved_full", "_L", (ROAD, CAR, VOID, SIDEWALK))


def split_folders(root):
    return write(root, "{split}", "{split}_labels", "_L", (ROAD, CAR, VOID, SIDEWALK))


def fastai(root):
    (root / "codes.txt").write_text("\n".join(CODES) + "\n")
    return write(root, "images", "labels", "_P", (1, 0, 3, 2))


CASES = {"segnet": segnet, "release": release, "split_folders": split_folders, "fastai": fastai}
