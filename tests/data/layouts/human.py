"""The release of Human-Segmentation: pictures as JPEG, masks of 0 and 255, one of them smaller than its picture."""

import numpy as np
from PIL import Image


def release(root):
    random = np.random.default_rng(0)
    for folder in ("Training_Images", "Ground_Truth"):
        (root / folder).mkdir()
    for name in range(1, 6):
        picture = random.integers(0, 256, (24, 36, 3), np.uint8)
        Image.fromarray(picture).save(root / "Training_Images" / f"{name}.jpg")
        mask = np.zeros((12, 18) if name == 1 else (24, 36), np.uint8)
        mask[4:, 5:15] = 255
        Image.fromarray(mask).save(root / "Ground_Truth" / f"{name}.png")
    return {"class_path": "trimask.data.HumanSegmentation", "init_args": {"root": str(root)}}


CASES = {"release": release}
