"""DSB2018: a folder for each picture, a file for each nucleus."""

import numpy as np
from PIL import Image

SIZE = (24, 20)


def write(root, name, num_nuclei, size=SIZE):
    entry = root / name
    (entry / "images").mkdir(parents=True)
    (entry / "masks").mkdir()
    pixels = np.random.default_rng(num_nuclei).integers(0, 255, (*size, 4), np.uint8)
    Image.fromarray(pixels, "RGBA").save(entry / "images" / f"{name}.png")
    for number in range(num_nuclei):
        mask = np.zeros(size, np.uint8)
        row, column = divmod(number, size[1] // 4)
        mask[4 * row : 4 * row + 3, 4 * column : 4 * column + 3] = 255
        Image.fromarray(mask).save(entry / "masks" / f"{number:02}.png")
    return entry


def stage1(folder):
    for number in range(6):
        write(folder / "stage1_train", f"p{number}", 3 + number)
    return {"class_path": "trimask.data.nuclei.Nuclei", "init_args": {"root": str(folder)}}


CASES = {"stage1": stage1}
