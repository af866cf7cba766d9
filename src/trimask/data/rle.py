"""Run-length encoded masks: COCO's three ways to write one, as run lengths in memory.

`Runs` are the lengths of alternating runs of background and foreground, column by column (Fortran order), beginning with
background, whose first run may be 0. Files hold them as a list (uncompressed RLE), as a string (compressed RLE) or as
polygons.

Source: the formats and areas of pycocotools 2.0.11 (common/maskApi.c), which draws the polygons here, since its way of
drawing defines what a COCO polygon covers; all else is own work on whole arrays. Deviations: vertices far outside the
picture are refused, because the area that is walked grows with them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimask.types import Size

Runs = NDArray[np.int64]

MAX_OUTSIDE = 16  # vertices may lie so many picture sides off the picture


def from_mask(mask: NDArray[np.bool_]) -> Runs:
    """(H, W) -> runs."""
    flat = np.asarray(mask, np.bool_).ravel(order="F")
    return from_edges(np.flatnonzero(np.diff(flat, prepend=False, append=False)), flat.size)


def to_mask(runs: Runs, size: Size) -> NDArray[np.bool_]:
    """Runs -> (H, W): the inverse of `from_mask`."""
    inside = np.arange(len(runs)) % 2 == 1
    return np.repeat(inside, runs).reshape(size[::-1]).T


def from_edges(edges: NDArray[np.integer], num_pixels: int) -> Runs:
    """Alternating start and end of each foreground run, ascending; runs that touch become one."""
    joined = np.flatnonzero(edges[2::2] == edges[1:-1:2])
    edges = np.delete(edges, np.concatenate([2 * joined + 1, 2 * joined + 2]))
    runs = np.diff(np.concatenate([[0], edges, [num_pixels]]))
    return runs[:-1] if len(runs) > 1 and runs[-1] == 0 else runs


def pixels(runs: Runs) -> NDArray[np.int64]:
    """The foreground as indices into the picture read column by column, ascending."""
    starts, lengths = np.cumsum(runs)[:-1:2], runs[1::2]
    ends = np.cumsum(lengths)
    return np.repeat(starts - ends + lengths, lengths) + np.arange(ends[-1] if len(ends) else 0)


def area(runs: Runs) -> int:
    """Foreground pixels."""
    return int(runs[1::2].sum())


def box(runs: Runs, size: Size) -> tuple[int, int, int, int]:
    """xyxy, the right and lower edge one past the last pixel; all 0 for an empty mask."""
    starts = np.cumsum(runs)[:-1:2][runs[1::2] > 0]
    if not len(starts):
        return (0, 0, 0, 0)
    last = starts + runs[1::2][runs[1::2] > 0] - 1
    height = size[0]
    (x0, y0), (x1, y1) = np.divmod(starts, height), np.divmod(last, height)
    one_column = x0 == x1
    top = int(np.where(one_column, y0, 0).min())
    bottom = int(np.where(one_column, y1, height - 1).max())
    return int(x0.min()), top, int(x1.max()) + 1, bottom + 1


def from_string(text: str | bytes) -> Runs:
    """COCO's compressed counts -> runs.

    Each number is written in groups of five bits, lowest first, as characters from "0" on; bit 5 says that more follow,
    and the highest bit of the last group is the sign. From the fourth number on it is the difference to the last but one.

    Raises:
        ValueError: what is no such text.
    """
    data = text.encode() if isinstance(text, str) else text
    codes = np.frombuffer(data, np.uint8).astype(np.int64) - 48
    if not len(codes) or codes.min() < 0 or codes.max() > 63 or codes[-1] & 32:
        raise ValueError("its counts are no compressed run lengths")
    first = np.concatenate([[0], np.flatnonzero(codes & 32 == 0) + 1])
    place = np.arange(len(codes)) - np.repeat(first[:-1], np.diff(first))
    if place.max() > 11:
        raise ValueError("its counts are no compressed run lengths")
    numbers = np.add.reduceat((codes & 31) << (5 * place), first[:-1])
    bits = 5 * np.diff(first)
    numbers -= (numbers >> (bits - 1) & 1) << bits
    numbers[1::2] = np.cumsum(numbers[1::2])
    numbers[2::2] = np.cumsum(numbers[2::2])
    if numbers.min() < 0:
        raise ValueError("its counts are no compressed run lengths")
    return numbers


def to_string(runs: Runs) -> str:
    """Runs -> COCO's compressed counts: the inverse of `from_string`."""
    numbers = np.asarray(runs, np.int64).copy()
    numbers[3:] -= runs[1:-2]
    places = 5 * np.arange(13)
    rest = numbers[:, None] >> places  # what is left at each group of five bits
    groups = rest & 31
    done = rest >> 4 == np.where(groups & 16, -1, 0)  # the rest is nothing but sign
    count = done.argmax(axis=1) + 1
    more = np.arange(13) < count[:, None] - 1
    kept = np.arange(13) < count[:, None]
    return ((groups + 32 * more + 48).astype(np.uint8)[kept]).tobytes().decode("ascii")


def from_polygons(polygons: Sequence[Sequence[float]], size: Size) -> Runs:
    """Polygons [[x, y, x, y, ...], ...] -> the runs of their union, drawn as pycocotools draws them.

    Raises:
        ValueError: fewer than three vertices, an odd number of coordinates, or a vertex that is no number or lies far
            off the picture.
    """
    from pycocotools import mask as coco

    if not polygons:
        return np.array([size[0] * size[1]], np.int64)
    limit = MAX_OUTSIDE * max(size)
    for polygon in polygons:
        if len(polygon) % 2 or len(polygon) < 6:
            raise ValueError(f"a polygon has x and y of three vertices or more; this one has {len(polygon)} numbers")
        values = np.asarray(polygon, np.float64)
        if not np.isfinite(values).all() or np.abs(values).max() > limit:
            raise ValueError(f"a polygon has a vertex that is no number or lies more than {limit} pixels off")
    drawn = coco.frPyObjects([list(map(float, polygon)) for polygon in polygons], size[0], size[1])
    return from_string((coco.merge(drawn) if len(drawn) > 1 else drawn[0])["counts"])


def from_coco(segmentation: Any, size: Size) -> Runs:
    """The `segmentation` of a COCO annotation in any of its three forms -> runs.

    Raises:
        ValueError: another form, another size, or runs that do not fill the picture; without a file name.
    """
    if isinstance(segmentation, Mapping):
        if "counts" not in segmentation:
            raise ValueError("a run-length encoding has `size` and `counts`")
        given = segmentation.get("size")
        if given is None or [int(side) for side in given] != list(size):
            raise ValueError(f"its run lengths are of the size {given}, the picture is {list(size)} (height, width)")
        counts = segmentation["counts"]
        runs = from_string(counts) if isinstance(counts, str | bytes) else np.asarray(counts, np.int64)
        num_pixels = size[0] * size[1]  # no run is longer: sums of huge ones would wrap around to any number
        if (
            runs.ndim != 1
            or (len(runs) and not 0 <= runs.min() <= runs.max() <= num_pixels)
            or runs.sum() != num_pixels
        ):
            raise ValueError(f"its runs add up to {sum(runs.ravel().tolist())} pixels, the picture has {num_pixels}")
        return runs
    if isinstance(segmentation, Sequence) and not isinstance(segmentation, str | bytes):
        if segmentation and not isinstance(segmentation[0], Sequence | np.ndarray):
            segmentation = [segmentation]  # one polygon that is not in a list, as some tools write it
        return from_polygons(segmentation, size)
    raise ValueError(f"a segmentation is polygons or run lengths; this one is a {type(segmentation).__name__}")


def to_coco(runs: Runs, size: Size) -> dict[str, Any]:
    """Runs -> {"size": [h, w], "counts": compressed text}: what goes into JSON and to COCO's tools."""
    return {"size": [int(size[0]), int(size[1])], "counts": to_string(runs)}
