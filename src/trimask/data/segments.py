"""Layered id maps: the whole truth of a picture in a few small integer layers.

A segment map is (L, H, W): 0 is unlabelled and k is row k-1 of the labels. The segments of one layer are disjoint, a
higher layer lies on top. A crowded picture then costs one or two layers in a geometric transform instead of one mask an
object, and overlapping annotations are kept exactly. Own work.

Pairs of inverses: `pack` and `unpack` (masks), `pack_runs` and `unpack_runs` (run lengths, see `rle`), `color_ids` and
`color_of_ids` (RRGGBB), `panoptic_ids` and `panoptic_picture` (COCO's panoptic PNG), `bitmask_fields` and
`bitmask_picture` (BDD100K's RGBA).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
from albucore import sz_lut
from numpy.typing import DTypeLike, NDArray

from trimask.data import rle
from trimask.types import Size


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


def pack_runs(runs: Sequence[rle.Runs], size: Size) -> NDArray[Any]:
    """`pack` of run-length encoded masks, the last on top, at a cost that follows their area and not N x H x W."""
    height, width = size
    dtype = segment_dtype(len(runs))
    layers = [np.zeros(height * width, dtype)]  # column by column, as the runs are
    depth = np.zeros(height * width, np.int16)
    for segment_id, one in enumerate(runs, start=1):
        pixels = rle.pixels(one)
        if not len(pixels):
            continue
        layer = int(depth[pixels].max())
        if layer == len(layers):
            layers.append(np.zeros(height * width, dtype))
        layers[layer][pixels] = segment_id
        depth[pixels] = layer + 1
    return np.stack([cv2.transpose(layer.reshape(width, height)) for layer in layers])


def unpack_runs(segments: NDArray[Any], num_segments: int) -> list[rle.Runs]:
    """(L, H, W) ids -> the run lengths of each segment: the inverse of `pack_runs`."""
    found: list[rle.Runs] = [np.array([segments[0].size], np.int64)] * num_segments
    for layer in segments:
        flat = layer.ravel(order="F")
        starts = np.flatnonzero(np.diff(flat, prepend=flat[:1] + 1)) if flat.size else np.zeros(0, np.int64)
        ids, ends = flat[starts], np.append(starts[1:], flat.size)
        order = np.argsort(ids, kind="stable")
        bounds = np.searchsorted(ids[order], np.arange(1, num_segments + 2))
        for row in range(num_segments):
            mine = order[bounds[row] : bounds[row + 1]]
            if len(mine):
                edges = np.stack([starts[mine], ends[mine]], axis=1).ravel()
                found[row] = rle.from_edges(edges, flat.size)
    return found


class ValueIndex:
    """The distinct values of an integer picture, and the picture with other values in their place.

    Runs of equal pixels are looked up once, which makes id pictures a matter of a millisecond whatever their range.

    Attributes:
        raw: (H, W) the picture.
        values: (V,) the distinct values, ascending.
    """

    def __init__(self, raw: NDArray[Any]) -> None:
        self.raw = raw
        if raw.dtype == np.uint8:
            self.values = distinct_bytes(raw)
        else:
            flat = raw.ravel()
            changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
            self._starts = np.concatenate([np.zeros(min(1, flat.size), np.int64), changes])
            self.values, self._rows = np.unique(flat[self._starts], return_inverse=True)

    def replace(self, new: NDArray[Any]) -> NDArray[Any]:
        """(V,) what stands for each of `values` -> (H, W) of its type."""
        if self.raw.dtype == np.uint8:
            table = np.zeros(256, new.dtype)
            table[self.values] = new
            return _look_up(self.raw, table)
        lengths = np.diff(self._starts, append=self.raw.size)
        return np.repeat(new[self._rows], lengths).reshape(self.raw.shape)


def distinct_bytes(array: NDArray[np.uint8]) -> NDArray[np.intp]:
    """(V,) the distinct values, ascending. Eight bytes that repeat the eight before them are not looked at, which makes pictures
    of large regions a matter of a few microseconds."""
    flat = np.ascontiguousarray(array).reshape(-1)
    words, rest = flat[: flat.size // 8 * 8].view(np.uint64), flat[flat.size // 8 * 8 :]
    new = np.flatnonzero(words[1:] != words[:-1]) + 1
    looked_at = np.concatenate([words[:1].view(np.uint8), words[new].view(np.uint8), rest])
    return np.flatnonzero(cv2.calcHist([looked_at], [0], None, [256], [0, 256])) if flat.size else np.zeros(0, np.intp)


def renumber(segments: NDArray[Any], ids: NDArray[Any]) -> NDArray[Any]:
    """(L, H, W) with each id replaced by what `ids` (N + 1,) has for it, in the type of `ids`."""
    if segments.dtype != np.uint8 or not segments.size:
        return ids[segments]
    table = np.zeros(256, ids.dtype)
    table[: len(ids)] = ids
    return _look_up(segments, table)


def _look_up(array: NDArray[np.uint8], table: NDArray[Any]) -> NDArray[Any]:
    """`table` (256,) of each value; from bytes to bytes in a seventh of the time of cv2.LUT."""
    array = np.ascontiguousarray(array)
    if table.dtype == np.uint8:
        return sz_lut(array, table, inplace=False)
    if table.dtype in (np.int16, np.int32):  # OpenCV knows no others
        return cv2.LUT(array.reshape(-1, array.shape[-1]), table).reshape(array.shape)
    return table[array]


def from_ids(id_map: NDArray[Any], unlabelled: int) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """An instance or panoptic id picture of arbitrary integers -> compact segments.

    Args:
        id_map: (H, W) integers of any range.
        unlabelled: the id that belongs to no segment.

    Returns:
        segments (1, H, W), and ids (N,): the original id of each row, ascending.
    """
    index = ValueIndex(id_map)
    ids = index.values[index.values != unlabelled].astype(np.int64)
    rows = np.where(index.values == unlabelled, 0, np.searchsorted(ids, index.values) + 1)
    return index.replace(rows.astype(segment_dtype(len(ids))))[None], ids


def from_semantic(label_map: NDArray[Any], ignore_index: int) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """(H, W) class map -> segments (1, H, W) and labels (N,): one segment for each class that is in the picture."""
    return from_ids(label_map, unlabelled=ignore_index)


# --- id pictures that are stored as colors ---


def color_ids(picture: NDArray[np.uint8]) -> NDArray[np.int32]:
    """(H, W, 3 or 4) RGB(A) -> (H, W) the number that its color is in hexadecimal: R << 16 | G << 8 | B."""
    code = cv2.COLOR_RGB2BGRA if picture.shape[2] == 3 else cv2.COLOR_RGBA2BGRA
    return _three_bytes(cv2.cvtColor(np.ascontiguousarray(picture), code))


def color_of_ids(ids: NDArray[Any]) -> NDArray[np.uint8]:
    """(H, W) numbers below 2**24 -> (H, W, 3): the inverse of `color_ids`."""
    return panoptic_picture(ids)[..., ::-1]


def panoptic_ids(picture: NDArray[np.uint8]) -> NDArray[np.int32]:
    """(H, W, 3 or 4) a panoptic PNG of COCO's format -> (H, W) ids R + 256 G + 65536 B."""
    has_alpha = picture.shape[2] == 4
    return _three_bytes(picture if has_alpha else cv2.cvtColor(np.ascontiguousarray(picture), cv2.COLOR_RGB2RGBA))


def panoptic_picture(ids: NDArray[Any]) -> NDArray[np.uint8]:
    """(H, W) ids -> (H, W, 3) the panoptic PNG: the inverse of `panoptic_ids`.

    Raises:
        ValueError: an id below 0 or from 2**24 on has no color.
    """
    if ids.size and not 0 <= ids.min() <= ids.max() < 1 << 24:
        raise ValueError(f"Three bytes hold ids 0..{(1 << 24) - 1}; got {ids.min()}..{ids.max()}.")
    return np.ascontiguousarray(ids, dtype="<u4").view(np.uint8).reshape(*ids.shape, 4)[..., :3]


def _three_bytes(four_channels: NDArray[Any]) -> NDArray[np.int32]:
    """The first three channels of each pixel as one number, the first the lowest byte."""
    pixels = np.ascontiguousarray(four_channels).view("<i4")[..., 0]
    return pixels & 0xFFFFFF


class Bitmask(NamedTuple):
    """What the four channels of a BDD100K bitmask say, (H, W) each.

    Attributes:
        category: R, the number of the category; 0 where nothing is annotated.
        flags: G; bit 0 "ignored", 1 "crowd", 2 "occluded", 3 "truncated", counted from the lowest.
        instance: (B << 8) + A, unique within a picture.
    """

    category: NDArray[np.uint8]
    flags: NDArray[np.uint8]
    instance: NDArray[np.int32]


def bitmask_fields(picture: NDArray[np.uint8]) -> Bitmask:
    """(H, W, 4) a BDD100K bitmask -> its fields.

    Raises:
        ValueError: a picture without four channels: whoever read it as RGB has lost the instances.
    """
    if picture.ndim != 3 or picture.shape[2] != 4:
        raise ValueError(f"A bitmask has the four channels RGBA; got an array of the shape {picture.shape}.")
    instance = picture[..., 2].astype(np.int32) << 8 | picture[..., 3]
    return Bitmask(picture[..., 0], picture[..., 1], instance)


def bitmask_picture(fields: Bitmask) -> NDArray[np.uint8]:
    """The inverse of `bitmask_fields`: (H, W, 4)."""
    high, low = fields.instance >> 8, fields.instance & 0xFF
    return np.stack([fields.category, fields.flags, high.astype(np.uint8), low.astype(np.uint8)], axis=-1)
