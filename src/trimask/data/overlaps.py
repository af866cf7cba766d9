"""Objects that are annotated one by one, and may overlap -> segments; by a rule in one layer, and with what lies below. Own
work.

Instance truth keeps overlaps. Panoptic truth has one segment a pixel, so that somebody must say to which of two objects a
contested pixel belongs. The rules:

- "smaller": to the one of smaller area, since what is annotated whole behind something small is the larger one;
- "later": to the one that comes later in the file, as drawing tools stack them;
- "ignore": to none; contested pixels are unlabelled.

A crowd is a region of uncounted objects and lies below every counted one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from trimask.data import rle
from trimask.data.segments import ValueIndex, pack_runs, segment_dtype
from trimask.types import DataError, Size

Overlap = Literal["smaller", "later", "ignore"]
VOID = -1  # instead of a label: the pixels of such an object are unlabelled


class Object(NamedTuple):
    """One annotated object: its label or VOID, whether it is a crowd, and its mask."""

    label: int
    is_crowd: bool
    runs: rle.Runs


class Truth(NamedTuple):
    """What a sample holds beside its picture: segments (L, H, W), labels (N,), is_crowd (N,)."""

    segments: NDArray[Any]
    labels: NDArray[np.int64]
    is_crowd: NDArray[np.bool_]


def check_rule(overlap: str | None) -> None:
    """Raises DataError for a rule that there is not."""
    if overlap is not None and overlap not in get_args(Overlap):
        rules = ", ".join(get_args(Overlap))
        raise DataError(f"`overlap` is one of {rules}, or null to keep overlaps; got {overlap!r}.")


def arrange(
    objects: Sequence[Object],
    size: Size,
    *,
    overlap: Overlap | None = None,
    under: NDArray[Any] | None = None,
    ignore_index: int = 255,
) -> Truth:
    """Objects -> segments, in the order of the objects, without those of which no pixel is left.

    A void object is drawn in its turn like any other: it makes unlabelled what lies below it.

    Args:
        objects: each on top of those before it. Those that have to be at the bottom under every rule come first: the void
            ones that cover nothing else, and crowds.
        overlap: the rule that makes one layer; None takes as many layers as keep all masks whole.
        under: (H, W) the classes below all objects, one segment each, where no object is.
        ignore_index: what `under` holds where it is unlabelled.
    """
    objects = [one for one in objects if rle.area(one.runs)]
    labels, crowds = [one.label for one in objects], [one.is_crowd for one in objects]
    if overlap is None:
        segments = pack_runs([one.runs for one in objects], size)
    else:
        segments = _one_layer(objects, size, overlap)
        labels, crowds = [*labels, VOID], [*crowds, False]  # the contested pixels
    if under is not None:
        segments, below = fill(segments, len(labels), under, ignore_index)
        labels, crowds = labels + below.tolist(), crowds + [False] * len(below)
    void = [row for row, label in enumerate(labels) if label == VOID]
    if void:
        segments, kept = _without(segments, void)
        labels, crowds = [labels[row] for row in kept], [crowds[row] for row in kept]
    return Truth(segments, np.array(labels, np.int64), np.array(crowds, np.bool_))


def _one_layer(objects: Sequence[Object], size: Size, overlap: Overlap) -> NDArray[Any]:
    """(1, H, W) ids; the number of objects + 1 where pixels are contested, by the rule "ignore"."""
    num_below = next((row for row, one in enumerate(objects) if not _is_below(one)), len(objects))
    order = list(range(len(objects)))
    if overlap == "smaller":
        order[num_below:] = sorted(order[num_below:], key=lambda row: -rle.area(objects[row].runs))
    flat = np.zeros(size[0] * size[1], segment_dtype(len(objects) + 1))  # column by column, as the runs are
    contested = []
    for row in order:
        pixels = rle.pixels(objects[row].runs)
        if overlap == "ignore" and row >= num_below:
            contested.append(pixels[flat[pixels] > num_below])
        flat[pixels] = row + 1
    for pixels in contested:
        flat[pixels] = len(objects) + 1
    return cv2.transpose(flat.reshape(size[::-1]))[None]


def _is_below(one: Object) -> bool:
    return one.is_crowd or one.label == VOID


def fill(
    segments: NDArray[Any], num_rows: int, under: NDArray[Any], ignore_index: int
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Puts classes below the segments, where no segment is.

    Args:
        segments: (L, H, W) ids of `num_rows` segments.
        under: (H, W) a class map.

    Returns:
        (L, H, W) with one segment more for each class that is seen, and the labels of these (M,).
    """
    free = np.maximum.reduce(segments, axis=0) == 0
    index = ValueIndex(np.where(free, under, np.array(ignore_index, under.dtype)))
    labels = index.values[index.values != ignore_index].astype(np.int64)
    rows = np.where(index.values == ignore_index, 0, np.searchsorted(labels, index.values) + num_rows + 1)
    filled = segments.astype(segment_dtype(num_rows + len(labels)))
    filled[0] += index.replace(rows.astype(filled.dtype))  # 0 wherever a segment is
    return filled, labels


def _without(segments: NDArray[Any], void: Sequence[int]) -> tuple[NDArray[Any], list[int]]:
    """Makes unlabelled what void rows cover, in their layer and all below; drops rows, and layers, without a pixel.

    Returns:
        (L, H, W) ids of the rows that are left, and which these are.
    """
    void_ids = np.array(void) + 1
    for layer in range(1, len(segments)):
        segments[:layer, np.isin(segments[layer], void_ids)] = 0
    indices = [ValueIndex(layer) for layer in segments]
    ids = np.setdiff1d(np.concatenate([index.values for index in indices]), [0, *void_ids])
    tables = [np.where(np.isin(i.values, ids), np.searchsorted(ids, i.values) + 1, 0) for i in indices]
    dtype = segment_dtype(len(ids))
    layers = [i.replace(t.astype(dtype)) for i, t in zip(indices, tables, strict=True) if t.any()]
    empty = np.zeros((1, *segments.shape[1:]), dtype)
    return np.stack(layers) if layers else empty, (ids - 1).tolist()
