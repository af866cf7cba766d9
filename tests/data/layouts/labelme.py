"""LabelMe's JSON files beside their pictures, and with the pictures inside."""

import base64
import io
import json

import numpy as np
from PIL import Image

SIZE = (20, 30)
LABELS = ["__ignore__", "_background_", "car", "person"]


def polygon(label, *corners, group=None):
    return {
        "label": label,
        "points": [list(c) for c in corners],
        "group_id": group,
        "shape_type": "polygon",
        "flags": {},
    }


SHAPES = [
    polygon("car", (2, 2), (12, 2), (12, 9), (2, 9)),
    polygon("person", (8, 5), (18, 5), (18, 14), (8, 14)),
    polygon("car", (22, 2), (27, 2), (27, 6), group=0),
    {"label": "car", "points": [[22, 10], [27, 14]], "group_id": 0, "shape_type": "rectangle", "flags": {}},
    polygon("__ignore__", (0, 16), (9, 16), (9, 25), (0, 25)),
]


def write(folder, number, *, shapes=SHAPES, inside=False, size=SIZE):
    folder.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(np.random.default_rng(number).integers(0, 255, (*size, 3), np.uint8))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    if not inside:
        (folder / f"{number}.png").write_bytes(buffer.getvalue())
    content = {
        "version": "5.0.1",
        "flags": {},
        "shapes": shapes,
        "imagePath": f"{number}.png",
        "imageData": base64.b64encode(buffer.getvalue()).decode() if inside else None,
        "imageHeight": size[0],
        "imageWidth": size[1],
    }
    (folder / f"{number}.json").write_text(json.dumps(content))


def beside(folder):
    (folder / "labels.txt").write_text("\n".join(LABELS))
    for number in range(6):
        write(folder / "data_annotated", number)
    arguments = {"root": str(folder), "annotations": "data_annotated", "overlap": "later"}
    return {"class_path": "trimask.data.labelme.LabelMe", "init_args": arguments}


def inside(folder):
    (folder / "labels.txt").write_text("\n".join(LABELS))
    for number in range(6):
        write(folder, number, inside=True)
    return {"class_path": "trimask.data.labelme.LabelMe", "init_args": {"root": str(folder)}}


CASES = {"beside": beside, "inside": inside}
