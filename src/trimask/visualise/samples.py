"""The truth of a sample, drawn: segments of any kind over their picture.

| what                        | how it is drawn                                                        |
|-----------------------------|------------------------------------------------------------------------|
| a class                     | its color                                                              |
| further instances of it     | shades of that color, each with an outline and the class's name        |
| a crowd                     | hatched in stripes                                                     |
| unlabelled, and the padding | a fine grey hatch over the bare picture                                |
| overlaps                    | the higher layer is filled, the outlines of all layers are seen        |

A drawing is three pictures on top of each other, so that a page can fade the color and switch off the lines. Pure functions,
own work.
"""

from __future__ import annotations

import colorsys
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from trimask.types import ClassSpec, Sample
from trimask.visualise.draw import FONT_SIZE, GAP, INK, LINE, PAPER, UNLABELLED, Picture, rgb

Transparent = NDArray[np.uint8]  # (h, w, 4) RGBA
_Box = tuple[float, float, float, float]  # left, top, right, bottom
_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
_MAX_NAMES = 40  # in one picture; more are noise
_NAME_SIZE, _SMALL_NAME = 18, 0.65  # pixels in pictures of up to 900; of that, where there is less room
_PALE = (205, 205, 205)
_HATCH, _CROWD_HATCH = 16, 12  # pixels from stripe to stripe


class Drawing(NamedTuple):
    """A sample at the size at which it is shown, from the bottom to the top.

    Attributes:
        image: (h, w, 3) the picture.
        fill: (h, w, 4) the color of each labelled pixel, opaque; nothing elsewhere.
        lines: (h, w, 4) outlines, hatches and names.
    """

    image: Picture
    fill: Transparent
    lines: Transparent


class Content(NamedTuple):
    """How many segments of a class there are. `dropped` have no pixel left, as after a crop."""

    label: int
    visible: int
    dropped: int


def draw(
    sample: Sample,
    classes: ClassSpec,
    *,
    instances: bool = True,
    names: Sequence[str] | None = None,
    hatch_unlabelled: bool = True,
    side: int = 640,
) -> Drawing:
    """The picture and its truth with the longer side at most `side` pixels; smaller pictures grow by a whole factor.

    Args:
        instances: whether segments of things are single objects, which get shades, outlines and names.
        names: (N,) what is written on the segments; by default on those of things, the names of their classes.
        hatch_unlabelled: whether what is in no segment is seen to be so.
    """
    image, layers = _shown(sample, side)
    colors = segment_colors(sample, classes)
    top = _top(layers)
    fill = np.zeros((*top.shape, 4), np.uint8)
    fill[..., :3] = np.concatenate([[[0, 0, 0]], colors])[top]
    fill[..., 3] = np.where(top > 0, 255, 0)
    lines = np.zeros_like(fill)
    if hatch_unlabelled:
        _hatch(lines, top == 0, _PALE, 110, period=_HATCH, rising=False, width=2)
    crowds = np.flatnonzero(sample.is_crowd) + 1
    _hatch(lines, np.isin(top, crowds), INK, 190, period=_CROWD_HATCH, rising=True, width=3)
    if instances:
        things = [row for row, label in enumerate(sample.labels) if int(label) in classes.things]
        _outline(lines, layers, things, colors)
        named = things if names is None else range(len(sample.labels))
        lines = _named(lines, layers, named, names or [classes.names[label] for label in sample.labels])
    return Drawing(image, fill, lines)


def flat(drawing: Drawing, *, alpha: float = 0.5) -> Picture:
    """(h, w, 3) the three as one picture; `alpha` is the opacity of the fill, 0..1."""
    filled = _over(drawing.image, drawing.fill, alpha)
    return _over(filled, drawing.lines, 1.0)


def contents(sample: Sample) -> list[Content]:
    """What is in the sample, by class, in label order."""
    visible = sample.areas() > 0
    all_labels = Counter(sample.labels.tolist())
    seen = Counter(sample.labels[visible].tolist())
    return [Content(label, seen[label], count - seen[label]) for label, count in sorted(all_labels.items())]


def unlabelled_share(sample: Sample) -> float:
    """The share of pixels in no segment, 0..1."""
    return float((sample.segments == 0).all(axis=0).mean())


def segment_colors(sample: Sample, classes: ClassSpec) -> NDArray[np.uint8]:
    """(N, 3) the color of each segment: of its class for the first, shades of it for further ones."""
    seen: Counter[int] = Counter()
    rows = np.zeros((len(sample.labels), 3), np.uint8)
    for row, label in enumerate(sample.labels.tolist()):
        rows[row] = _shade(classes.colors[label], seen[label])
        seen[label] += 1
    return rows


def panel(
    tiles: Sequence[tuple[str, Drawing]],
    legend: Sequence[Content],
    classes: ClassSpec,
    *,
    title: str = "",
    unlabelled: bool = True,
) -> Picture:
    """Drawings side by side under their captions, over the classes with their numbers of segments.

    Args:
        tiles: (caption, drawing), at least one.
        legend: what the first one holds.
        title: a line above.
        unlabelled: whether the legend has an entry for it.
    """
    height = max(drawing.image.shape[0] for _, drawing in tiles)
    width = sum(drawing.image.shape[1] + GAP for _, drawing in tiles) - GAP
    names = [
        (f"{classes.names[content.label]} {content.visible}", tuple(classes.colors[content.label].tolist()))
        for content in legend
    ]
    places = _places([*names, *([("unlabelled", UNLABELLED)] if unlabelled else [])], width)
    above = 2 * LINE if title else LINE
    below = places[-1][2] + LINE + GAP if places else 0
    canvas = np.full((above + height + below, width, 3), PAPER, np.uint8)
    texts, left = [(title, (4, 2))], 0
    for caption, drawing in tiles:
        tile = flat(drawing)
        canvas[above : above + tile.shape[0], left : left + tile.shape[1]] = tile
        texts.append((_cut(caption, tile.shape[1] - 8), (left + 4, above - LINE + 2)))
        left += tile.shape[1] + GAP
    for (name, color), x, y in places:
        top = above + height + GAP + y
        canvas[top + 3 : top + 15, x : x + 12] = color
        texts.append((name, (x + LINE - 2, top)))
    return _written(canvas, texts)


def _shown(sample: Sample, side: int) -> tuple[Picture, NDArray[Any]]:
    image, (height, width) = rgb(sample.image), sample.size
    factor = side / max(height, width)
    if factor >= 1:
        factor = float(int(factor))
    new_height, new_width = max(round(height * factor), 1), max(round(width * factor), 1)
    rows = ((np.arange(new_height) + 0.5) * height / new_height).astype(int)
    columns = ((np.arange(new_width) + 0.5) * width / new_width).astype(int)
    if factor < 1:
        image = np.asarray(cv2.resize(image, (new_width, new_height), interpolation=cv2.INTER_AREA), np.uint8)
    else:
        image = image[rows][:, columns]
    return image, sample.segments[:, rows][:, :, columns]


def _top(layers: NDArray[Any]) -> NDArray[Any]:
    """(L, h, w) -> (h, w): the id of the highest layer that has one."""
    top = layers[0].copy()
    for layer in layers[1:]:
        np.copyto(top, layer, where=layer > 0)
    return top


def _shade(color: NDArray[np.uint8], number: int) -> tuple[int, ...]:
    """The color itself for number 0, then others of nearly its hue that lie far from each other."""
    if number == 0:
        return tuple(color.tolist())
    hue, saturation, value = colorsys.rgb_to_hsv(*(color / 255))
    turn, weight = (
        (number * 0.61803398875) % 1.0,
        (number * 0.7548776662) % 1.0,
    )  # golden and plastic ratio: evenly spread
    changed = colorsys.hsv_to_rgb(
        (hue + 0.1 * (turn - 0.5)) % 1, saturation * (0.45 + 0.55 * turn), 0.45 + 0.55 * weight
    )
    return tuple(round(channel * 255) for channel in (changed if value > 0 else (weight, weight, weight)))


def _hatch(
    lines: Transparent,
    where: NDArray[np.bool_],
    color: tuple[int, int, int],
    opacity: int,
    *,
    period: int,
    rising: bool,
    width: int,
) -> None:
    """Diagonal stripes over a region, in place."""
    if not where.any():
        return
    y, x = np.ogrid[: where.shape[0], : where.shape[1]]
    stripes = (x + y if rising else x - y) % period < width
    lines[where & stripes] = (*color, opacity)


def _outline(lines: Transparent, layers: NDArray[Any], rows: Sequence[int], colors: NDArray[np.uint8]) -> None:
    """The inner edge of segments, two pixels wide, in a bright tone of their color; in place."""
    bright = np.concatenate([[[0, 0, 0]], (colors.astype(int) + 2 * 255) // 3]).astype(np.uint8)
    ids = np.array(rows) + 1
    for layer in layers:
        edge = np.zeros(layer.shape, bool)
        vertical, horizontal = layer[1:] != layer[:-1], layer[:, 1:] != layer[:, :-1]
        edge[1:] |= vertical
        edge[:-1] |= vertical
        edge[:, 1:] |= horizontal
        edge[:, :-1] |= horizontal
        edge &= np.isin(layer, ids)
        lines[edge, :3], lines[edge, 3] = bright[layer[edge]], 255


def _named(lines: Transparent, layers: NDArray[Any], rows: Sequence[int], names: Sequence[str]) -> Transparent:
    """With the name of each segment on its thickest place, the largest first, where there is room."""
    areas = np.bincount(layers.ravel(), minlength=max(rows, default=0) + 2)
    largest = sorted((row for row in rows if areas[row + 1]), key=lambda row: -areas[row + 1])[:_MAX_NAMES]
    if not largest:
        return lines
    canvas = Image.fromarray(lines)
    brush = ImageDraw.Draw(canvas)
    taken: list[_Box] = []
    for row in largest:
        if (place := _place(names[row], (layers == row + 1).any(axis=0), taken)) is not None:
            box, font = place
            taken.append(box)
            brush.text(
                box[:2], names[row], fill=(255, 255, 255, 255), font=font, stroke_width=2, stroke_fill=(0, 0, 0, 200)
            )
    return np.array(canvas)


def _place(name: str, mask: NDArray[np.bool_], taken: Sequence[_Box]) -> tuple[_Box, _Font] | None:
    """Where a name is written on a mask and how large; None if it has no room, neither large nor small."""
    (height, width), (x, y) = mask.shape, _thickest(mask)
    extent = np.ptp(np.flatnonzero(mask.any(axis=0)))
    size = max(_NAME_SIZE, round(max(height, width) / 50))
    for font_size, room in ((size, 1.3 * extent), (round(_SMALL_NAME * size), extent)):
        font = _font(font_size)
        length = font.getlength(name)
        left = min(max(x - length / 2, 2), max(width - length - 2, 2))
        top = min(max(y - font_size / 2 - 2, 0), max(height - font_size - 6, 0))
        box = (left, top, left + length, top + font_size + 4)
        free = not any(box[0] < b[2] and b[0] < box[2] and box[1] < b[3] and b[1] < box[3] for b in taken)
        if length <= min(room, width - 4) and free:
            return box, font
    return None


def _thickest(mask: NDArray[np.bool_]) -> tuple[int, int]:
    """(x, y) of the pixel of a mask that is farthest from its edge."""
    padded = cv2.copyMakeBorder(mask.view(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    y, x = np.unravel_index(int(cv2.distanceTransform(padded, cv2.DIST_L2, 3).argmax()), padded.shape)
    return int(x) - 1, int(y) - 1


def _over(below: Picture, above: Transparent, alpha: float) -> Picture:
    weight = above[..., 3:].astype(np.float32) * (alpha / 255)
    return np.rint(below * (1 - weight) + above[..., :3] * weight).astype(np.uint8)


def _places(
    entries: Sequence[tuple[str, tuple[int, ...]]], width: int
) -> list[tuple[tuple[str, tuple[int, ...]], int, int]]:
    """(entry, x, y) of each entry of a legend, wrapped at `width`."""
    placed, left, top = [], 4, 0
    for entry in entries:
        needed = LINE + round(_font().getlength(entry[0])) + 10
        if left > 4 and left + needed > width:
            left, top = 4, top + LINE
        placed.append((entry, left, top))
        left += needed
    return placed


def _cut(text: str, width: int) -> str:
    while text and _font().getlength(text) > width:
        text = text[:-2].rstrip("…") + "…" if len(text) > 2 else ""
    return text


def _written(picture: Picture, texts: Iterable[tuple[str, tuple[int, int]]]) -> Picture:
    canvas = Image.fromarray(picture)
    brush = ImageDraw.Draw(canvas)
    for text, place in texts:
        brush.text(place, text, fill=INK, font=_font())
    return np.array(canvas)


def _font(size: int = FONT_SIZE) -> _Font:
    return ImageFont.load_default(size)
