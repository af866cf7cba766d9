"""What `predict` writes of an answer: one form for each kind of answer, so that the command needs no word about tasks.

| answer        | files of a picture                                                   | row of predictions.json              |
|---------------|----------------------------------------------------------------------|--------------------------------------|
| `SemanticMap` | _mask.png: class ids, with the classes' colors as palette            | `regions`: label, score, pixels      |
|               | _scores.npz, if asked for: class probabilities as uint8, 0..255      |                                      |
| `Instances`   |                                                                      | `instances`: label, score, bbox,     |
|               |                                                                      | area, segmentation (compressed RLE)  |
| `Panoptic`    | _panoptic.png: segment ids as R + 256 G + 256^2 B, 0 for no segment  | `segments_info`: id, label, isthing, |
|               |                                                                      | area, bbox, score                    |

All have _overlay.png. A bbox is [x, y, width, height]; `category_id` is the place of a class in the list of predictions.json.
COCO's own files for all pictures have COCO's ids instead, which a file of its data set tells (`CocoIds`).

Source: the formats of cocodataset.org (results) and of panopticapi. Deviations: none. Own work.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from trimask.metrics.run_lengths import encode_masks
from trimask.types import ClassSpec, DataError, Instances, Panoptic, SemanticMap
from trimask.visualise.answers import instance_drawing, panoptic_drawing
from trimask.visualise.draw import overlay
from trimask.visualise.samples import flat

Files = Mapping[str, Path]
Row = dict[str, Any]


@dataclass(frozen=True)
class Form:
    """How one kind of answer is written.

    Attributes:
        write: (picture (H, W, K), answer on the host, files, classes) -> the row of predictions.json.
        files: what is in a file -> the ending of its name, behind that of the picture.
        on_request: likewise, of those that the option of this name asks for.
        coco: (rows, ids) -> the content of COCO's file for all pictures, if COCO has one.
        coco_file: its name.
    """

    write: Callable[[NDArray[np.uint8], Any, Files, ClassSpec], Row]
    files: dict[str, str]
    on_request: dict[str, str] = field(default_factory=dict)
    coco: Callable[[Sequence[Row], CocoIds], Any] | None = None
    coco_file: str = ""


@dataclass(frozen=True)
class CocoIds:
    """What a COCO data set calls pictures and classes.

    Attributes:
        images: name of a picture's file -> id.
        categories: id of each class, in label order.
    """

    images: dict[str, int | str]
    categories: list[int]

    @classmethod
    def read(cls, file: Path, pictures: Sequence[Path], classes: ClassSpec) -> CocoIds:
        """Args: file: any JSON of the data set with `images` and `categories`, e.g. instances_val2017.json.

        Raises:
            DataError: there is no such file, it is of another kind, or it lacks a picture or a class.
        """
        try:
            content = json.loads(file.read_bytes())
            ids = {Path(entry["file_name"]).name: entry["id"] for entry in content["images"]}
            category_of = {entry["name"]: entry["id"] for entry in content["categories"]}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{file} is no COCO file with `images` (file_name, id) and `categories` (name, id): "
                f"{type(error).__name__} {error}."
            ) from error
        for what, wanted, known in (
            ("picture", [picture.name for picture in pictures], ids),
            ("category", list(classes.names), category_of),
        ):
            if missing := [name for name in wanted if name not in known]:
                raise DataError(f"{file} has no {what} {missing[0]!r} ({len(missing)} of {len(wanted)} are missing).")
        images = {picture.name: ids[picture.name] for picture in pictures}
        return cls(images, [category_of[name] for name in classes.names])


def _write_class_map(image: NDArray[np.uint8], answer: SemanticMap, files: Files, classes: ClassSpec) -> Row:
    labels = answer.labels.numpy()
    mask = Image.fromarray(labels.astype(np.uint8 if len(classes) <= 256 else np.uint16))
    if len(classes) <= 256:
        mask.putpalette(classes.colors.tobytes())
    mask.save(files["mask"])
    Image.fromarray(overlay(image, labels, classes)).save(files["overlay"])
    if "scores" in files:
        assert answer.scores is not None
        scores = (answer.scores * 255).round().byte().numpy()
        np.savez_compressed(files["scores"], scores=scores, names=np.array(classes.names))
    regions = [
        {"label": classes.names[region.label], "score": region.score, "pixels": int(region.mask.sum())}
        for region in answer.regions()
    ]
    return {"mask": files["mask"].name, "regions": regions}


def _write_instances(image: NDArray[np.uint8], answer: Instances, files: Files, classes: ClassSpec) -> Row:
    drawing = instance_drawing(image, answer, classes, side=max(image.shape[:2]))
    Image.fromarray(flat(drawing)).save(files["overlay"])
    columns = ("label", "category_id", "score", "bbox", "area")
    rows = zip(answer.segments_info(classes), _run_lengths(answer.masks), strict=True)
    return {"instances": [{**{key: row[key] for key in columns}, "segmentation": code} for row, code in rows]}


def _write_panoptic(image: NDArray[np.uint8], answer: Panoptic, files: Files, classes: ClassSpec) -> Row:
    ids = answer.segments.numpy()
    channels = np.stack([ids >> shift & 255 for shift in (0, 8, 16)], axis=2).astype(np.uint8)
    Image.fromarray(channels).save(files["panoptic"])
    drawing = panoptic_drawing(image, answer, classes, side=max(image.shape[:2]))
    Image.fromarray(flat(drawing)).save(files["overlay"])
    return {"panoptic": files["panoptic"].name, "segments_info": answer.segments_info(classes)}


def _run_lengths(masks: Tensor) -> list[dict[str, Any]]:
    """(N, H, W) bool -> as COCO's compressed RLE."""
    codes = encode_masks(masks)
    text, bounds = codes.text.tobytes().decode("ascii"), np.append(0, np.cumsum(codes.lengths)).tolist()
    return [{"size": list(masks.shape[1:]), "counts": text[start:stop]} for start, stop in pairwise(bounds)]


def _coco_instances(rows: Sequence[Row], ids: CocoIds) -> list[Row]:
    """For pycocotools' `loadRes`. Without boxes, which it takes from the masks: given ones would change their areas."""
    return [
        {
            "image_id": ids.images[Path(row["picture"]).name],
            "category_id": ids.categories[found["category_id"]],
            "segmentation": found["segmentation"],
            "score": found["score"],
        }
        for row in rows
        for found in row["instances"]
    ]


def _coco_panoptic(rows: Sequence[Row], ids: CocoIds) -> Row:
    """For panopticapi, with the folder as that of the PNGs."""
    annotations = [
        {
            "image_id": ids.images[Path(row["picture"]).name],
            "file_name": row["panoptic"],
            "segments_info": [
                {**segment, "category_id": ids.categories[segment["category_id"]]} for segment in row["segments_info"]
            ],
        }
        for row in rows
    ]
    return {"annotations": annotations}


_OVERLAY = {"overlay": "_overlay.png"}
FORMS: dict[type, Form] = {
    SemanticMap: Form(_write_class_map, {"mask": "_mask.png", **_OVERLAY}, {"scores": "_scores.npz"}),
    Instances: Form(_write_instances, _OVERLAY, coco=_coco_instances, coco_file="coco_results.json"),
    Panoptic: Form(
        _write_panoptic, {"panoptic": "_panoptic.png", **_OVERLAY}, coco=_coco_panoptic, coco_file="coco_panoptic.json"
    ),
}
