"""Class and object of every pixel -> segments: the truth of all three questions from id pictures.

Many formats say for each pixel what it is and to which object it belongs: in one number (Cityscapes, class x 1000 +
object), in two channels (ADE20K) or in two pictures (Pascal VOC). What follows from it is the same for all, own work:

- an unlabelled pixel belongs to no segment, whatever its object number;
- all pixels of a stuff class are one segment; an object number on stuff says nothing;
- pixels of a thing class with an object number are that object;
- pixels of a thing class without one (number 0) are uncounted objects: one crowd region a class.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trimask.data.segments import ValueIndex, panoptic_ids, segment_dtype
from trimask.types import ClassSpec, DataError


class Truth(NamedTuple):
    """What a `Sample` holds beside its picture: segments (1, H, W), labels (N,) int64, is_crowd (N,) bool.

    Rows are ordered by label, then by object number, a crowd first.
    """

    segments: NDArray[Any]
    labels: NDArray[np.int64]
    is_crowd: NDArray[np.bool_]


def from_values(index: ValueIndex, labels: NDArray[Any], objects: NDArray[Any], classes: ClassSpec) -> Truth:
    """The truth of an id picture whose every value stands for a class and an object.

    Args:
        labels: (V,) the class of each value; `classes.ignore_index` where it is unlabelled.
        objects: (V,) the number of its object, 0 for none; numbers count within a class.
    """
    is_thing = np.isin(labels, sorted(classes.things))
    known = labels != classes.ignore_index
    pairs = np.stack([labels, np.where(is_thing, objects, 0)], axis=1).astype(np.int64)
    rows, row_of_value = np.unique(pairs[known], axis=0, return_inverse=True)
    ids = np.zeros(len(labels), segment_dtype(len(rows)))
    ids[known] = row_of_value.ravel() + 1
    crowd = (rows[:, 1] == 0) & np.isin(rows[:, 0], sorted(classes.things))
    return Truth(index.replace(ids)[None], rows[:, 0].copy(), crowd)


def from_maps(labels: NDArray[Any], objects: NDArray[Any], classes: ClassSpec, path: str | Path) -> Truth:
    """The truth of two pictures, classes (H, W) and objects (H, W; 0 for none), whose numbers count over all classes.

    Args: path: the file of the objects, for the message.

    Raises:
        DataError: an object has pixels of two thing classes. Pixels of a stuff class are no part of an object.
    """
    numbers = ValueIndex(objects)
    rows = numbers.replace(np.arange(len(numbers.values), dtype=np.int32))
    lowest = min(0, classes.ignore_index)
    num_labels = np.int32(max(len(classes), classes.ignore_index + 1) - lowest)
    index = ValueIndex(rows * num_labels + labels - np.int32(lowest))
    row, label = index.values // num_labels, index.values % num_labels + lowest
    number = numbers.values[row]
    mixed = _mixed(label, number, classes)
    if len(mixed):
        found = sorted(set(label[number == mixed[0]].tolist()) & classes.things)
        raise DataError(
            f"{path}: object {mixed[0]} has pixels of {len(found)} classes of things "
            f"({', '.join(classes.names[i] for i in found)}), but an object is of one class. Give each object a number "
            f"of its own."
        )
    return from_values(index, label, number, classes)


def _mixed(labels: NDArray[Any], numbers: NDArray[Any], classes: ClassSpec) -> NDArray[Any]:
    """The object numbers that go with several thing classes; (label, number) pairs come once each."""
    taken, count = np.unique(
        numbers[np.isin(labels, sorted(classes.things)) & (numbers != 0)],
        return_counts=True,
    )
    return taken[count > 1]


def object_numbers(raw: NDArray[Any]) -> NDArray[Any]:
    """An id picture as it is stored -> (H, W) numbers: single values as they are, colors as R + 256 G + 65536 B."""
    return panoptic_ids(raw) if raw.ndim == 3 else raw
