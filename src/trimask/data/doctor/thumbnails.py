"""Small pictures of the examples: the picture with its truth laid over it, or the file alone. Own work.

They are made in workers as everything else is: an example may be the very file that hangs a decoder.
"""

from __future__ import annotations

import base64
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from trimask.data.doctor.case import Case
from trimask.data.doctor.checks.empty import BACKGROUND
from trimask.data.doctor.findings import Where
from trimask.data.doctor.pool import Lost, run
from trimask.data.doctor.subject import Subject
from trimask.data.segments import color_of_ids
from trimask.types import ClassSpec, SegmentationDataset

HEIGHT, MAX_WIDTH = 132, 320  # pixels
QUALITY = 78  # of the JPEG

Draw = Callable[[NDArray[np.uint8], NDArray[Any], ClassSpec], NDArray[np.uint8]]


def thumbnails(case: Case, places: Iterable[Where], draw: Draw, *, workers: int, timeout: float) -> dict[Where, str]:
    """Place -> "data:image/jpeg;base64,...", for those that can be shown.

    Args: draw: (H, W, K) picture, (H, W) labels, classes -> (H, W, 3) RGB.
    """
    wanted = [place for place in dict.fromkeys(places) if place.files or place.index >= 0]
    done = run(_Painter(case.datasets, draw), wanted, workers=min(workers, len(wanted)), timeout=timeout)
    return {place: picture for place, picture in done if picture and not isinstance(picture, Lost)}


class _Painter:
    def __init__(self, datasets: dict[str, SegmentationDataset], draw: Draw) -> None:
        self.datasets, self.draw = datasets, draw

    def __call__(self, place: Where) -> str:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            subject = Subject(place, self.datasets.get(place.split))
            sample = subject.sample
            if sample is None or subject.classes is None:
                file = subject.files[0] if subject.files else None
                return encoded(as_rgb(file.pixels)) if file is not None and file.pixels is not None else ""
            small, layers = _shrunk(sample.image, sample.segments)
            table = np.concatenate([[subject.classes.ignore_index], _drawn(sample.labels, subject.classes)])
            top = layers[0]
            for layer in layers[1:]:
                top = np.where(layer > 0, layer, top)
            return encoded(self.draw(small, table[top], subject.classes))


def _drawn(labels: NDArray[np.int64], classes: ClassSpec) -> NDArray[np.int64]:
    """The labels, with the background left as it is in the picture."""
    background = [label for label, name in enumerate(classes.names) if name.lower() in BACKGROUND]
    return np.where(np.isin(labels, background), classes.ignore_index, labels)


def _shrunk(image: NDArray[np.uint8], segments: NDArray[Any]) -> tuple[NDArray[Any], list[NDArray[Any]]]:
    scale = min(1.0, HEIGHT / image.shape[0], MAX_WIDTH / image.shape[1])
    size = max(round(image.shape[1] * scale), 1), max(round(image.shape[0] * scale), 1)
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    small = small[..., None] if small.ndim == 2 else small
    return small, [cv2.resize(layer, size, interpolation=cv2.INTER_NEAREST) for layer in segments]


def as_rgb(raw: NDArray[Any]) -> NDArray[np.uint8]:
    """Stored pixels of any kind as something to look at: ids as colors that differ, colors as they are, small."""
    scale = min(1.0, HEIGHT / raw.shape[0], MAX_WIDTH / raw.shape[1])
    size = max(round(raw.shape[1] * scale), 1), max(round(raw.shape[0] * scale), 1)
    if raw.ndim == 3:
        return np.asarray(cv2.resize(np.ascontiguousarray(raw[..., :3]), size, interpolation=cv2.INTER_AREA), np.uint8)
    rows = (np.arange(size[1]) * raw.shape[0] // size[1])[:, None]
    ids = raw[rows, np.arange(size[0]) * raw.shape[1] // size[0]].astype(np.int64)
    if ids.max(initial=0) > 128:  # grey values, or ids that are spread
        return np.repeat((ids * 255 // max(ids.max(), 1)).astype(np.uint8)[..., None], 3, axis=2)
    return np.ascontiguousarray(color_of_ids((ids * 0x5DEECE) & 0xFFFFFF), np.uint8)


def encoded(picture: NDArray[np.uint8]) -> str:
    """(H, W, 3) RGB -> a data URL."""
    data = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1]
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode()
