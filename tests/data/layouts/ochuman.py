"""OCHuman's own JSON: pictures with their persons, outlines with holes, sizes as text."""

import json

import numpy as np
from PIL import Image

SIZE = (24, 32)


def person(outer, inner=(), box=(0, 0, 0, 0)):
    segms = {"outer": [list(p) for p in outer], "inner": [list(p) for p in inner], "width": "32", "height": "24"}
    return {"bbox": list(box), "segms": segms}


PERSONS = [
    person([[2, 2, 14, 2, 14, 12, 2, 12]], inner=[[5, 5, 9, 5, 9, 8, 5, 8]]),
    person([[10, 6, 20, 6, 20, 9, 10, 9], [1, 15, 5, 15, 3, 18]]),
    {"bbox": [20, 12, 40, 20], "segms": None},
]


def write(folder, numbers, persons=PERSONS):
    (folder / "images").mkdir(parents=True)
    images = []
    for number in numbers:
        pixels = np.random.default_rng(number).integers(0, 255, (*SIZE, 3), np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{number:06}.jpg")
        name = f"{number:06}"
        images.append({"file_name": f"{name}.jpg", "image_id": name, "width": 32, "height": 24, "annotations": persons})
    (folder / "ochuman.json").write_text(json.dumps({"keypoint_names": ["nose"], "images": images}))


def own(folder):
    write(folder, range(1, 7))
    return {"class_path": "trimask.data.ochuman.OCHuman", "init_args": {"root": str(folder)}}


CASES = {"own": own}
