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
| several pages or frames | refused, but for what only accompanies the | as a picture                        |
|                         | first: overviews and masks of a TIFF, a    |                                     |
|                         | phone's second exposure (MPO)              |                                     |
| EXIF orientation        | applied                                    | applied                             |

Whatever cannot be read whole (missing, empty, truncated, corrupt, no regular file) is a `DataError` that names the file, and
so is what would exhaust the machine: size and number of scans are looked at before anything is decoded. The limit is 178
megapixels, which is Pillow's; the environment variable TRIMASK_MAX_PIXELS sets another one, e.g. 4e8 for satellite scenes,
of which each then takes three bytes a pixel (and as much again while it is decoded). Only formats that are decoded within
this process are opened, so that no file can start Ghostscript.

Color JPEGs, and grey and color PNGs, go through OpenCV, which is up to twice as fast as Pillow and equal to the bit; it also
refuses PNGs whose checksums are wrong, some of which Pillow reads without notice.
"""

from __future__ import annotations

import io
import os
import re
import stat
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, TiffImagePlugin, UnidentifiedImageError

from trimask.data.files import printable
from trimask.types import DataError

DEFAULT_MAX_PIXELS = 178_956_970  # what Pillow refuses by default: twice its MAX_IMAGE_PIXELS
FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "WEBP", "GIF", "PPM", "JPEG2000")
_OPENCV_MAX_PIXELS = 1 << 30  # its own limit, which only a variable set before its import changes
_MAX_SCANS = 100  # encoders write about ten; each is a pass over all pixels
_JPEG_SCAN = b"\xff\xda"
_MAX_OVERVIEWS = 32
_NEW_SUBFILE_TYPE, _OVERVIEW_OR_MASK = 254, 0b101  # TIFF 6.0, page 36
_LARGE_FILE = 1 << 26  # bytes, above which the header is looked at before the file is read
_MAX_PIXEL_BYTES = 16  # twice four channels of 16 bits
_MAX_JPEG_RATIO = 1024  # pixels a byte, twice what Huffman codes can reach: one bit for each block of 64 pixels
_MAX_PNG_EXTRA = 1 << 22  # bytes of color profiles and texts
_PNG_ORIENTATION = (b"eXIf", b"Raw profile type", b"XML:com.adobe.xmp")  # the names of what can hold it
_MAX_PLAIN_EXTRA = 1 << 16  # the same, in a PNG that is nothing but pixels
# What lies in a data folder under a picture's name, by its first bytes in lower case
_NO_PICTURES = {
    b"version https://git-lfs": "it is a pointer of Git LFS. Fetch the file itself with `git lfs pull`.",
    b"<": "it is a web page or XML; a download that failed leaves such files. Fetch it again.",
    b"%!ps": "it is PostScript, which is not opened. Convert it.",
    b"%pdf": "it is a PDF. Convert its pages.",
    b"pk\x03\x04": "it is a ZIP archive. Unpack it.",
    b"\x1f\x8b": "it is a gzip archive. Unpack it.",
}
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


def max_pixels() -> int:
    """The largest picture that is decoded: TRIMASK_MAX_PIXELS, or DEFAULT_MAX_PIXELS."""
    text = os.environ.get("TRIMASK_MAX_PIXELS") or str(DEFAULT_MAX_PIXELS)
    try:
        limit = int(float(text))
    except (ValueError, OverflowError) as error:
        raise DataError(f"TRIMASK_MAX_PIXELS is a number of pixels such as 400000000 or 4e8; got {text!r}.") from error
    if limit < 1:
        raise DataError(f"TRIMASK_MAX_PIXELS is at least 1; got {text!r}.")
    return limit


def _read(path: Path, pixels: Callable[[Image.Image, bytes], NDArray[Any]]) -> NDArray[Any]:
    """The pixels of a file, upright; every way to fail becomes a DataError with the file's name."""
    name = printable(path)
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # reading a pipe would wait forever, reading a device never end
            raise DataError(f"{name}: cannot be read: a {_kind_of_entry(status.st_mode)} is no picture.")
        with path.open("rb") as file:
            if status.st_size > _LARGE_FILE:
                _check_large(file, name, status.st_size)
            data = file.read()
    except DataError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the path
        raise DataError(f"{name}: cannot be read: {getattr(error, 'strerror', None) or error}.") from error
    return _decode(data, name, pixels)


def _kind_of_entry(mode: int) -> str:
    kinds = {stat.S_IFDIR: "folder", stat.S_IFIFO: "pipe", stat.S_IFSOCK: "socket"}
    return kinds.get(stat.S_IFMT(mode), "device")


def _check_large(file: BinaryIO, name: str, num_bytes: int) -> None:
    """Refuses by its header what would be read in vain; the file is at its start afterwards."""
    with _errors_named(name):
        width, height = _opened(file, name).size
    if num_bytes > width * height * _MAX_PIXEL_BYTES + _LARGE_FILE:
        raise DataError(f"{name}: {num_bytes / 1e9:.1f} GB are no {width}x{height} pixels. Fetch it again.")
    file.seek(0)


def _decode(data: bytes, name: str, pixels: Callable[[Image.Image, bytes], NDArray[Any]]) -> NDArray[Any]:
    if not data:
        raise DataError(f"{name}: the file is empty (0 bytes). Fetch it again.")
    with _errors_named(name), _opened(io.BytesIO(data), name) as picture:
        if picture.format == "JPEG":
            _check_jpeg(picture, data)
        raw = pixels(picture, data)
        # To ask a PNG for its orientation makes Pillow decode it, for it may be told after the pixels.
        if picture.format == "PNG" and not any(key in data for key in _PNG_ORIENTATION):
            return raw
        return _upright(raw, picture)


def _check_jpeg(picture: Image.Image, data: bytes) -> None:
    """Refuses a JPEG of which nearly everything is lost, which decoders fill with grey, and one that keeps them busy."""
    if len(data) < picture.width * picture.height // _MAX_JPEG_RATIO:
        raise ValueError(f"{len(data)} bytes cannot hold {picture.width}x{picture.height} pixels")
    if picture.info.get("progressive") and data.count(_JPEG_SCAN) > _MAX_SCANS:
        raise ValueError(f"a JPEG of more than {_MAX_SCANS} passes only keeps decoders busy")


@contextmanager
def _errors_named(name: str) -> Iterator[None]:
    try:
        yield
    except DataError:
        raise
    except MemoryError as error:
        raise DataError(f"{name}: there is not enough memory to decode it. Cut it into tiles.") from error
    except Exception as error:  # on damaged bytes the decoders raise whatever they stumble upon
        raise DataError(f"{name}: not a picture that can be read whole ({error}). Fetch or convert it.") from error


def _opened(file: BinaryIO, name: str) -> Image.Image:
    """A picture of which only the header is read yet, and is found to be decodable within bounds."""
    limit = max_pixels()
    if Image.MAX_IMAGE_PIXELS is not None:
        Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, limit)  # the check below is the stricter one
    try:
        picture = Image.open(file, formats=FORMATS)
    except Image.DecompressionBombError as error:
        count = next(iter(re.findall(r"\d+", str(error))), "its")  # Pillow tells the size in its message alone
        raise DataError(f"{name}: {count} pixels {_advice(limit)}") from error
    except UnidentifiedImageError as error:
        raise DataError(f"{name}: not a picture that can be read whole: {_content(file)}") from error
    width, height = picture.size
    if isinstance(picture, TiffImagePlugin.TiffImageFile):  # whole tiles are decoded, however large they are
        width = max(width, int(picture.tag_v2.get(TiffImagePlugin.TILEWIDTH, 0)))
        height = max(height, int(picture.tag_v2.get(TiffImagePlugin.TILELENGTH, 0)))
    if width * height > limit:
        raise DataError(f"{name}: {width}x{height} pixels {_advice(limit)}")
    if pages := _pages(picture):
        raise DataError(f"{name}: it holds several {pages}, and nobody can tell which is meant. Save each as a file.")
    return picture


def _advice(limit: int) -> str:
    return (
        f"are more than the limit of {limit / 1e6:.6g} megapixels. Cut it into tiles, or raise the limit with the "
        f"environment variable TRIMASK_MAX_PIXELS if the memory suffices."
    )


def _pages(picture: Image.Image) -> str:
    """What a file holds several of, "pages" or "frames"; an empty text if it holds only what accompanies one picture."""
    if not getattr(picture, "is_animated", False) or picture.format == "MPO":
        return ""
    if not isinstance(picture, TiffImagePlugin.TiffImageFile):
        return "frames"
    for page in range(1, _MAX_OVERVIEWS):
        try:
            picture.seek(page)
        except EOFError:
            picture.seek(0)
            return ""
        if not int(picture.tag_v2.get(_NEW_SUBFILE_TYPE, 0)) & _OVERVIEW_OR_MASK:
            break
    return "pages"


def _content(file: BinaryIO) -> str:
    """What the first bytes of a file that is no known picture tell, and what to do."""
    file.seek(0)
    start = file.read(64)
    for magic, content in _NO_PICTURES.items():
        if start.lstrip().lower().startswith(magic):
            return content
    if start[:4] in (b"II*\0", b"MM\0*"):
        return f"a TIFF of {_bands(file)}. Convert it to 1 or 3 bands of 8 or 16 bits."
    return f"it begins with {start[:8]!r}, as no known format does. Fetch or convert it."


def _bands(file: BinaryIO) -> str:
    file.seek(0)
    tags = TiffImagePlugin.ImageFileDirectory_v2(file.read(8))
    file.seek(tags.next)
    tags.load(file)
    bits, kind = tags.get(TiffImagePlugin.BITSPERSAMPLE, (1,)), tags.get(TiffImagePlugin.SAMPLEFORMAT, (1,))
    kinds = {1: "unsigned integers", 2: "signed integers", 3: "floating point numbers"}
    num_bands = tags.get(TiffImagePlugin.SAMPLESPERPIXEL, 1)
    return f"{num_bands} band(s) of {bits[0]}-bit {kinds.get(kind[0], 'values')}"


def _upright(raw: NDArray[Any], picture: Image.Image) -> NDArray[Any]:
    orientation = picture.getexif().get(ExifTags.Base.Orientation, 1)
    return _UPRIGHT[orientation](raw) if orientation in _UPRIGHT else raw


def _picture_pixels(picture: Image.Image, data: bytes) -> NDArray[Any]:
    # A truncated JPEG has lost its end marker; Pillow refuses it, older OpenCV would fill up with grey.
    plain = picture.format == "JPEG" and picture.mode == "RGB" and data.endswith(_JPEG_END)
    if plain and picture.width * picture.height <= _OPENCV_MAX_PIXELS:
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
    if picture.format == "PNG" and picture.mode in ("L", "RGB", "RGBA"):
        bits = data[24]
        if bits == 16:  # of which Pillow keeps the upper byte only
            return _png_pixels(data, "RGB")
        if bits == 8 and _is_plain_png(picture, data):
            return _png_pixels(data, picture.mode)
    raw = np.array(picture)
    return raw.astype(np.uint8) if raw.dtype == np.bool_ else raw.astype(raw.dtype.newbyteorder("="), copy=False)


def _is_plain_png(picture: Image.Image, data: bytes) -> bool:
    """Whether a PNG of 8 bits is nothing but pixels: libpng prints a warning for every color profile that it dislikes, and
    inflates what comes after the last pixel."""
    num_pixels = picture.width * picture.height
    fits = num_pixels <= _OPENCV_MAX_PIXELS and len(data) <= 5 * num_pixels + _MAX_PLAIN_EXTRA
    return fits and "icc_profile" not in picture.info


def _png_pixels(data: bytes, mode: str) -> NDArray[Any]:
    """Args: mode: "L", "RGB" or "RGBA", as Pillow has it; a transparent color makes no channel."""
    width, height = struct.unpack(">II", data[16:24])
    if len(data) > width * height * _MAX_PIXEL_BYTES + _MAX_PNG_EXTRA:  # libpng would inflate all of it
        raise ValueError(f"{len(data)} bytes are far more than {width}x{height} pixels take")
    raw = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if raw is None:
        raise ValueError("OpenCV cannot decode this PNG")
    if mode == "L":
        return raw if raw.ndim == 2 else cv2.extractChannel(raw, 0)
    if raw.shape[2] == 3:
        return cv2.cvtColor(raw, cv2.COLOR_BGR2RGB)
    return cv2.cvtColor(raw, cv2.COLOR_BGRA2RGBA if mode == "RGBA" else cv2.COLOR_BGRA2RGB)
