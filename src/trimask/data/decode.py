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
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from trimask.types import DataError

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
    """A mask as it is stored, upright: (H, W) integers, or (H, W, 3 or 4) uint8 colors. `label_map.LabelMap` gives it meaning.

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
