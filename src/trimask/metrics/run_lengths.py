"""Masks on any device -> COCO's compressed run lengths, without a transposed copy of them.

A code tells the lengths of the runs of background and foreground that alternate column by column, beginning with
background. Each number is written in groups of five bits, lowest first, as characters from "0" on; bit 5 says that
more follow, the highest bit of the last group is the sign, and from the fourth number on it is the difference to the
last but one.

Source: the format of pycocotools 2.0.11 (common/maskApi.c). Deviations: own work on whole arrays. Only pixels that
differ from the one before them are looked at further, which takes half the time of `pycocotools.mask.encode` and
leaves to a GPU what has to see every pixel.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_CHUNK_ON_HOST, _CHUNK_ON_DEVICE = (
    1 << 20,
    1 << 26,
)  # pixels that are compared together; a CPU is faster within its caches
_MAX_GROUPS = 7  # of five bits: enough for pictures of 2^33 pixels

Places = NDArray[np.int64]  # row of the mask x pixels of a mask + pixels before it, column by column


class Codes(NamedTuple):
    """The codes of N masks.

    Attributes: text (S,) uint8: one code after the other; lengths (N,) int64: characters of each.
    """

    text: NDArray[np.uint8]
    lengths: NDArray[np.int64]


def encode_masks(masks: Tensor) -> Codes:
    """(N, H, W) bool -> their codes."""
    num_pixels = masks.shape[1] * masks.shape[2]
    on_host = masks.device.type == "cpu"
    chunk = max((_CHUNK_ON_HOST if on_host else _CHUNK_ON_DEVICE) // max(num_pixels, 1), 1)
    found = [np.zeros(0, np.int64)]
    for start in range(0, len(masks), chunk):
        part = masks[start : start + chunk]
        # numpy for the host: it looks for the few changes ten times as fast as torch.
        found.append(start * num_pixels + _changes(part.numpy() if on_host else part))
    return _write(np.sort(np.concatenate(found)), len(masks), num_pixels)


def encode_segments(segments: Tensor, keep: NDArray[np.bool_]) -> Codes:
    """(L, H, W) ids, 0 for none and k for segment k - 1 -> the codes of the segments to `keep` (N,), overlaps kept."""
    layers = segments.cpu().numpy()
    height, num_pixels = layers.shape[1], layers.shape[1] * layers.shape[2]
    layer, place = np.divmod(_changes(layers), max(num_pixels, 1))
    column, row = np.divmod(place, max(height, 1))
    last_column, last_row = np.divmod(np.maximum(place - 1, 0), max(height, 1))
    ids = np.append(0, np.cumsum(keep) * keep)  # of the kept segments, 0 for the others
    begins = ids[layers[layer, row, column]]
    ends = np.where(place > 0, ids[layers[layer, last_row, last_column]], 0)
    found = [(kept[kept > 0] - 1) * num_pixels + place[kept > 0] for kept in (begins, ends)]
    # A segment that goes on in another layer ends and begins at one place, where it does neither.
    places, times = np.unique(np.concatenate(found), return_counts=True)
    return _write(places[times == 1], int(keep.sum()), num_pixels)


def _changes(layers: Any) -> Places:
    """(N, H, W) array or tensor -> where a value differs from the one before it; before the first is 0. Not in order."""
    height, width = layers.shape[1:]
    if not height * width:
        return np.zeros(0, np.int64)
    inner = _where(layers[:, 1:] != layers[:, :-1])
    above, column = np.divmod(inner, width)
    mask, row = np.divmod(above, max(height - 1, 1))
    tops = _where(layers[:, 0, 1:] != layers[:, -1, :-1])
    top_mask, top_column = np.divmod(tops, max(width - 1, 1))
    first = _where(layers[:, 0, 0] != 0)
    num_pixels = height * width
    return np.concatenate(
        [
            mask * num_pixels + column * height + row + 1,
            top_mask * num_pixels + (top_column + 1) * height,
            first * num_pixels,
        ]
    )


def _where(changed: Any) -> NDArray[np.int64]:
    """Indices of what is true, in the array or tensor laid flat."""
    if isinstance(changed, Tensor):
        return torch.nonzero(changed.flatten())[:, 0].cpu().numpy()
    return np.flatnonzero(changed)


def _write(places: Places, num_masks: int, num_pixels: int) -> Codes:
    """The places where masks begin and end, in order -> codes."""
    first = np.searchsorted(places, np.arange(num_masks) * num_pixels)
    last = np.searchsorted(places, np.arange(1, num_masks + 1) * num_pixels)
    place = places % max(num_pixels, 1)
    runs = np.insert(place, last, num_pixels) - np.insert(place, first, 0)
    starts = first + np.arange(num_masks)  # of the runs of each mask, one more than its places
    numbers, index = runs.copy(), np.arange(len(runs)) - np.repeat(starts, last - first + 1)
    later = np.flatnonzero(index > 2)
    numbers[later] -= runs[later - 2]
    rest = numbers[:, None] >> 5 * np.arange(_MAX_GROUPS)  # what is left at each group of five bits
    groups = rest & 31
    done = rest >> 4 == np.where(groups & 16, -1, 0)  # the rest is nothing but sign
    num_groups = done.argmax(axis=1) + 1
    more = np.arange(_MAX_GROUPS) < num_groups[:, None] - 1
    kept = np.arange(_MAX_GROUPS) < num_groups[:, None]
    text = (groups + 32 * more + 48).astype(np.uint8)[kept]
    bounds = np.append(0, np.cumsum(num_groups))
    return Codes(text, bounds[last + np.arange(num_masks) + 1] - bounds[starts])
