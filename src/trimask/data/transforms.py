"""What happens to a sample between file and network, in the vocabulary of albumentations.

Any albumentations transform works on samples as it is: the picture is its `image`, the id layers are its `masks`, and since
id 0 means "unlabelled", albumentations' own fill of 0 for masks is right for every transform. `Warp` is ours: scale, aspect,
rotation, flip, crop and padding as ONE affine resampling of picture and layers. It replaces the usual chain of resize, flip,
crop and pad: a third of the time, one interpolation instead of two, and the layers are touched once however many segments they
hold.

Randomness is a function of (seed, epoch, index of the sample), never of a worker's stream: an epoch is the same for any number
of workers and processes and after a resume in its middle.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import albumentations as A
import cv2
import numpy as np
from numpy.typing import NDArray

from trimask.types import Sample, Size

IMAGENET_MEAN_COLOR = (124, 116, 104)  # what mmsegmentation's padding with 0 after normalizing amounts to


class Augment:
    """A list of albumentations transforms applied to samples, with reproducible randomness.

    Args:
        transforms: applied in order; empty leaves samples as they are.
    """

    def __init__(self, transforms: Sequence[A.BasicTransform | A.BaseCompose]) -> None:
        self.pipeline = A.Compose(list(transforms), strict=False)

    def __call__(self, sample: Sample, key: Sequence[int]) -> Sample:
        """Args: key: non-negative integers; equal keys give equal draws, e.g. (seed, epoch, index)."""
        generator = np.random.default_rng(key)
        self.pipeline.set_random_state(generator, random.Random(int(generator.integers(2**63))))
        result = self.pipeline(image=sample.image, masks=sample.segments, labels=sample.labels)
        segments = np.asarray(result["masks"]).reshape(-1, *result["image"].shape[:2])
        return replace(sample, image=result["image"], segments=segments.astype(sample.segments.dtype, copy=False))


class Warp(A.DualTransform):
    """Scale, aspect, rotation, flip and crop (or padding) to a fixed size, in one resampling.

    The picture is first brought to its base scale (`fit`), then changed by random factors, then a random window of `size` is
    cut; where the picture is smaller than the window it is placed at random inside it and the rest is `fill` / unlabelled.

    Args:
        size: (height, width) of the result in pixels.
        fit: the base scale. "native" keeps the picture's own pixels; "short_side" makes its shorter side `short_side` long
            (at most `max_long_side` for the longer one); "stretch" maps the whole picture onto `size`, aspect not kept.
        short_side: for fit="short_side"; by default the shorter side of `size`.
        max_long_side: for fit="short_side": a bound on the longer side, e.g. 2048 in mmsegmentation's ADE20K recipes.
        scale: range of the random scale factor, uniform.
        aspect: range of the random change of width : height, log-uniform.
        rotate: range of the random rotation in degrees, counter-clockwise, about the middle of the window.
        flip: probability of a horizontal flip.
        vertical_flip: probability of a vertical flip.
        max_class_share: a window in which one class covers more than this share of the labelled pixels is drawn again, up to
            ten times (mmsegmentation's `cat_max_ratio`, 0.75 there); 1 accepts every window.
        fill: color of the padding in 0..255: one number or one a channel.
        p: probability of the random part; without it the picture is fitted and cut in the middle.
    """

    def __init__(
        self,
        size: Size,
        *,
        fit: Literal["native", "short_side", "stretch"] = "short_side",
        short_side: int | None = None,
        max_long_side: int | None = None,
        scale: tuple[float, float] = (1.0, 1.0),
        aspect: tuple[float, float] = (1.0, 1.0),
        rotate: tuple[float, float] = (0.0, 0.0),
        flip: float = 0.0,
        vertical_flip: float = 0.0,
        max_class_share: float = 1.0,
        fill: float | Sequence[float] = IMAGENET_MEAN_COLOR,
        p: float = 1.0,
    ) -> None:
        super().__init__(p=1.0)  # the fit always happens; `random_share` is the probability of the rest
        for name, (low, high) in {"scale": scale, "aspect": aspect}.items():
            if not 0 < low <= high:
                raise ValueError(f"Warp: `{name}` is a range of positive factors (low, high); got ({low}, {high}).")
        if min(size) < 1:
            raise ValueError(f"Warp: `size` is (height, width) in pixels, both at least 1; got {tuple(size)}.")
        if fit != "short_side" and (short_side or max_long_side):
            raise ValueError(f"Warp: `short_side` and `max_long_side` have no effect with fit={fit!r}; remove them.")
        self.size = (int(size[0]), int(size[1]))
        self.fit, self.short_side, self.max_long_side = fit, short_side, max_long_side
        self.scale, self.aspect, self.rotate = tuple(scale), tuple(aspect), tuple(rotate)
        self.flip, self.vertical_flip, self.max_class_share = flip, vertical_flip, max_class_share
        self.fill, self.random_share = fill, p

    @property
    def targets_as_params(self) -> list[str]:
        return ["masks", "labels"]

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        height, width = params["shape"][:2]
        if self.random_generator.random() >= self.random_share:
            placed = self._linear_part((height, width), 1.0, 1.0, 0.0, False, False)
            return {"matrix": self._place(placed, (height, width), 0.5, 0.5)}
        for _ in range(10 if self.max_class_share < 1 else 1):
            matrix = self._draw((height, width))
            if self.max_class_share >= 1 or self._largest_share(matrix, data) <= self.max_class_share:
                break
        return {"matrix": matrix}

    def _draw(self, size: Size) -> NDArray[np.float64]:
        draw = self.random_generator
        linear = self._linear_part(
            size,
            draw.uniform(*self.scale),
            float(np.exp(draw.uniform(*np.log(self.aspect)))),
            float(np.deg2rad(draw.uniform(*self.rotate))),
            draw.random() < self.flip,
            draw.random() < self.vertical_flip,
        )
        return self._place(linear, size, draw.random(), draw.random())

    def _linear_part(
        self, size: Size, scale: float, aspect: float, angle: float, flip: bool, vertical_flip: bool
    ) -> NDArray[np.float64]:
        """(2, 2) source -> result without translation; x before y."""
        height, width = size
        if self.fit == "stretch":
            base_x, base_y = self.size[1] / width, self.size[0] / height
        elif self.fit == "native":
            base_x = base_y = 1.0
        else:
            base = (self.short_side or min(self.size)) / min(size)
            if self.max_long_side:
                base = min(base, self.max_long_side / max(size))
            # whole pixels, as a resize would give
            base_x, base_y = max(round(width * base), 1) / width, max(round(height * base), 1) / height
        stretch = np.diag(
            [
                base_x * scale * aspect**0.5 * (-1 if flip else 1),
                base_y * scale / aspect**0.5 * (-1 if vertical_flip else 1),
            ]
        )
        cos, sin = np.cos(angle), np.sin(angle)
        return np.array([[cos, sin], [-sin, cos]]) @ stretch

    def _place(self, linear: NDArray[np.float64], size: Size, x: float, y: float) -> NDArray[np.float64]:
        """(2, 3) source -> result: the window at the relative position (x, y) of the room that there is."""
        height, width = size
        middle = linear @ (width / 2, height / 2)
        extent = np.abs(linear) @ (width, height)
        target = np.array([self.size[1], self.size[0]], dtype=np.float64)
        # With room > 0 the window moves over the picture, with room < 0 the picture moves inside the window. Whole
        # pixels: otherwise a pure crop would blur.
        room = np.round(extent) - target
        corner = middle - np.round(extent) / 2 + np.round(room * (x, y))
        return np.hstack([linear, -corner[:, None]])

    def _largest_share(self, matrix: NDArray[np.float64], data: dict[str, Any]) -> float:
        """Share of the largest class among the labelled pixels of the window, on every eighth pixel."""
        step = 8
        coarse = np.diag([1 / step, 1 / step]) @ matrix
        size = (max(self.size[0] // step, 1), max(self.size[1] // step, 1))
        layers = _warp_layers(np.asarray(data["masks"]), coarse, size)
        counts = np.bincount(np.append(-1, data["labels"])[layers[layers > 0]], minlength=1)
        return float(counts.max() / max(counts.sum(), 1))

    def apply(self, img: NDArray[np.uint8], matrix: NDArray[np.float64], **params: Any) -> NDArray[np.uint8]:
        return warp_image(img, matrix, self.size, self.fill)

    def apply_to_mask(self, mask: NDArray[Any], matrix: NDArray[np.float64], **params: Any) -> NDArray[Any]:
        return _warp_layers(mask[None], matrix, self.size)[0]

    def apply_to_masks(self, masks: Any, matrix: NDArray[np.float64], **params: Any) -> NDArray[Any]:
        return _warp_layers(np.asarray(masks), matrix, self.size)

    def get_transform_init_args_names(self) -> tuple[str, ...]:
        return (
            *("size", "fit", "short_side", "max_long_side", "scale", "aspect", "rotate"),
            *("flip", "vertical_flip", "max_class_share", "fill"),
        )


def warp_image(
    image: NDArray[np.uint8],
    matrix: NDArray[np.float64],
    size: Size,
    fill: float | Sequence[float] | NDArray[np.float64],
) -> NDArray[np.uint8]:
    """Bilinear resampling of an (H, W, K) picture by a (2, 3) matrix from source to result, both in continuous coordinates
    (the middle of the first pixel is at 0.5, 0.5). A picture that shrinks to less than half is averaged over areas first, so
    that fine structure does not alias.
    """
    channels = image.shape[2]
    colors = np.broadcast_to(np.asarray(fill, dtype=np.float64), (channels,))
    if channels > 4:  # OpenCV takes four channels at a time
        starts = range(0, channels, 4)
        parts = [warp_image(image[:, :, i : i + 4], matrix, size, colors[i : i + 4]) for i in starts]
        return np.concatenate(parts, axis=2)
    image, matrix = _shrink_first(image, matrix)
    result: Any = cv2.warpAffine(
        np.ascontiguousarray(image),
        _pixel_matrix(matrix),
        (size[1], size[0]),
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=tuple(colors),
    )
    return result.reshape(*size, channels)


def _shrink_first(
    image: NDArray[np.uint8], matrix: NDArray[np.float64]
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    height, width = image.shape[:2]
    factors = np.linalg.norm(matrix[:, :2], axis=0)  # how long a source pixel becomes, along x and y
    new_width = max(round(width / max(int(1 / factors[0]), 1)), 1)
    new_height = max(round(height / max(int(1 / factors[1]), 1)), 1)
    if (new_height, new_width) == (height, width):
        return image, matrix
    smaller: Any = cv2.resize(np.ascontiguousarray(image), (new_width, new_height), interpolation=cv2.INTER_AREA)
    matrix = matrix @ np.diag([width / new_width, height / new_height, 1.0])
    return smaller.reshape(new_height, new_width, -1), matrix


def _warp_layers(layers: NDArray[Any], matrix: NDArray[np.float64], size: Size) -> NDArray[Any]:
    """(L, H, W) -> (L, *size), nearest neighbor, 0 outside. int32 ids travel as float32, exact up to 2**24."""
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
