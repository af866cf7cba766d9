"""What checks look at in a worker: a sample with its files, or a file alone. Everything is read once, when asked for.

Own work.
"""

from __future__ import annotations

import os
import stat
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from trimask.data.decode import FORMATS, read_image, read_mask
from trimask.data.doctor.findings import Where
from trimask.data.files import PICTURE_SUFFIXES, printable
from trimask.data.label_map import LabelMap
from trimask.data.segments import ValueIndex, color_ids
from trimask.types import ClassSpec, DataError, Sample, SegmentationDataset, Size

_PNG_DEPTH = 24  # the byte of a PNG that holds its bits a channel
_PNG_EXIF = (b"eXIf", b"Raw profile type exif")
MAX_VALUES = 512  # distinct values of one mask that travel to the main process, the most frequent first

Role = Literal["picture", "annotation", "alone"]


class Header(NamedTuple):
    """What a picture file says about itself.

    Attributes:
        format: Pillow's name of it, e.g. "PNG".
        mode: Pillow's, e.g. "L", "P", "RGB"; "RGB;16" and "RGBA;16" for 16-bit color PNGs.
        size: (height, width) as stored.
        orientation: EXIF's, 1 if there is none.
    """

    format: str
    mode: str
    size: Size
    orientation: int

    @property
    def upright(self) -> Size:
        """(height, width) after the rotation that EXIF asks for."""
        return self.size[::-1] if self.orientation in (5, 6, 7, 8) else self.size


class File:
    """A file on disk."""

    def __init__(self, path: str, role: Role) -> None:
        self.path, self.role = path, role

    @property
    def is_picture(self) -> bool:
        """Whether its name says that it is a picture."""
        return Path(self.path).suffix.lower() in PICTURE_SUFFIXES

    @cached_property
    def num_bytes(self) -> int | None:
        """None for what is not there, or is no regular file."""
        try:
            status = os.stat(self.path)
        except (OSError, ValueError):
            return None
        return status.st_size if stat.S_ISREG(status.st_mode) else None

    @cached_property
    def header(self) -> Header | None:
        """None for what is no picture, or is so broken that not even its header can be read."""
        if not self.is_picture or not self.num_bytes:
            return None
        try:
            with open(self.path, "rb") as file, Image.open(file, formats=FORMATS) as picture:
                mode, kind = picture.mode, str(picture.format)
                if kind == "PNG":
                    file.seek(0)
                    data = file.read()
                    mode += ";16" * (mode in ("RGB", "RGBA") and data[_PNG_DEPTH] == 16)
                    if not any(word in data for word in _PNG_EXIF):  # Pillow decodes all pixels to look for it
                        return Header(kind, mode, (picture.height, picture.width), 1)
                turned = int(picture.getexif().get(ExifTags.Base.Orientation, 1))
                return Header(kind, mode, (picture.height, picture.width), turned)
        except Exception:  # on damaged bytes the decoders raise whatever they stumble upon; `problem` says it
            return None

    @cached_property
    def _read(self) -> tuple[NDArray[Any] | None, str]:
        if not self.is_picture:
            return None, ""
        readers = {"picture": [read_image], "annotation": [read_mask], "alone": [read_mask, read_image]}[self.role]
        problem = ""
        for read in readers:
            try:
                return read(self.path), ""
            except DataError as error:
                problem = problem or str(error)
        return None, problem

    @property
    def pixels(self) -> NDArray[Any] | None:
        """A picture as `read_image` reads it, an annotation as `read_mask` does, a file alone by whichever takes it; None if
        it cannot be read."""
        return self._read[0]

    @property
    def absence(self) -> str:
        """Why there is nothing to read, or ""."""
        if self.num_bytes is None:
            return f"{printable(self.path)} does not exist, may not be read, or is no regular file."
        if not self.num_bytes:
            return f"{printable(self.path)} is empty (0 bytes)."
        return ""

    @property
    def problem(self) -> str:
        """Why it cannot be read, or ""."""
        return self.absence or self._read[1]


class Subject:
    """A sample of a dataset with all that it comes from, or a file alone.

    Attributes:
        where: which one.
        files: the picture first; a `File` of the role "alone" for a file that belongs to no sample.
        classes, offers: the dataset's; None and empty for a file alone.
    """

    def __init__(self, where: Where, dataset: SegmentationDataset | None) -> None:
        self.where, self._dataset = where, dataset
        roles: list[Role] = ["picture" if i == 0 else "annotation" for i in range(len(where.files))]
        self.files = [File(path, role if dataset else "alone") for path, role in zip(where.files, roles, strict=True)]
        self.classes: ClassSpec | None = dataset.classes if dataset else None
        self.offers: frozenset[str] = dataset.offers if dataset else frozenset()

    @cached_property
    def _read(self) -> tuple[Sample | None, str]:
        if self._dataset is None:
            return None, ""
        try:
            return self._dataset[self.where.index], ""
        except DataError as error:
            return None, str(error)
        except Exception as error:  # a dataset's own fault must not end the examination of all the others
            return None, f"{type(self._dataset).__name__} failed with {type(error).__name__}: {error}"

    @property
    def sample(self) -> Sample | None:
        """None where the dataset refuses it, and for a file alone."""
        return self._read[0]

    @property
    def refusal(self) -> str:
        """What the dataset said when it refused the sample, or ""."""
        return self._read[1]

    @cached_property
    def areas(self) -> NDArray[np.int64]:
        """(N,) visible pixels of each segment of the sample."""
        return self.sample.areas() if self.sample is not None else np.zeros(0, np.int64)

    @cached_property
    def num_labelled(self) -> int:
        """Pixels of the sample that belong to a segment."""
        if self.sample is None:
            return 0
        layers = self.sample.segments
        return int(np.count_nonzero(layers[0] if len(layers) == 1 else (layers > 0).any(axis=0)))

    @property
    def picture(self) -> NDArray[np.uint8] | None:
        """(H, W, K) or None."""
        if self.sample is not None:
            return self.sample.image
        return self.files[0].pixels if self.files and self.files[0].role == "picture" else None

    @cached_property
    def label_map(self) -> LabelMap | None:
        """The dataset's explicit map from raw values to classes that fits this mask: of those of its kind (values or colors)
        the one that leaves the fewest pixels unlisted. Of another kind if there is no other; None if it has none."""
        maps = label_maps(self._dataset)
        if self.mask is None or self.mask.pixels is None:
            return next(iter(maps), None)
        is_color = self.mask.pixels.ndim == 3

        def misfit(label_map: LabelMap) -> tuple[bool, int]:
            unlisted = sum(count for value, count in self.values.items() if value not in label_map.names)
            return label_map.is_color != is_color, unlisted

        return min(maps, key=misfit, default=None)

    @cached_property
    def mask(self) -> File | None:
        """The first annotation file, if it is a picture."""
        return self.files[1] if len(self.files) > 1 and self.files[1].is_picture else None

    @cached_property
    def values(self) -> dict[int, int]:
        """Raw value (or RRGGBB) -> pixels of the mask; for a file alone, of that file if it is small in variety."""
        file = self.mask if self._dataset is not None else self.files[0]
        return count_values(file.pixels) if file is not None and file.pixels is not None else {}

    @property
    def wrong_kind(self) -> bool:
        """Whether the mask holds colors where the class map lists values, or the reverse, and is refused."""
        label_map = self.label_map
        if label_map is None or not self.refusal or self.mask is None or self.mask.pixels is None:
            return False
        return label_map.is_color != (self.mask.pixels.ndim == 3)

    @cached_property
    def unlisted(self) -> dict[int, int]:
        """Raw values that the class map does not list; empty unless the dataset refuses the sample for them."""
        label_map = self.label_map
        if label_map is None or not self.refusal or self.wrong_kind:
            return {}
        return {value: count for value, count in self.values.items() if value not in label_map.names}

    @property
    def sizes(self) -> tuple[Size, Size] | None:
        """(height, width) of picture and mask, upright; None where one of them has no size."""
        if self.mask is None or self.mask.header is None or self.files[0].header is None:
            return None
        return self.files[0].header.upright, self.mask.header.upright


def label_maps(dataset: Any) -> list[LabelMap]:
    """All maps from raw values or colors to classes that a dataset, or the one inside it, has as attributes."""
    found = [value for value in getattr(dataset, "__dict__", {}).values() if isinstance(value, LabelMap)]
    inner = getattr(dataset, "dataset", None)
    return found or (label_maps(inner) if inner is not None else [])


def count_values(raw: NDArray[Any]) -> dict[int, int]:
    """Distinct values, or colors as RRGGBB, with their pixels; at most MAX_VALUES, the most frequent first."""
    plane = color_ids(raw) if raw.ndim == 3 else raw
    index = ValueIndex(np.ascontiguousarray(plane))
    places = index.replace(np.arange(len(index.values), dtype=np.int32))
    counts = np.bincount(places.ravel(), minlength=len(index.values))
    order = np.argsort(-counts, kind="stable")[:MAX_VALUES]
    return {int(index.values[i]): int(counts[i]) for i in order}
