"""What happens to a sample between file and network, in the vocabulary of albumentations.

Any albumentations transform works on samples as it is: the picture is its `image`, the id layers are its `masks`, and since
id 0 means "unlabelled", albumentations' own fill of 0 for masks is right for every transform. `Warp` is ours: scale, aspect,
rotation, flip, crop and padding as ONE affine resampling of picture and layers. It replaces the usual chain of resize, flip,
crop and pad: a quarter of the time, one interpolation instead of two, and the layers are touched once however many segments
they hold.

How the recipes of the papers are written with it (`size` is the crop):

| recipe                                                          | arguments                                               |
|-----------------------------------------------------------------|---------------------------------------------------------|
| mmsegmentation `RandomResize(scale=(2048, 512), ratio_range=    | short_side: 512, max_long_side: 2048, scale: [0.5, 2],  |
| (0.5, 2), keep_ratio)`, `RandomCrop(cat_max_ratio=0.75)`, flip  | max_class_share: 0.75, flip: 0.5                        |
| large-scale jitter (Ghiasi et al., CVPR 2021; EoMT's ScaleJitter)| fit: contain, scale: [0.1, 2.0], flip: 0.5             |
| detectron2 `ResizeShortestEdge([320, 352, ...], max, "choice")` | short_side: [320, 352, ...], max_long_side: max         |
| detectron2 `ResizeShortestEdge((640, 800), max, "range")`       | short_side_range: [640, 800], max_long_side: max        |
| rare class sampling (DAFormer, Hoyer et al., CVPR 2022)         | rare_class_pixels: 1500, and a sampler that names the   |
|                                                                 | class of each draw                                      |

Deviations: bounds such as 2048 times a random factor are not cut to whole pixels before the size is computed from them;
padding lies on all sides unless `place` says otherwise; a window begins at a whole pixel of the picture rather than of the
scaled picture, which nobody sees and which lets OpenCV resize the window alone; windows for a wanted class are drawn around
one of its pixels and not blindly.

Randomness is a function of (seed, epoch, index of the sample), never of a worker's stream: an epoch is the same for any number
of workers and processes and after a resume in its middle.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from math import ceil, floor
from typing import Any, Literal, NamedTuple

import albumentations as A
import cv2
import numpy as np
from numpy.typing import NDArray

from trimask.data.fit import Fit, base_size
from trimask.types import Sample, Size

IMAGENET_MEAN_COLOR = (124, 116, 104)  # what mmsegmentation's padding with 0 after normalizing amounts to
TRIES = 10  # how often a window is drawn again; mmsegmentation's and DAFormer's number
_TOLERANCE = 1e-6  # of a pixel: what counts as whole


class Augment:
    """A list of albumentations transforms applied to samples, with reproducible randomness.

    Args:
        transforms: applied in order; empty leaves samples as they are.
    """

    def __init__(self, transforms: Sequence[A.BasicTransform | A.BaseCompose]) -> None:
        self.pipeline = A.Compose(list(transforms), strict=False)
        self._makes_new_arrays = bool(transforms) and isinstance(transforms[0], Warp)

    def __call__(self, sample: Sample, key: Sequence[int], *, focus: int | None = None) -> Sample:
        """The sample, transformed.

        Args:
            key: non-negative integers; equal keys give equal draws, e.g. (seed, epoch, index).
            focus: the class for whose sake the sample was drawn; see `rare_class_pixels` of `Warp`.
        """
        generator = np.random.default_rng(key)
        self.pipeline.set_random_state(generator, random.Random(int(generator.integers(2**63))))
        image, masks = sample.image, sample.segments
        if not self._makes_new_arrays:  # but may write into those it is given, which a cache may hold
            image, masks = (array if array.flags.writeable else array.copy() for array in (image, masks))
        result = self.pipeline(image=image, masks=masks, labels=sample.labels, focus=focus)
        segments = np.asarray(result["masks"]).reshape(-1, *result["image"].shape[:2])
        return replace(sample, image=result["image"], segments=segments.astype(sample.segments.dtype, copy=False))


class Warp(A.DualTransform):
    """Scale, aspect, rotation, flip and crop (or padding) to a fixed size, in one resampling.

    The picture is first brought to its base scale (`fit`), then changed by random factors to a size of whole pixels, then a
    random window of `size` is cut; where the picture is smaller than the window the rest is `fill` / unlabelled.

    Args:
        size: (height, width) of the result in pixels.
        fit: the base scale, see `fit.base_size`.
        short_side: for fit="short_side"; of several one is drawn. By default the shorter side of `size`.
        short_side_range: instead of `short_side`: drawn between these two, both included.
        max_long_side: for fit="short_side": a bound on the longer side, e.g. 2048 in mmsegmentation's ADE20K recipes.
        scale: range of the random scale factor, uniform.
        aspect: range of the random change of width : height, log-uniform.
        rotate: range of the random rotation in degrees, counter-clockwise, about the middle of the window.
        flip: probability of a horizontal flip.
        vertical_flip: probability of a vertical flip.
        max_class_share: a window in which one class covers more than this share of the labelled pixels, or without any, is
            drawn again, up to ten times (mmsegmentation's `cat_max_ratio`, 0.75 there); 1 accepts every window.
        rare_class_pixels: where the sample was drawn for the sake of a class, windows are drawn around pixels of that class
            until one holds at least so many of them, up to ten times; the best is taken. 0 asks for none.
        place: where a picture smaller than the window lies in it: "random", or "corner" for the upper left one.
        fill: color of the padding in 0..255: one number or one a channel.
        p: probability of the random factors and flips; without them the picture is fitted and cut in the middle.
    """

    def __init__(
        self,
        size: Size,
        *,
        fit: Fit = "short_side",
        short_side: int | Sequence[int] | None = None,
        short_side_range: tuple[int, int] | None = None,
        max_long_side: int | None = None,
        scale: tuple[float, float] = (1.0, 1.0),
        aspect: tuple[float, float] = (1.0, 1.0),
        rotate: tuple[float, float] = (0.0, 0.0),
        flip: float = 0.0,
        vertical_flip: float = 0.0,
        max_class_share: float = 1.0,
        rare_class_pixels: int = 0,
        place: Literal["random", "corner"] = "random",
        fill: float | Sequence[float] = IMAGENET_MEAN_COLOR,
        p: float = 1.0,
    ) -> None:
        super().__init__(p=1.0)  # the fit always happens; `random_share` is the probability of the rest
        ranges = {"scale": scale, "aspect": aspect, "short_side_range": short_side_range or (1, 1)}
        for name, (low, high) in ranges.items():
            if not 0 < low <= high:
                raise ValueError(f"Warp: `{name}` is a range of positive numbers (low, high); got ({low}, {high}).")
        if min(size) < 1:
            raise ValueError(f"Warp: `size` is (height, width) in pixels, both at least 1; got {tuple(size)}.")
        sides = {"short_side": short_side, "short_side_range": short_side_range, "max_long_side": max_long_side}
        if fit != "short_side" and (given := [name for name, value in sides.items() if value is not None]):
            raise ValueError(f"Warp: {given} have no effect with fit={fit!r}; remove them.")
        if short_side is not None and short_side_range is not None:
            raise ValueError("Warp: give `short_side` (one or several values) or `short_side_range`, not both.")
        if short_side is None:
            short_side = min(size)
        self.short_sides = (short_side,) if isinstance(short_side, int) else tuple(short_side)
        if not self.short_sides or min(self.short_sides) < 1:
            raise ValueError(f"Warp: `short_side` is one or several numbers of pixels, at least 1; got {short_side}.")
        self.size = (int(size[0]), int(size[1]))
        self.fit, self.short_side, self.short_side_range = fit, sides["short_side"], short_side_range
        self.max_long_side, self.place, self.fill = max_long_side, place, fill
        self.scale, self.aspect, self.rotate = tuple(scale), tuple(aspect), tuple(rotate)
        self.flip, self.vertical_flip = flip, vertical_flip
        self.max_class_share, self.rare_class_pixels = max_class_share, rare_class_pixels
        self.random_share = p

    @property
    def targets_as_params(self) -> list[str]:
        return ["masks", "labels"]

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        size: Size = params["shape"][:2]
        base = self._base_size(size)
        if self.random_generator.random() >= self.random_share:
            return {"matrix": self._place(_linear_part(size, base, 0.0, (False, False)), size, (0.5, 0.5))}
        return {"matrix": self._draw_window(self._draw_linear_part(size, base), size, data)}

    def _base_size(self, size: Size) -> tuple[float, float]:
        """Height and width of the picture at its base scale."""
        short_side = self._draw_short_side() if self.fit == "short_side" else None
        return base_size(size, self.size, self.fit, short_side=short_side, max_long_side=self.max_long_side)

    def _draw_short_side(self) -> int:
        if self.short_side_range:
            return int(self.random_generator.integers(*self.short_side_range, endpoint=True))
        if len(self.short_sides) > 1:
            return int(self.random_generator.choice(self.short_sides))
        return self.short_sides[0]

    def _draw_linear_part(self, size: Size, base: tuple[float, float]) -> NDArray[np.float64]:
        draw = self.random_generator
        scale, aspect = draw.uniform(*self.scale), float(np.exp(draw.uniform(*np.log(self.aspect))))
        angle = float(np.deg2rad(draw.uniform(*self.rotate)))
        flips = draw.random() < self.vertical_flip, draw.random() < self.flip
        return _linear_part(size, (base[0] * scale / aspect**0.5, base[1] * scale * aspect**0.5), angle, flips)

    def _draw_window(self, linear: NDArray[np.float64], size: Size, data: dict[str, Any]) -> NDArray[np.float64]:
        """The first window that satisfies `max_class_share` and `rare_class_pixels`, else the best for the latter."""
        draw, layers = self.random_generator, np.asarray(data["masks"])
        is_wanted = self._is_wanted(data)
        wanted = np.flatnonzero(is_wanted[layers].any(0)) if is_wanted.any() else ()
        best, most = linear, -1
        for _ in range(TRIES if len(wanted) or self.max_class_share < 1 else 1):
            ranges, held, enough = [(0.0, 1.0), (0.0, 1.0)], 0, 0
            if len(wanted):
                row, column = divmod(int(draw.choice(wanted)), size[1])
                ranges = self._ranges_around((column + 0.5, row + 0.5), linear, size)
            matrix = self._place(linear, size, (draw.uniform(*ranges[0]), draw.uniform(*ranges[1])))
            if len(wanted):
                held, enough = (
                    int(is_wanted[_warp_layers(layers, matrix, self.size)].any(0).sum()),
                    self.rare_class_pixels,
                )
            if held >= most:
                best, most = matrix, held
            if held >= enough and self._has_variety(matrix, data):
                return matrix
        return best

    def _is_wanted(self, data: dict[str, Any]) -> NDArray[np.bool_]:
        """(N + 1,) whether an id belongs to the class for whose sake the sample was drawn."""
        asked = self.rare_class_pixels > 0 and data.get("focus") is not None
        return np.append(False, np.asarray(data["labels"]) == data["focus"] if asked else []).astype(np.bool_)

    def _ranges_around(
        self, point: tuple[float, float], linear: NDArray[np.float64], size: Size
    ) -> list[tuple[float, float]]:
        """Positions (see `_place`), x and y, of the windows that hold a point (x, y) of the picture."""
        extent = _extent(linear, size)
        places = linear @ point - linear @ (size[1] / 2, size[0] / 2) + extent / 2
        ranges = []
        for place, length, target in zip(places, extent, self.size[::-1], strict=True):
            room = length - target
            ranges.append((max((place - target) / room, 0.0), min(place / room, 1.0)) if room > 0 else (0.0, 1.0))
        return ranges

    def _has_variety(self, matrix: NDArray[np.float64], data: dict[str, Any]) -> bool:
        """Whether no class has more than its share of the labelled pixels of the window, of which every eighth is asked."""
        if self.max_class_share >= 1:
            return True
        step = 8
        coarse = np.diag([1 / step, 1 / step]) @ matrix
        layers = _warp_layers(np.asarray(data["masks"]), coarse, (ceil(self.size[0] / step), ceil(self.size[1] / step)))
        counts = np.bincount(np.append(-1, data["labels"])[layers[layers > 0]], minlength=1)
        return bool(counts.max() <= self.max_class_share * counts.sum() and counts.any())

    def _place(self, linear: NDArray[np.float64], size: Size, position: tuple[float, float]) -> NDArray[np.float64]:
        """(2, 3) source -> result: the window at the relative position (x, y) in 0..1 of the room that there is."""
        extent = np.rint(_extent(linear, size))
        room = extent - (self.size[1], self.size[0])
        if self.place == "corner":
            position = (position[0] if room[0] > 0 else 0.0, position[1] if room[1] > 0 else 0.0)
        if _is_straight(linear):
            offsets = [_straight_offset(*row) for row in zip(np.diag(linear), extent, room, position, strict=True)]
            return np.hstack([linear, np.reshape(offsets, (2, 1))])
        middle = linear @ (size[1] / 2, size[0] / 2)
        # With room > 0 the window moves over the picture, with room < 0 the picture moves inside the window.
        corner = middle - extent / 2 + np.round(room * position)
        return np.hstack([linear, -corner[:, None]])

    def apply(self, img: NDArray[np.uint8], matrix: NDArray[np.float64], **params: Any) -> NDArray[np.uint8]:
        return warp_image(img, matrix, self.size, self.fill)

    def apply_to_mask(self, mask: NDArray[Any], matrix: NDArray[np.float64], **params: Any) -> NDArray[Any]:
        return _warp_layers(mask[None], matrix, self.size)[0]

    def apply_to_masks(self, masks: Any, matrix: NDArray[np.float64], **params: Any) -> NDArray[Any]:
        return _warp_layers(np.asarray(masks), matrix, self.size)

    def get_transform_init_args_names(self) -> tuple[str, ...]:
        return (
            *("size", "fit", "short_side", "short_side_range", "max_long_side", "scale", "aspect", "rotate"),
            *("flip", "vertical_flip", "max_class_share", "rare_class_pixels", "place", "fill"),
        )


class ResizeShortSide(A.DualTransform):
    """The whole picture at a random scale, with its own aspect, and sometimes mirrored; no frame, no padding.

    Pictures of a batch then differ in size, and collating them pads to the largest. For networks that divide whatever they are
    given into a grid, so that a common frame of padding would change what a cell is.

    Args:
        short_side: of several one is drawn.
        max_long_side: a bound on the longer side, which wins.
        flip: probability of a horizontal flip.
    """

    def __init__(self, short_side: int | Sequence[int], *, max_long_side: int | None = None, flip: float = 0.0) -> None:
        super().__init__(p=1.0)
        self.short_sides = (short_side,) if isinstance(short_side, int) else tuple(short_side)
        if not self.short_sides or min(*self.short_sides, max_long_side or 1) < 1:
            raise ValueError(
                "ResizeShortSide: `short_side` is one or several numbers of pixels, and `max_long_side` one, at least 1; got "
                f"{short_side} and {max_long_side}."
            )
        self.short_side, self.max_long_side, self.flip = short_side, max_long_side, flip

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        size: Size = params["shape"][:2]
        short_side = int(self.random_generator.choice(self.short_sides))
        flipped = bool(self.random_generator.random() < self.flip)
        base = base_size(size, size, "short_side", short_side=short_side, max_long_side=self.max_long_side)
        linear = _linear_part(size, base, 0.0, (False, flipped))
        width, height = np.rint(_extent(linear, size)).astype(int).tolist()
        offset = np.array([[width if flipped else 0.0], [0.0]])
        return {"matrix": np.hstack([linear, offset]), "window": (height, width)}

    def apply(
        self, img: NDArray[np.uint8], matrix: NDArray[np.float64], window: Size, **params: Any
    ) -> NDArray[np.uint8]:
        return warp_image(img, matrix, window, 0.0)

    def apply_to_mask(
        self, mask: NDArray[Any], matrix: NDArray[np.float64], window: Size, **params: Any
    ) -> NDArray[Any]:
        return _warp_layers(mask[None], matrix, window)[0]

    def apply_to_masks(self, masks: Any, matrix: NDArray[np.float64], window: Size, **params: Any) -> NDArray[Any]:
        return _warp_layers(np.asarray(masks), matrix, window)

    def get_transform_init_args_names(self) -> tuple[str, ...]:
        return "short_side", "max_long_side", "flip"


def _linear_part(
    size: Size, scaled: tuple[float, float], angle: float, flips: tuple[bool, bool]
) -> NDArray[np.float64]:
    """(2, 2) source -> result without translation, x before y.

    Args:
        size, scaled: (height, width) before and after; the latter is rounded to whole pixels, as a resize would.
        angle: in radians, counter-clockwise.
        flips: vertical, horizontal.
    """
    factors = [
        max(floor(new + 0.5), 1) / old * (-1 if flipped else 1)
        for new, old, flipped in zip(scaled, size, flips, strict=True)
    ]
    cos, sin = np.cos(angle), np.sin(angle)
    return np.array([[cos, sin], [-sin, cos]]) @ np.diag(factors[::-1])


def _extent(linear: NDArray[np.float64], size: Size) -> NDArray[np.float64]:
    """(2,) width and height of the scaled (and turned) picture."""
    return np.abs(linear) @ (size[1], size[0])


def _is_straight(matrix: NDArray[np.float64]) -> bool:
    """Whether rows stay rows: no rotation."""
    return matrix[0, 1] == 0 == matrix[1, 0]


def _straight_offset(factor: float, extent: float, room: float, position: float) -> float:
    """Where the source's 0 comes to lie on one axis, so that the window begins at a whole pixel of the source, or the picture
    at a whole pixel of the window."""
    target, scale = extent - room, abs(factor)
    if room <= 0:
        first = floor(position * (1 - room))
        return first if factor > 0 else first + extent
    num_starts = floor(room / scale + _TOLERANCE) + 1
    first = min(floor(position * num_starts), num_starts - 1)
    return -first * scale if factor > 0 else target + (num_starts - 1 - first) * scale


# --- resampling ---


class _Axis(NamedTuple):
    """How one axis of a window is cut from a source without rotation.

    Attributes:
        scale: result pixels for each source pixel.
        flipped: whether it runs backward.
        source: the pixels of the source that are needed.
        first, num: where in the result they come to lie, and how many pixels they fill; the rest is padding.
    """

    scale: float
    flipped: bool
    source: slice
    first: int
    num: int

    def indices(self) -> NDArray[np.intp]:
        """(num,) nearest source pixel, counted from `source.start`, of each result pixel."""
        nearest = ((np.arange(self.num) + 0.5) / self.scale + _TOLERANCE).astype(np.intp)
        nearest = np.minimum(nearest, self.source.stop - self.source.start - 1)
        return nearest[::-1] if self.flipped else nearest


def _axes(matrix: NDArray[np.float64], source: Size, size: Size) -> tuple[_Axis, _Axis] | None:
    """The two axes, y and x, of a warp without rotation whose window begins on the grid of the source or the result, so
    that it is a resize of a part; None for any other warp."""
    if not _is_straight(matrix):
        return None
    x = _axis(matrix[0, 0], matrix[0, 2], source[1], size[1])
    y = _axis(matrix[1, 1], matrix[1, 2], source[0], size[0])
    return (y, x) if y and x else None


def _axis(factor: float, offset: float, length: int, target: int) -> _Axis | None:
    scale, flipped = abs(factor), factor < 0
    if flipped:
        offset = target - offset  # as if it were not: result pixels counted from the other end
    exact = offset if offset > 0 else -offset / scale
    if abs(exact - round(exact)) > _TOLERANCE or not 0 < scale < np.inf:
        return None
    first, start = (round(exact), 0) if offset > 0 else (0, round(exact))
    num = min(target - first, round((length - start) * scale))  # OpenCV rounds the same way
    if num <= 0:
        return None
    needed, block = ceil(num / scale) + 1, _block(scale)
    stop = min(start + -(-needed // block) * block, length)  # whole blocks, see `_shrink`
    return _Axis(scale, flipped, slice(start, stop), target - first - num if flipped else first, num)


def warp_image(
    image: NDArray[np.uint8],
    matrix: NDArray[np.float64],
    size: Size,
    fill: float | Sequence[float] | NDArray[np.float64],
) -> NDArray[np.uint8]:
    """Bilinear resampling of an (H, W, K) picture by a (2, 3) matrix from source to result, both in continuous coordinates
    (the middle of the first pixel is at 0.5, 0.5). A picture that shrinks to half or less is averaged over areas first, so
    that fine structure does not alias. Without rotation the picture ends at its last pixel, as in a resize; with rotation
    its edge is mixed with the fill.
    """
    channels = image.shape[2]
    colors = np.broadcast_to(np.asarray(fill, dtype=np.float64), (channels,))
    if channels > 4:  # OpenCV takes four channels at a time
        starts = range(0, channels, 4)
        parts = [
            warp_image(np.ascontiguousarray(image[:, :, i : i + 4]), matrix, size, colors[i : i + 4]) for i in starts
        ]
        return np.concatenate(parts, axis=2)
    axes = _axes(matrix, (image.shape[0], image.shape[1]), size)
    result = _warp_freely(image, matrix, size, colors) if axes is None else _resize_part(image, *axes, size, colors)
    return result.reshape(*size, channels)


def _resize_part(
    image: NDArray[np.uint8], y: _Axis, x: _Axis, size: Size, colors: NDArray[np.float64]
) -> NDArray[np.uint8]:
    source = image[y.source, x.source]
    part: Any
    part, scales = _shrink(source, (y.scale, x.scale))
    part = _resize(part, scales)[: y.num, : x.num]
    if y.flipped or x.flipped:
        part = cv2.flip(part, -1 if y.flipped and x.flipped else int(x.flipped))
    if (y.num, x.num) == size:
        return part.copy() if part.base is not None else part  # nobody may write into the source
    below, right = size[0] - y.first - y.num, size[1] - x.first - x.num
    edges = (y.first, below, x.first, right)
    part = cv2.copyMakeBorder(part, *edges, cv2.BORDER_CONSTANT, value=tuple(colors))
    return part


def _resize(image: NDArray[np.uint8], scales: tuple[float, float]) -> NDArray[np.uint8]:
    """Bilinear resize by exactly these factors, y and x; the size is rounded."""
    if max(abs(scale - 1) for scale in scales) < _TOLERANCE:
        return image
    height, width = image.shape[:2]
    result: Any
    if (round(height * scales[0]), round(width * scales[1])) == (height, width):  # where OpenCV's resize only copies
        matrix = _pixel_matrix(np.array([[scales[1], 0, 0], [0, scales[0], 0]]))
        edge = cv2.BORDER_REPLICATE
        result = cv2.warpAffine(image, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=edge)
    else:
        result = cv2.resize(image, None, fx=scales[1], fy=scales[0], interpolation=cv2.INTER_LINEAR)
    return result


def _warp_freely(
    image: NDArray[np.uint8], matrix: NDArray[np.float64], size: Size, colors: NDArray[np.float64]
) -> NDArray[np.uint8]:
    factors = np.linalg.norm(matrix[:, :2], axis=0)  # how long a source pixel becomes, along x and y
    smaller, _ = _shrink(image, (factors[1], factors[0]))
    back = np.diag([_block(factors[0]), _block(factors[1]), 1.0])
    result: Any = cv2.warpAffine(
        np.ascontiguousarray(smaller),
        _pixel_matrix(matrix @ back),
        (size[1], size[0]),
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=tuple(colors),
    )
    return result


def _shrink(image: NDArray[np.uint8], scales: tuple[float, float]) -> tuple[NDArray[np.uint8], tuple[float, float]]:
    """The picture averaged over blocks of the most pixels that leave it as large as it is wanted.

    Args: scales: what is wanted, y and x, in result pixels for each source pixel.

    Returns: the smaller picture, and the scales that are still to be applied to it.
    """
    y, x = _block(scales[0]), _block(scales[1])
    if (y, x) == (1, 1):
        return image, scales
    height, width = image.shape[:2]
    if height % y or width % x:  # OpenCV takes ten times as long for blocks that are not whole
        image = cv2.copyMakeBorder(image, 0, -height % y, 0, -width % x, cv2.BORDER_REPLICATE)  # type: ignore[assignment]
    new = (-(-height // y), -(-width // x))
    smaller: Any = cv2.resize(image, new[::-1], interpolation=cv2.INTER_AREA)
    return smaller.reshape(*new, -1), (scales[0] * y, scales[1] * x)


def _block(scale: float) -> int:
    """How many pixels of a source, in a row, become one before it is resized."""
    return max(int(1 / scale + _TOLERANCE), 1)


def _warp_layers(layers: NDArray[Any], matrix: NDArray[np.float64], size: Size) -> NDArray[Any]:
    """(L, H, W) -> (L, *size), nearest neighbor, 0 outside."""
    axes = _axes(matrix, (layers.shape[1], layers.shape[2]), size)
    if axes is None or not len(layers):
        return _warp_layers_freely(layers, matrix, size)
    y, x = axes
    picked = _pick(layers[:, y.source, x.source], y.indices(), x.indices())
    if (y.num, x.num) == size:
        return picked
    result = np.zeros((len(layers), *size), dtype=layers.dtype)
    result[:, y.first : y.first + y.num, x.first : x.first + x.num] = picked
    return result


def _pick(layers: NDArray[Any], rows: NDArray[np.intp], columns: NDArray[np.intp]) -> NDArray[Any]:
    """`layers[:, rows][:, :, columns]`, whole rows at a time: columns are picked as rows of the transposed layers."""
    picked = layers.take(rows, axis=1, mode="clip")
    turned: Any = cv2.transpose(picked.reshape(-1, picked.shape[2])).take(columns, axis=0, mode="clip")
    return cv2.transpose(turned).reshape(len(layers), len(rows), len(columns))


def _warp_layers_freely(layers: NDArray[Any], matrix: NDArray[np.float64], size: Size) -> NDArray[Any]:
    """int32 ids travel as float32, exact up to 2**24."""
    kind = np.float32 if layers.dtype.itemsize > 2 else layers.dtype
    result = np.empty((len(layers), *size), dtype=layers.dtype)
    for target, layer in zip(result, layers, strict=True):
        target[:] = cv2.warpAffine(
            np.ascontiguousarray(layer, dtype=kind),
            _pixel_matrix(matrix),
            (size[1], size[0]),
            flags=cv2.INTER_NEAREST,
            borderMode=cv2.BORDER_CONSTANT,
            borderValue=0,
        )
    return result


def _pixel_matrix(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """From continuous coordinates to OpenCV's, where the middle of the first pixel is at (0, 0)."""
    shifted = matrix.copy()
    shifted[:, 2] += matrix[:, :2] @ (0.5, 0.5) - 0.5
    return shifted
