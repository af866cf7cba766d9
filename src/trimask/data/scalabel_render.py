"""Scalabel's labels -> pixels, as the official renderer draws them, without matplotlib.

Source: the format of https://doc.scalabel.ai/format.html, and what scalabel/label/transforms.py (`poly_to_patch`) and
bdd100k/label/to_mask.py ask matplotlib for: a filled path without outline, not anti-aliased, snapped to whole pixels.
What matplotlib's Agg backend makes of it was found out by comparing with it:

- every vertex, control points included, moves to the nearest corner of a pixel (half a pixel goes right and down);
- a cubic Bezier curve is halved until its control points lie less than half a pixel off its chord, and each part is
  drawn through the middle between its two control points;
- positions are whole numbers of 1/256 pixel, and so are the places where an edge crosses rows and columns (rounded down),
  as in Anti-Grain Geometry 2.4 (M. Shemanarev, after FreeType's rasterizer);
- a pixel is taken as soon as 1/256 of it is covered, not from its center on, so that areas are up to a pixel wider than
  with other renderers. Parts that wind against each other cancel (non-zero rule);
- a later label lies on top of an earlier one, and what it hides is gone.

Own code: exact sums over all cells at once instead of a walk along each edge. Equal in every pixel to the masks of the
BDD100K toolkit's own tests and to matplotlib 3.11. Deviations: a coordinate of exactly half a pixel is rounded up, where
matplotlib rounds as the size of its canvas in inches happens to allow; an outline that ends in the middle of a curve is
refused, and so is a vertex far off the picture.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import DTypeLike, NDArray

from trimask.data import rle
from trimask.types import Size

FLATNESS = 0.5  # pixels that control points may lie off the chord, together
_MAX_HALVINGS = 32
_SUBPIXELS = 256  # positions along the side of a pixel

Points = NDArray[np.float64]
Point = tuple[float, float]


class Canvas:
    """An id picture that labels are drawn into, one after the other.

    Args:
        size: of the picture.
        fill: what stands where nothing is drawn.
        dtype: uint8, int16 or int32.
    """

    def __init__(self, size: Size, *, fill: int, dtype: DTypeLike) -> None:
        self.size = size
        self._columns = np.full(size[::-1], fill, dtype)  # column by column, as run lengths are

    @property
    def ids(self) -> NDArray[Any]:
        """(H, W)."""
        return cv2.transpose(self._columns)

    def draw(self, label: Mapping[str, Any], value: int, *, lines_too: bool) -> None:
        """Draws the area of a Scalabel label: its `rle`, or else its `poly2d`.

        Args:
            value: the id of its pixels.
            lines_too: whether polygons that are not closed are areas as well, and not lines, which have none.

        Raises:
            ValueError: run lengths or a polygon that cannot be drawn; without a file name.
        """
        if label.get("rle") is not None:
            flat = self._columns.reshape(-1)
            ends = np.cumsum(rle.from_coco(label["rle"], self.size))
            for start, end in zip(ends[:-1:2].tolist(), ends[1::2].tolist(), strict=True):
                flat[start:end] = value
            return
        picture, width = self._columns.T, self.size[1]
        for polygon in areas(label, lines_too=lines_too):
            for start, end in area_spans(polygon, self.size).tolist():
                row, column = divmod(start, width)
                picture[row, column : column + end - start] = value


def areas(label: Mapping[str, Any], *, lines_too: bool) -> list[Any]:
    """The polygons of a label that enclose an area."""
    polygons = label.get("poly2d") or []
    if not isinstance(polygons, list):
        raise ValueError("`poly2d` is a list of polygons")
    return [one for one in polygons if lines_too or not isinstance(one, Mapping) or one.get("closed", True)]


def has_area(label: Mapping[str, Any], *, lines_too: bool) -> bool:
    """Whether a label has run lengths or a polygon that encloses an area; boxes, lines and tags have none."""
    return label.get("rle") is not None or bool(areas(label, lines_too=lines_too))


def area_spans(polygon: Any, size: Size) -> NDArray[np.int64]:
    """The pixels that a `poly2d` polygon covers, as if closed, inside a picture of `size`.

    Args: polygon: {"vertices": [[x, y], ...], "types": "LLCC..."}; "C" is a control point, "L" or no `types` a vertex.

    Returns:
        (S, 2): first and one past the last pixel of each span, counted along the rows of the picture, ascending. A
            span lies in one row.

    Raises:
        ValueError: the polygon is not of that form, or as the head of this file says; without a file name.
    """
    vertices, is_control = _parse(polygon, size)
    if len(vertices) < 3:
        return np.zeros((0, 2), np.int64)
    ring = np.array(list(_flattened(np.floor(vertices + 0.5), is_control)))
    return _spans(_fixed(_clipped(ring, size)), size)


def _parse(polygon: Any, size: Size) -> tuple[Points, list[bool]]:
    """(P, 2) vertices x, y and whether each is a control point."""
    if not isinstance(polygon, Mapping) or not isinstance(polygon.get("vertices"), list):
        raise ValueError("an element of `poly2d` is an object with `vertices`")
    try:
        vertices = np.asarray(polygon["vertices"], np.float64).reshape(len(polygon["vertices"]), 2)
    except (TypeError, ValueError) as error:
        raise ValueError("`vertices` is a list of [x, y]") from error
    limit = rle.MAX_OUTSIDE * max(size)
    if not (np.abs(vertices) <= limit).all():  # nan is refused as well
        raise ValueError(f"a vertex is no number or lies more than {limit} pixels off the picture")
    types = polygon.get("types") or "L" * len(vertices)
    if not isinstance(types, str) or len(types) != len(vertices) or set(types) - {"L", "C"}:
        raise ValueError(f"`types` has one letter, L or C, for each of {len(vertices)} vertices; it is {types!r}")
    return vertices, [letter == "C" for letter in types]


def _flattened(vertices: Points, is_control: Sequence[bool]) -> Iterator[Point]:
    """The corners of the closed outline. Two control points and whatever comes after them make a curve."""
    count = len(vertices)
    points: list[Point] = [(x, y) for x, y in vertices.tolist()]
    points.append(points[0])
    yield points[0]
    position = 1  # the first vertex starts the path, whatever its type
    while position <= count:
        if position < count and is_control[position]:
            if position + 2 > count:
                raise ValueError("the outline ends in the middle of a curve: a single control point is left")
            yield from _curve((points[position - 1], *points[position : position + 3]), 0)
            position += 2
        yield points[position]
        position += 1


def _curve(controls: Sequence[Point], depth: int = 0) -> Iterator[Point]:
    """The points between the ends of a cubic Bezier curve (start, two control points, end) that stand for it."""
    start, first, second, end = controls
    x, y = end[0] - start[0], end[1] - start[1]
    off = abs((first[0] - end[0]) * y - (first[1] - end[1]) * x) + abs(
        (second[0] - end[0]) * y - (second[1] - end[1]) * x
    )
    middle = _half(first, second)
    chord = x * x + y * y
    if (chord > 0 and off * off <= FLATNESS * FLATNESS * chord) or depth == _MAX_HALVINGS or len(set(controls)) == 1:
        yield middle
        return
    left, right = _half(start, first), _half(second, end)
    before, after = _half(left, middle), _half(middle, right)
    center = _half(before, after)
    yield from _curve((start, left, before, center), depth + 1)
    yield from _curve((center, after, right, end), depth + 1)


def _half(one: Point, other: Point) -> Point:
    return (one[0] + other[0]) / 2, (one[1] + other[1]) / 2


def _clipped(ring: Points, size: Size) -> Points:
    """A closed ring with everything outside the picture moved to its border, which leaves the inside as it was."""
    corner = np.array(size[::-1], np.float64)
    if ring.min() >= 0 and (ring <= corner).all():
        return ring
    start, step = ring[:-1], np.diff(ring, axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        crossings = np.concatenate([(0 - start) / step, (corner - start) / step], axis=1)
    crossings = np.where((crossings > 0) & (crossings < 1), crossings, 0)
    along = np.sort(np.concatenate([np.zeros((len(start), 1)), crossings], axis=1), axis=1)
    points = start[:, None] + along[..., None] * step[:, None]
    return np.clip(np.concatenate([points.reshape(-1, 2), ring[-1:]]), 0, corner)


def _fixed(ring: Points) -> NDArray[np.int64]:
    """In whole numbers of 1/256 pixel."""
    return np.floor(ring * _SUBPIXELS + 0.5).astype(np.int64)


def _spans(ring: NDArray[np.int64], size: Size) -> NDArray[np.int64]:
    """The spans of a closed ring (P, 2) inside the picture.

    Each cell (pixel) on the outline knows its cover, the signed height of the edges in it, and twice the area to the left
    of them. Summed along a row, the cover tells how much of the pixels further right is inside.
    """
    width = size[1]
    row, column, cover, left = _cells(ring)
    cells, number = np.unique(row * (width + 1) + column, return_inverse=True)
    cover = np.bincount(number, cover, len(cells)).astype(np.int64).cumsum()
    left = np.bincount(number, left, len(cells)).astype(np.int64)
    row, column = np.divmod(cells, width + 1)  # column `width` holds edges on the right border
    place = row * width + column
    on_edge = ((2 * _SUBPIXELS * cover - left) // (2 * _SUBPIXELS) != 0) & (column < width)
    beyond = cover != 0
    starts = np.where(on_edge, place, place + 1)
    ends = np.where(beyond, np.append(place[1:], place[-1:]), place + 1)
    taken = (on_edge | beyond) & (ends > starts)
    return _joined(starts[taken], ends[taken], width)


def _joined(starts: NDArray[np.int64], ends: NDArray[np.int64], width: int) -> NDArray[np.int64]:
    """Spans that touch in a row become one."""
    if not len(starts):
        return np.zeros((0, 2), np.int64)
    apart = (starts[1:] != ends[:-1]) | (starts[1:] % width == 0)
    return np.stack([starts[np.append(True, apart)], ends[np.append(apart, True)]], axis=1)


def _cells(ring: NDArray[np.int64]) -> tuple[NDArray[np.int64], ...]:
    """Every edge, cut at the borders of pixels -> row, column, cover and twice the area to its left of each piece."""
    x, y = ring.T
    _, row, y, next_y, x, next_x = _cut(y[:-1], y[1:], x[:-1], x[1:])
    edge, column, x, next_x, y, next_y = _cut(x, next_x, y, next_y)
    cover = next_y - y
    return row[edge], column, cover, (x + next_x - 2 * _SUBPIXELS * column) * cover


def _cut(
    start: NDArray[np.int64], end: NDArray[np.int64], other_start: NDArray[np.int64], other_end: NDArray[np.int64]
) -> tuple[NDArray[np.int64], ...]:
    """Edges cut wherever a coordinate crosses a border between pixels.

    Args: start, end: (E,) the coordinate; other_start, other_end: (E,) the other coordinate.

    Returns:
        for each piece the number of its edge, its pixel, the coordinate where it starts and ends, and the other one.
    """
    first, last = start // _SUBPIXELS, end // _SUBPIXELS
    direction = np.sign(last - first)
    count = np.abs(last - first) + 1
    edge = np.repeat(np.arange(len(start)), count)
    number = np.arange(len(edge)) - np.repeat(np.cumsum(count) - count, count)
    pixel = first[edge] + direction[edge] * number
    is_last = number == count[edge] - 1
    enters = np.where(number == 0, start[edge], (pixel + (direction[edge] < 0)) * _SUBPIXELS)
    leaves = np.where(is_last, end[edge], (pixel + (direction[edge] > 0)) * _SUBPIXELS)
    length, step = np.maximum(np.abs(end - start), 1)[edge], (other_end - other_start)[edge]
    other_enters = other_start[edge] + step * np.abs(enters - start[edge]) // length
    other_leaves = other_start[edge] + step * np.abs(leaves - start[edge]) // length
    return edge, pixel, enters, leaves, other_enters, np.where(is_last, other_end[edge], other_leaves)
