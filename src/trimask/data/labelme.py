"""LabelMe: one JSON a picture, drawn by hand in https://github.com/wkentaro/labelme (GPL-3.0; the format only, no code).

What a shape covers is what LabelMe's own export to VOC draws, that is Pillow on whole coordinates (fractions cut off, edges
included); what lies outside the picture is cut off. Shapes of one label with the same `group_id` are one object. A label
list begins, by LabelMe's custom, with `__ignore__` and `_background_`: shapes of the first make unlabelled what was drawn
before them, and the second is the class of all pixels without a shape.

Deviations: the instance number that very old versions append to labels ("car-1") is not taken off; name such labels in
`classes`. Points and lines cover nothing: they are refused, or left out by `leave_out`.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch.utils.data import Dataset

from trimask.data import rle
from trimask.data.decode import decode_image, read_image
from trimask.data.files import Pair, find_root, inside, locate, of_split, repeated_names
from trimask.data.json_stream import integer
from trimask.data.overlaps import VOID, Object, Overlap, arrange, check_rule
from trimask.types import ClassSpec, DataError, Sample, Size

LABEL_FILES = ("labels.txt", "../labels.txt")
IGNORED_LABEL, BACKGROUND_LABEL = "__ignore__", "_background_"
_FAR = 1 << 20  # pixels: what no coordinate exceeds


class LabelMe(Dataset[Sample]):
    """Objects one by one, with overlaps kept, or in one layer by an `overlap` rule.

    `offers`: "instances"; also "semantic" where the labels have `_background_`; also "panoptic" with an `overlap` rule on
    top of that. The export of LabelMe itself uses the rule "later".

    Args:
        split: "train", "val", "test" ("val" where nothing tells them apart) or "all".
        root: the data set's folder; see `files.find_root`.
        annotations: the folder of the JSON files (at any depth), or a glob; "{split}" tells the splits apart by folder.
        classes: the labels in order, or a text file with one a line; `__ignore__` and `_background_` as described above.
            By default labels.txt in `root` or in the folder above it.
        overlap: a rule of `overlaps`; None keeps overlapping shapes whole.
        leave_out: shape types that are passed over, such as [point, linestrip].
        lists: for each split a text file with one name a line.
        test_size: else the share of the pictures that a random division holds out for "val".
        seed: of the random division.

    Raises:
        DataError: there is no JSON, no label list, or nothing is left for the split.
    """

    def __init__(
        self,
        split: str = "train",
        *,
        root: str | Path = "labelme",
        annotations: str = ".",
        classes: list[str] | str | None = None,
        overlap: Overlap | None = None,
        leave_out: list[str] | None = None,
        lists: dict[str, str] | None = None,
        test_size: float = 0.2,
        seed: int = 0,
    ) -> None:
        check_rule(overlap)
        self.root = str(find_root(root))
        labels = classes if isinstance(classes, list) else _read_labels(Path(self.root), classes)
        names = [label for label in labels if label != IGNORED_LABEL]
        if not names or repeated_names(labels):
            raise DataError(f"The labels of {self.root} must be unique and name a class; got {labels}.")
        self.background = names.index(BACKGROUND_LABEL) if BACKGROUND_LABEL in names else None
        self.classes = ClassSpec(names, things=[i for i in range(len(names)) if i != self.background])
        self.overlap, self.leave_out = overlap, frozenset(leave_out or ())
        semantic = ["semantic"] if self.background is not None else []
        self.offers = frozenset(["instances", *semantic, *(["panoptic"] if semantic and overlap else [])])
        pairs = _pairs(Path(self.root), annotations.replace("{split}", split))
        is_divided = "{split}" in annotations
        pairs = of_split(
            pairs, split, folder=Path(self.root), lists=lists, test_size=test_size, seed=seed, is_divided=is_divided
        )
        self.names, self.json_files = [pair.name for pair in pairs], [pair.mask for pair in pairs]

    @classmethod
    def found_in(cls, folder: Path) -> list[dict[str, Any]]:
        """A label list in the folder, and LabelMe's JSON files in it or in a folder below it."""
        try:
            if not (folder / LABEL_FILES[0]).is_file():
                return []
            for place in [folder, *sorted(entry for entry in folder.iterdir() if entry.is_dir())]:
                first = next((file for file in sorted(place.glob("*.json"))), None)
                if first is not None and _is_labelme(first):
                    return [{"root": str(folder), "annotations": place.relative_to(folder).as_posix()}]
        except OSError:
            return []
        return []

    def __len__(self) -> int:
        return len(self.names)

    def files(self, index: int) -> tuple[str, ...]:
        """The picture and its JSON; the JSON alone where the picture is inside."""
        file = self.json_files[index]
        image = self._image_path(_read(file), file)
        return (file,) if image is None else (image, file)

    def __getitem__(self, index: int) -> Sample:
        file = self.json_files[index]
        content = _read(file)
        image = self._image(content, file)
        size = image.shape[0], image.shape[1]
        given = integer(content.get("imageHeight")), integer(content.get("imageWidth"))
        if None not in given and given != size:
            raise DataError(
                f"{file} was drawn on {given[1]}x{given[0]} pixels, but its picture has {size[1]}x{size[0]}."
            )
        background = None
        if self.background is not None:
            background = np.full(size, self.background, np.uint8 if self.classes.ignore_index == 255 else np.int32)
        objects = self._objects(content["shapes"], size, file)
        truth = arrange(objects, size, overlap=self.overlap, under=background, ignore_index=self.classes.ignore_index)
        return Sample(image, *truth, name=self.names[index])

    def _image(self, content: dict[str, Any], file: str) -> NDArray[np.uint8]:
        path = self._image_path(content, file)
        if path is not None:
            return read_image(path)
        return decode_image(_decoded(content["imageData"], f"{file}: its imageData"), f"{file} (imageData)")

    def _image_path(self, content: dict[str, Any], file: str) -> str | None:
        """The picture's file; None where it is inside the JSON, which is what was drawn on."""
        if content.get("imageData"):
            return None
        name = content.get("imagePath")
        if not isinstance(name, str) or not name:
            raise DataError(f"{file} has neither `imageData` nor `imagePath`.")
        entry = name.replace("\\", "/")
        if not PurePath(entry).is_absolute():
            entry = f"{os.path.relpath(os.path.dirname(file), self.root)}/{entry}"
        return str(inside(Path(self.root), entry, file))

    def _objects(self, shapes: Sequence[dict[str, Any]], size: Size, file: str) -> list[Object]:
        """In the order of drawing; a group where its first shape is."""
        masks: dict[tuple[Any, ...], list[NDArray[np.int64]]] = {}
        for number, shape in enumerate(shapes):
            where = f"{file}: shape {number}"
            if not isinstance(shape, dict) or not isinstance(shape.get("label"), str):
                raise DataError(f"{where} has no label.")
            if shape.get("shape_type") in self.leave_out:
                continue
            label, group = self._label(shape["label"], where), shape.get("group_id")
            key = (label, number, None) if group is None or label == VOID else (label, None, str(group))
            masks.setdefault(key, []).append(_pixels(shape, size, f"{where} ({shape['label']})"))
        joined = {key: np.unique(np.concatenate(parts)) if len(parts) > 1 else parts[0] for key, parts in masks.items()}
        return [Object(key[0], False, _runs(pixels, size)) for key, pixels in joined.items()]

    def _label(self, name: str, where: str) -> int:
        if name == IGNORED_LABEL:
            return VOID
        if name not in self.classes.names:
            raise DataError(f"{where} has the label {name!r}; the list of labels is {list(self.classes.names)}.")
        return self.classes.names.index(name)


def _read_labels(root: Path, file: str | None) -> list[str]:
    if file is None:
        found = [root / name for name in LABEL_FILES if (root / name).is_file()]
        if not found:
            raise DataError(
                f"There is no labels.txt in {root} or above it; write one label a line, or list them in `classes`."
            )
        path = found[0]
    else:
        path = locate(file, root)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: no text file of labels: {error}.") from error
    return [line.strip() for line in lines if line.strip()]


def _pairs(root: Path, where: str) -> list[Pair]:
    """The JSON files in `Pair.mask`; a sample's name is the path of its JSON below the folder."""
    is_glob = bool(set(where) & set("*?["))
    base = root if is_glob else root / where
    if not base.is_dir():
        raise DataError(f"There is no folder {base}.")
    files = sorted(root.glob(where) if is_glob else base.glob("**/*.json"))
    if not files:
        raise DataError(f"There is no JSON file in {base}{f' ({where})' if is_glob else ''}.")
    return [Pair(file.relative_to(base).with_suffix("").as_posix(), "", str(file)) for file in files]


def _read(file: str) -> dict[str, Any]:
    try:
        content = json.loads(Path(file).read_bytes())
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file}: not a JSON file that can be read whole ({error}). Save it again.") from error
    if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
        raise DataError(f"{file}: no file of LabelMe, which has a list `shapes`. Choose its files with `annotations`.")
    return content


def _is_labelme(file: Path) -> bool:
    try:
        return bool(_read(str(file)))
    except DataError:
        return False


def _decoded(text: object, where: str) -> bytes:
    try:
        return base64.b64decode(text if isinstance(text, str) else "-", validate=True)
    except (binascii.Error, ValueError) as error:
        raise DataError(f"{where} is no base64 text ({error}).") from error


# --- shape -> pixels ---


def _pixels(shape: dict[str, Any], size: Size, where: str) -> NDArray[np.int64]:
    """The pixels inside the picture, as ascending indices column by column."""
    kind = shape.get("shape_type") or "polygon"
    points = _points(shape, where)
    if kind == "polygon" and len(points) >= 3:
        return _drawn(points, size, lambda draw, xy: draw.polygon(xy, fill=1, outline=1))
    if kind == "rectangle" and len(points) == 2:
        points = np.stack([points.min(axis=0), points.max(axis=0)])
        return _drawn(points, size, lambda draw, xy: draw.rectangle(xy, fill=1, outline=1))
    if kind == "rectangle" and len(points) == 4:
        return _drawn(points, size, lambda draw, xy: draw.polygon(xy, fill=1, outline=1))
    if kind == "circle" and len(points) == 2:
        radius = float(np.hypot(*(points[1] - points[0])))
        points = np.stack([points[0] - radius, points[0] + radius])
        return _drawn(points, size, lambda draw, xy: draw.ellipse(xy, fill=1, outline=1))
    if kind == "mask" and len(points) == 2:
        return _pasted(shape, points, size, where)
    raise DataError(
        f"{where} is a {kind} with {len(points)} points; what covers pixels is a polygon (3 or more), a rectangle (2 or 4), a "
        f"circle (2) or a mask (2). Draw it anew, or pass over the type with leave_out: [{kind}]."
    )


def _points(shape: dict[str, Any], where: str) -> NDArray[np.float64]:
    try:
        points = np.array(shape["points"], np.float64).reshape(-1, 2)
    except (KeyError, ValueError, TypeError) as error:
        raise DataError(f"{where} has no `points` of two numbers each.") from error
    if not np.isfinite(points).all() or (np.abs(points) > _FAR).any():
        raise DataError(f"{where} has a point that is no number or more than {_FAR} pixels off.")
    return points


def _drawn(
    points: NDArray[np.float64], size: Size, draw: Callable[[ImageDraw.ImageDraw, list[tuple[int, int]]], None]
) -> NDArray[np.int64]:
    """What Pillow draws, on a canvas that holds no more than the shape and the picture share."""
    corners = np.trunc(points).astype(np.int64)
    low = np.maximum(corners.min(axis=0), 0)
    width, height = np.minimum(corners.max(axis=0) + 1, size[::-1]) - low
    if width <= 0 or height <= 0:
        return np.zeros(0, np.int64)
    canvas = Image.new("L", (int(width), int(height)))
    draw(ImageDraw.Draw(canvas), [(int(x), int(y)) for x, y in corners - low])
    return _placed(np.asarray(canvas), low, size)


def _placed(local: NDArray[Any], low: NDArray[np.int64], size: Size) -> NDArray[np.int64]:
    columns, rows = np.nonzero(local.T)
    return (columns + low[0]) * size[0] + rows + low[1]


def _pasted(shape: dict[str, Any], points: NDArray[np.float64], size: Size, where: str) -> NDArray[np.int64]:
    """A mask of its own, which fills the box of its two points, both included."""
    name = f"{where}: its mask"
    mask = decode_image(_decoded(shape.get("mask"), name), name)[..., 0]
    (left, top), (right, bottom) = np.trunc(points).astype(np.int64)
    if mask.shape != (bottom - top + 1, right - left + 1):
        raise DataError(
            f"{name} has {mask.shape[1]}x{mask.shape[0]} pixels, but its box {right - left + 1}x{bottom - top + 1}."
        )
    if left < 0 or top < 0 or right >= size[1] or bottom >= size[0]:
        raise DataError(f"{name} leads out of the picture.")
    return _placed(mask, np.array([left, top]), size)


def _runs(pixels: NDArray[np.int64], size: Size) -> rle.Runs:
    """Ascending indices -> runs."""
    gaps = np.flatnonzero(np.diff(pixels) > 1)
    starts = pixels[np.concatenate([[0], gaps + 1])] if len(pixels) else pixels
    ends = pixels[np.concatenate([gaps, [len(pixels) - 1]])] + 1 if len(pixels) else pixels
    return rle.from_edges(np.stack([starts, ends], axis=1).ravel(), size[0] * size[1])
