"""Pictures of labels: colored maps, overlays, maps of errors, and panels that put them side by side. Pure functions.

Sources: none; the palette is the class list's. Deviations: none.
"""

from __future__ import annotations

from collections.abc import Iterable

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from trimask.types import ClassSpec

Picture = NDArray[np.uint8]  # (H, W, 3) RGB
Labels = NDArray[np.integer]  # (H, W)

UNLABELLED = (128, 128, 128)
WRONG = (230, 30, 30)
INK, PAPER = (235, 235, 235), (24, 24, 24)
GAP, FONT_SIZE, LINE = 6, 13, 20  # pixels


def rgb(image: NDArray[np.uint8]) -> Picture:
    """(H, W) or (H, W, K) -> (H, W, 3): grey for fewer than three channels, else the first three."""
    if image.ndim == 2:
        image = image[..., None]
    return np.ascontiguousarray(image[..., :3] if image.shape[2] >= 3 else np.repeat(image[..., :1], 3, axis=2))


def colorize(labels: Labels, classes: ClassSpec) -> Picture:
    """Each label in its class's color; everything that is no class, such as `ignore_index`, in grey."""
    table = np.concatenate([classes.colors, [UNLABELLED]]).astype(np.uint8)
    return table[np.where((labels >= 0) & (labels < len(classes)), labels, len(classes))]


def overlay(image: NDArray[np.uint8], labels: Labels, classes: ClassSpec, *, alpha: float = 0.5) -> Picture:
    """The picture with each class's color laid over it; unlabelled pixels stay as they are.

    Args:
        image: (H, W) or (H, W, K).
        labels: (H, W).
        alpha: opacity of the color, 0..1.
    """
    picture = rgb(image)
    blended = cv2.addWeighted(picture, 1 - alpha, colorize(labels, classes), alpha, 0)
    is_class = (labels >= 0) & (labels < len(classes))
    return np.where(is_class[..., None], blended, picture)


def error_map(prediction: Labels, truth: Labels, classes: ClassSpec) -> Picture:
    """Right pixels in a dim shade of their class, wrong ones red, unlabelled ones grey."""
    picture = colorize(truth, classes) // 4
    picture[prediction != truth] = WRONG
    picture[truth == classes.ignore_index] = UNLABELLED
    return picture


def panel(
    image: NDArray[np.uint8],
    truth: Labels,
    prediction: Labels,
    classes: ClassSpec,
    *,
    title: str = "",
    max_side: int = 512,
) -> Picture:
    """Picture, truth, prediction and errors side by side, over a legend of the classes that occur.

    Args:
        image: (H, W) or (H, W, K).
        truth, prediction: (H, W) at the same size.
        title: a line above, e.g. the name and score.
        max_side: larger pictures are scaled so that their longer side has this many pixels.

    Raises:
        ValueError: if the sizes differ.
    """
    if not image.shape[:2] == truth.shape == prediction.shape:
        raise ValueError(
            f"Picture {image.shape[:2]}, truth {truth.shape} and prediction {prediction.shape} must have one size."
        )
    errors = error_map(prediction, truth, classes)
    drawn = [rgb(image), overlay(image, truth, classes), overlay(image, prediction, classes), errors]
    tiles = [shrunk(picture, max_side) for picture in drawn]
    height, width = tiles[0].shape[:2]
    total_width = len(tiles) * width + (len(tiles) - 1) * GAP
    present = sorted({int(label) for label in np.union1d(truth, prediction)} & set(range(len(classes))))
    legend = _legend([(classes.names[i], tuple(classes.colors[i])) for i in present], total_width)
    captions = _blank(LINE, total_width)
    canvas = _blank(height, total_width)
    for index, (name, tile) in enumerate(zip(("picture", "truth", "prediction", "errors"), tiles, strict=True)):
        left = index * (width + GAP)
        canvas[:, left : left + width] = tile
        captions = _written(captions, [(name, (left + 4, 2))], right=left + width)
    top = [_written(_blank(LINE, total_width), [(title, (4, 2))])] if title else []
    return np.concatenate([*top, captions, canvas, legend])


def shrunk(picture: Picture, max_side: int) -> Picture:
    """(H, W, 3) with the longer side at most `max_side` pixels; smaller ones as they are."""
    scale = max_side / max(picture.shape[:2])
    if scale >= 1:
        return picture
    height, width = (max(round(side * scale), 1) for side in picture.shape[:2])
    return np.asarray(cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA), dtype=np.uint8)


def _legend(entries: Iterable[tuple[str, tuple[int, ...]]], width: int) -> Picture:
    """(lines * LINE, width, 3): a color patch and a name for each entry, wrapped."""
    entries = [*entries, ("wrong", WRONG), ("unlabelled", UNLABELLED)]
    places, left, line = [], 4, 0
    for name, color in entries:
        needed = LINE + round(_font().getlength(name)) + 12
        if left > 4 and left + needed > width:
            left, line = 4, line + 1
        places.append((name, color, left, line * LINE + 4))
        left += needed
    strip = _blank((line + 1) * LINE + 6, width)
    for _, color, x, y in places:
        strip[y + 2 : y + 14, x : x + 14] = color
    return _written(strip, [(name, (x + LINE, y)) for name, _, x, y in places])


def _written(picture: Picture, texts: Iterable[tuple[str, tuple[int, int]]], right: int | None = None) -> Picture:
    """With text at each (x, y); what lies right of `right` is as before, so that a long caption is cut there."""
    canvas = Image.fromarray(picture)
    draw = ImageDraw.Draw(canvas)
    for text, place in texts:
        draw.text(place, text, fill=INK, font=_font())
    written = np.array(canvas)
    if right is not None:
        written[:, right:] = picture[:, right:]
    return written


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(FONT_SIZE)


def _blank(height: int, width: int) -> Picture:
    return np.full((height, width, 3), PAPER, dtype=np.uint8)
