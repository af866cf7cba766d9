"""Picture files -> arrays: one policy for every data set. Own work.

| file                    | as a picture (`read_image`)                | as a mask (`read_mask`)             |
|-------------------------|--------------------------------------------|-------------------------------------|
| grey, 8 bit             | three equal channels                       | its values                          |
| grey or color, 16 bit   | scaled to 8 bit, value / 257 rounded       | grey: its values; color: refused    |
| palette                 | its colors                                 | its indices                         |
| RGB, RGBA               | RGB; alpha is dropped                      | its colors, which need a color map  |
| bilevel                 | 0 and 255                                  | 0 and 1                             |
| 32-bit integers         | refused                                    | its values                          |
| other (CMYK, grey+alpha)| converted to RGB by Pillow                 | refused                             |
| floating point          | refused                                    | refused                             |
| EXIF orientation        | applied                                    | applied                             |

Whatever cannot be read whole (missing, empty, truncated, corrupt, more than Pillow's limit of 178 megapixels) is a
`DataError` that names the file. Color JPEGs go through OpenCV, which is twice as fast as Pillow and equal to the bit.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from trimask.types import ClassSpec, DataError

IGNORE = "ignore"  # the word that stands for "unlabelled" where a class map asks for a class name

_JPEG_END = b"\xff\xd9"
_PICTURE_ONLY_MODES = ("CMYK", "YCbCr", "LAB", "HSV", "LA", "PA", "La", "RGBa", "RGBX")
# EXIF orientation -> what brings the stored rows and columns upright (EXIF 2.32, table 6)
_UPRIGHT: dict[int, Callable[[NDArray[Any]], NDArray[Any]]] = {
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a[::-1].swapaxes(0, 1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: a[:, ::-1].swapaxes(0, 1),
}


def read_image(path: str | Path) -> NDArray[np.uint8]:
    """A picture as (H, W, 3) uint8 RGB, upright.

    Raises:
        DataError: the file is missing, empty, truncated, corrupt, too large, or has no 8 or 16 bit channels.
    """
    return _as_rgb(_read(Path(path), _picture_pixels), str(path))


def decode_image(picture: bytes | Image.Image, name: str) -> NDArray[np.uint8]:
    """Encoded bytes or a Pillow picture by the rules of `read_image`; `name` is for error messages."""
    if isinstance(picture, Image.Image):
        raw = _upright(_picture_pixels(picture, b""), picture)
    else:
        raw = _decode(picture, name, _picture_pixels)
    return _as_rgb(raw, name)


def _as_rgb(raw: NDArray[Any], name: str) -> NDArray[np.uint8]:
    if raw.dtype == np.uint16:
        raw = ((raw.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if raw.dtype != np.uint8:
        raise DataError(f"{name}: its pixels are {raw.dtype}; pictures have 8 or 16 bits a channel. Convert it.")
    return np.repeat(raw[..., None], 3, axis=2) if raw.ndim == 2 else np.ascontiguousarray(raw[..., :3])


def read_mask(path: str | Path) -> NDArray[Any]:
    """A mask as it is stored, upright: (H, W) integers, or (H, W, 3 or 4) uint8 colors. `LabelMap` gives it meaning.

    Raises:
        DataError: as `read_image`, or the file's pixels are neither integers nor 8-bit RGB(A).
    """
    raw = _read(Path(path), _stored_pixels)
    if raw.dtype.kind not in "ui" or (raw.ndim == 3 and raw.dtype != np.uint8):
        raise DataError(
            f"{path}: a mask of {raw.dtype} pixels with {raw.shape[2:] or 1} channel(s) has no integer ids and no "
            f"8-bit colors. Save it as a grey or palette PNG of ids, or as RGB."
        )
    return np.ascontiguousarray(raw)


def _read(path: Path, pixels: Callable[[Image.Image, bytes], NDArray[Any]]) -> NDArray[Any]:
    """The pixels of a file, upright; every way to fail becomes a DataError with the file's name."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}.") from error
    return _decode(data, str(path), pixels)


def _decode(data: bytes, name: str, pixels: Callable[[Image.Image, bytes], NDArray[Any]]) -> NDArray[Any]:
    if not data:
        raise DataError(f"{name}: the file is empty (0 bytes). Fetch it again.")
    try:
        with Image.open(io.BytesIO(data)) as picture:
            return _upright(pixels(picture, data), picture)
    except Image.DecompressionBombError as error:
        raise DataError(f"{name}: too large to decode safely: {error} Cut it into tiles.") from error
    except Exception as error:  # on damaged bytes the decoders raise whatever they stumble upon
        raise DataError(f"{name}: not a picture that can be read whole ({error}). Fetch or convert it.") from error


def _upright(raw: NDArray[Any], picture: Image.Image) -> NDArray[Any]:
    orientation = picture.getexif().get(ExifTags.Base.Orientation, 1)
    return _UPRIGHT[orientation](raw) if orientation in _UPRIGHT else raw


def _picture_pixels(picture: Image.Image, data: bytes) -> NDArray[Any]:
    # A truncated JPEG has lost its end marker; Pillow refuses it, older OpenCV would fill up with grey.
    if picture.format == "JPEG" and picture.mode == "RGB" and data.endswith(_JPEG_END):
        raw = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
        if raw is None:
            raise ValueError("OpenCV cannot decode this JPEG")
        return cv2.cvtColor(raw, cv2.COLOR_BGR2RGB)
    if picture.mode in ("1", "P", *_PICTURE_ONLY_MODES):
        return np.array(picture.convert("RGB"))
    return _stored_pixels(picture, data)


def _stored_pixels(picture: Image.Image, data: bytes) -> NDArray[Any]:
    if picture.mode in _PICTURE_ONLY_MODES:
        raise ValueError(f"mode {picture.mode} holds no ids; save the mask as a grey or palette PNG of ids")
    if picture.format == "PNG" and picture.mode in ("RGB", "RGBA") and data[24:25] == b"\x10":
        return _color_png_16(data)
    raw = np.array(picture)
    return raw.astype(np.uint8) if raw.dtype == np.bool_ else raw.astype(raw.dtype.newbyteorder("="), copy=False)


def _color_png_16(data: bytes) -> NDArray[Any]:
    """16-bit color PNGs, of which Pillow keeps the upper byte only. Byte 24 of a PNG is its bit depth."""
    raw = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if raw is None:
        raise ValueError("OpenCV cannot decode this PNG")
    return cv2.cvtColor(raw, cv2.COLOR_BGRA2RGB if raw.shape[2] == 4 else cv2.COLOR_BGR2RGB)


class LabelMap:
    """What the raw values, or the colors, of a mask mean.

    Exactly one of `values` and `colors` is given. Everything that a mask holds must be listed.

    Args:
        classes: the classes that the map may name.
        values: raw value -> class name or "ignore".
        colors: hexadecimal "rrggbb" -> class name or "ignore"; an alpha channel takes no part.

    Raises:
        DataError: the map names an unknown class, is empty, or has a key that is no value or color.
    """

    def __init__(
        self,
        classes: ClassSpec,
        *,
        values: Mapping[int, str] | None = None,
        colors: Mapping[str, str] | None = None,
    ) -> None:
        if (values is None) == (colors is None):
            raise DataError("A class map needs either `values` (raw value -> class) or `colors` (rrggbb -> class).")
        self.is_color = colors is not None
        self.num_classes = len(classes)
        self.names: dict[int, str] = dict(values or {})
        if colors is not None:
            self.names = {_color_key(key): name for key, name in colors.items()}
        if not self.names:
            raise DataError("The class map is empty; list every raw value or color with its class name.")
        if wrong := [key for key in self.names if isinstance(key, bool) or not isinstance(key, int)]:
            raise DataError(f"The keys of `values` are integers; {wrong} are not.")
        labels = {**{name: label for label, name in enumerate(classes.names)}, IGNORE: classes.ignore_index}
        if unknown := sorted({str(name) for name in self.names.values() if name not in labels}):
            raise DataError(f"The class map names {unknown}; the classes are {list(classes.names)}, or {IGNORE!r}.")
        self.keys = np.array(sorted(self.names), np.int64)
        self.labels = np.array([labels[self.names[int(key)]] for key in self.keys], np.int32)
        if self.labels.min() >= 0 and self.labels.max() <= 255:
            self.labels = self.labels.astype(np.uint8)

    def __call__(self, raw: NDArray[Any], path: str | Path) -> NDArray[Any]:
        """A mask as read from `path` -> (H, W) labels (uint8, or int32 where the labels need it).

        Raises:
            DataError: the mask holds something that is not in the map; the message says what and how often.
        """
        if self.is_color != (raw.ndim == 3):
            raise DataError(self._wrong_kind(path))
        if self.is_color:
            raw = (raw[..., 0].astype(np.int32) << 16) | (raw[..., 1].astype(np.int32) << 8) | raw[..., 2]
        return self._translate(raw, path)

    def _translate(self, raw: NDArray[Any], path: str | Path) -> NDArray[Any]:
        if raw.dtype == np.uint8:
            counts = cv2.calcHist([raw], [0], None, [256], [0, 256]).ravel()  # (256, 1) before OpenCV 5
            if np.delete(counts, self.keys[(self.keys >= 0) & (self.keys < 256)]).any():
                raise DataError(self._unlisted(raw, path))
            everything = np.arange(256)
            return cv2.LUT(raw, self.labels[np.searchsorted(self.keys, everything).clip(max=len(self.keys) - 1)])
        rows = np.searchsorted(self.keys, raw).clip(max=len(self.keys) - 1)
        if (self.keys[rows] != raw).any():
            raise DataError(self._unlisted(raw, path))
        return self.labels[rows]

    def __str__(self) -> str:
        shown = [f"{self._show(int(key))}: {self.names[int(key)]}" for key in self.keys[:12]]
        return "{" + ", ".join(shown + ["..."] * (len(self.keys) > 12)) + "}"

    def _show(self, key: int) -> str:
        return f"{key:06x}" if self.is_color else str(key)

    def _wrong_kind(self, path: str | Path) -> str:
        if self.is_color:
            return f"{path}: the mask holds single values, but the class map {self} lists colors. Use `values`."
        return f"{path}: the mask holds colors, but the class map {self} lists single values. Use `colors`."

    def _unlisted(self, raw: NDArray[Any], path: str | Path) -> str:
        values, counts = np.unique(raw, return_counts=True)
        new = ~np.isin(values, self.keys)
        values, counts = values[new], counts[new]
        most = np.argsort(-counts, kind="stable")[:5]
        shown = [f"{self._show(int(values[i]))} ({counts[i]} pixels)" for i in most]
        more = f" and {len(values) - 5} more" if len(values) > 5 else ""
        what = "color" if self.is_color else "value"
        return (
            f"{path}: the mask holds {what} {', '.join(shown)}{more}, which the class map {self} does not list. "
            f"{self._hint(values, path)}"
        )

    def _hint(self, unlisted: NDArray[Any], path: str | Path) -> str:
        if len(unlisted) > 5 and Path(path).suffix.lower() in (".jpg", ".jpeg"):
            return "JPEG blurs the values of a mask: save masks as PNG."
        if len(unlisted) > 5 and len(unlisted) > self.num_classes:
            return "So many point to a mask that was smoothed when it was resized or saved: use nearest and PNG."
        if unlisted.tolist() == [self.num_classes] and not self.is_color:
            return "Are its ids counted from 1? Then list 1: <first class>, and so on, and 0 as what it means."
        if unlisted.tolist() == [255] and not self.is_color:
            return f"If 255 is a class, list 255: <class>; if it means unlabelled, list 255: {IGNORE}."
        return f"List it with its class, or with {IGNORE!r}."


def _color_key(key: object) -> int:
    digits = key.removeprefix("#") if isinstance(key, str) else ""
    if len(digits) != 6 or not set(digits.lower()) <= set("0123456789abcdef"):
        raise DataError(f"The keys of `colors` are six hexadecimal digits in quotes, such as 'ff0000'; {key!r} is not.")
    return int(digits, 16)
