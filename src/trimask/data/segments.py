"""Layered id maps: the whole truth of a picture in a few small integer layers.

A segment map is (L, H, W): 0 is unlabelled and k is row k-1 of the labels. The segments of one layer are disjoint, a
higher layer lies on top. A crowded picture then costs one or two layers in a geometric transform instead of one mask an
object, and overlapping annotations are kept exactly. Own work; `pack` and `unpack` are inverses.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import DTypeLike, NDArray


def segment_dtype(num_segments: int) -> DTypeLike:
    """The smallest of uint8, int16 and int32 (what OpenCV can warp or torch can hold) for ids 0..num_segments."""
    if num_segments <= np.iinfo(np.uint8).max:
        return np.uint8
    return np.int16 if num_segments <= np.iinfo(np.int16).max else np.int32


def pack(masks: NDArray[np.bool_]) -> NDArray[Any]:
    """(N, H, W) masks, the last on top -> (L, H, W) ids 1..N in the fewest layers (at least one) that keep the order.

    Each mask takes the lowest layer above every earlier mask that it overlaps.
    """
    if masks.ndim != 3 or masks.dtype != np.bool_:
        raise ValueError(f"`masks` must be a boolean (N, H, W) array; got {masks.dtype} {masks.shape}.")
    dtype = segment_dtype(len(masks))
    layers = [np.zeros(masks.shape[1:], dtype)]
    depth = np.zeros(masks.shape[1:], np.int32)  # the lowest layer that is free from here upward, at each pixel
    for segment_id, mask in enumerate(masks, start=1):
        layer = int(depth.max(where=mask, initial=0))
        if layer == len(layers):
            layers.append(np.zeros(masks.shape[1:], dtype))
        layers[layer][mask] = segment_id
        depth[mask] = layer + 1
    return np.stack(layers)


def unpack(segments: NDArray[Any], num_segments: int) -> NDArray[np.bool_]:
    """(L, H, W) ids -> (N, H, W) masks, overlaps kept: the inverse of `pack`."""
    masks = np.zeros((num_segments, *segments.shape[1:]), np.bool_)
    ids = np.arange(1, num_segments + 1).astype(segments.dtype)[:, None, None]
    for layer in segments:
        masks |= layer == ids
    return masks


def from_ids(id_map: NDArray[Any], unlabelled: int) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """An instance or panoptic id picture of arbitrary integers -> compact segments.

    Args:
        id_map: (H, W) integers of any range.
        unlabelled: the id that belongs to no segment.

    Returns:
        segments (1, H, W), and ids (N,): the original id of each row, ascending.
    """
    if id_map.dtype == np.uint8:
        present = np.flatnonzero(cv2.calcHist([id_map], [0], None, [256], [0, 256]))
    else:
        present = np.unique(id_map)
    ids = present[present != unlabelled].astype(np.int64)
    rows = np.where(present == unlabelled, 0, np.searchsorted(ids, present) + 1).astype(segment_dtype(len(ids)))
    if id_map.dtype == np.uint8:
        table = np.zeros(256, rows.dtype)
        table[present] = rows
        segments = cv2.LUT(id_map, table)
    else:
        segments = rows[np.searchsorted(present, id_map)]
    return segments[None], ids


def from_semantic(label_map: NDArray[Any], ignore_index: int) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """(H, W) class map -> segments (1, H, W) and labels (N,): one segment for each class that is in the picture."""
    return from_ids(label_map, unlabelled=ignore_index)
