"""Photometric transforms for 8-bit RGB pictures, in the vocabulary of albumentations: same definitions, less time.

`ColorJitter` is torchvision's and albumentations': brightness, contrast, saturation and hue in a random order. It takes the
arguments of `albumentations.ColorJitter` and makes the same draws, so that one may stand for the other in an experiment.
`PhotometricDistortion` is that of SSD (Liu et al., ECCV 2016) with the order and ranges of mmsegmentation 1.x
(`PhotoMetricDistortion`, Apache-2.0), which many recipes for semantic segmentation use. Own work.

Deviations, none larger than what 8-bit steps round away:
- ColorJitter turns the hue in 256 steps a circle where albumentations has 180, which is nearer to torchvision's floating
  point; grey values are not rounded to whole levels before saturation and contrast are computed from them.
- PhotometricDistortion changes saturation and hue in one visit to HSV, where mmsegmentation goes back to RGB in between.
"""

from __future__ import annotations

from typing import Any

import albumentations as A
import cv2
import numpy as np
from albucore import sz_lut  # a table look-up with the processor's permutations, seven times as fast as cv2.LUT
from numpy.typing import NDArray

from trimask.types import DataError

GREY = (0.299, 0.587, 0.114)  # ITU-R BT.601, as in OpenCV, Pillow and torchvision
Picture = NDArray[np.uint8]


class ColorJitter(A.ColorJitter):
    """`albumentations.ColorJitter` in four fifths of its time (three fifths without hue): same arguments, draws and, within
    rounding, results.

    A picture of one channel has no saturation and no hue: it keeps them, as in albumentations.

    Raises:
        DataError: at the first picture that has neither 1 nor 3 channels of 8 bits.
    """

    def apply(
        self,
        img: Picture,
        brightness: float,
        contrast: float,
        saturation: float,
        hue: float,
        order: list[int],
        **params: Any,
    ) -> Picture:
        _check(img, (1, 3), "ColorJitter")
        factors = (brightness, contrast, saturation, hue)
        functions = (adjust_brightness, adjust_contrast, adjust_saturation, adjust_hue)
        for i in order:
            if i < 2 or img.shape[2] == 3:
                img = functions[i](img, factors[i])
        return img


class PhotometricDistortion(A.ImageOnlyTransform):
    """Each with probability 1/2: brightness, contrast, saturation, hue; contrast comes second or last, at equal chances.

    Args:
        brightness: what is added lies in -brightness..brightness, of 255.
        contrast: range of the factor of all values.
        saturation: range of the factor of the saturation in HSV.
        hue: what is added lies in -hue..hue-1 (mmsegmentation's range), in steps of two degrees.
        p: probability of the whole; the published recipes have 1.

    Raises:
        DataError: at the first picture that has not 3 channels of 8 bits.
    """

    def __init__(
        self,
        *,
        brightness: float = 32.0,
        contrast: tuple[float, float] = (0.5, 1.5),
        saturation: tuple[float, float] = (0.5, 1.5),
        hue: int = 18,
        p: float = 1.0,
    ) -> None:
        super().__init__(p=p)
        for name, (low, high) in {"contrast": contrast, "saturation": saturation}.items():
            if not 0 <= low <= high:
                raise ValueError(
                    f"PhotometricDistortion: `{name}` is a range (low, high) from 0 on; got ({low}, {high})."
                )
        if not (0 <= brightness <= 255 and 0 <= hue <= 90):
            raise ValueError(
                f"PhotometricDistortion: `brightness` lies in 0..255 and `hue` in 0..90; got {brightness} and {hue}."
            )
        self.brightness, self.hue = float(brightness), int(hue)
        self.contrast, self.saturation = tuple(contrast), tuple(saturation)

    def get_params(self) -> dict[str, Any]:
        draw = self.random_generator
        is_on = draw.random(4) < 0.5
        return {
            "added": draw.uniform(-self.brightness, self.brightness) if is_on[0] else 0.0,
            "contrast": draw.uniform(*self.contrast) if is_on[1] else 1.0,
            "saturation": draw.uniform(*self.saturation) if is_on[2] else 1.0,
            "turned": int(draw.integers(-self.hue, self.hue)) if is_on[3] and self.hue else 0,
            "contrast_last": bool(draw.random() < 0.5),
        }

    def apply(
        self,
        img: Picture,
        added: float,
        contrast: float,
        saturation: float,
        turned: int,
        contrast_last: bool,
        **params: Any,
    ) -> Picture:
        _check(img, (3,), "PhotometricDistortion")
        brightness, contrasted = linear_table(1.0, added), linear_table(contrast, 0.0)
        img = sz_lut(img, brightness if contrast_last else contrasted[brightness], inplace=False)
        if saturation != 1 or turned:
            img = _saturate_and_turn(img, saturation, turned)
        return sz_lut(img, contrasted, inplace=True) if contrast_last else img

    def get_transform_init_args_names(self) -> tuple[str, ...]:
        return ("brightness", "contrast", "saturation", "hue")


def linear_table(factor: float, added: float) -> NDArray[np.uint8]:
    """(256,) what each value becomes: value * factor + added, cut to 0..255, fractions dropped as torchvision does."""
    return np.clip(np.arange(256, dtype=np.float32) * np.float32(factor) + np.float32(added), 0, 255).astype(np.uint8)


def adjust_brightness(image: Picture, factor: float) -> Picture:
    """All values times `factor`."""
    return image if factor == 1 else sz_lut(image, linear_table(factor, 0.0), inplace=False)


def adjust_contrast(image: Picture, factor: float) -> Picture:
    """Away from (factor > 1) or toward the mean grey value of the picture."""
    if factor == 1:
        return image
    means = cv2.mean(image)
    mean = float(np.dot(means[:3], GREY)) if image.shape[2] == 3 else means[0]
    if factor == 0:
        return np.full_like(image, int(mean + 0.5))
    return sz_lut(image, linear_table(factor, mean * (1 - factor)), inplace=False)


def adjust_saturation(image: Picture, factor: float) -> Picture:
    """Away from (factor > 1) or toward the grey value of each pixel of an RGB picture."""
    if factor == 1:
        return image
    return cv2.transform(image, factor * np.eye(3) + (1 - factor) * np.array([GREY]))  # type: ignore[return-value]


def adjust_hue(image: Picture, turn: float) -> Picture:
    """Every color of an RGB picture turned by `turn` circles of hue, -0.5..0.5."""
    steps = round(turn * 256) % 256
    if not steps:
        return image
    hsv: Any = cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL)
    rows = hsv.reshape(len(hsv), -1)
    rows += np.tile(np.array([steps, 0, 0], np.uint8), image.shape[1])  # bytes wrap around as the circle does
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)


def _saturate_and_turn(image: Picture, saturation: float, turned: int) -> Picture:
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    if turned:
        hue = np.arange(256) + turned
        _replace_channel(hsv, 0, (hue % 180).astype(np.uint8))
    if saturation != 1:
        _replace_channel(hsv, 1, linear_table(saturation, 0.0))
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)  # type: ignore[return-value]


def _replace_channel(picture: Any, channel: int, table: NDArray[np.uint8]) -> None:
    values: Any = cv2.extractChannel(picture, channel)
    cv2.insertChannel(sz_lut(values, table, inplace=True), picture, channel)


def _check(image: NDArray[Any], channels: tuple[int, ...], name: str) -> None:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in channels:
        raise DataError(
            f"{name} works on pictures of {' or '.join(map(str, channels))} channels of 8 bits; this one is "
            f"{image.dtype} {image.shape}. Leave it out of `augment`, or use a transform that knows such channels."
        )
