"""What the raw values, or the colors, of a mask mean: from a mask as it is stored to labels and to a semantic sample.

The one explicit map from raw value to class takes the place of hidden shifts and of `reduce_zero_label`. Own work.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimask.data.segments import ValueIndex, color_ids, from_semantic, segment_dtype
from trimask.types import ClassSpec, DataError, Sample

IGNORE = "ignore"  # the word that stands for "unlabelled" where a class map asks for a class name


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
        self.num_classes, self.ignore_index = len(classes), classes.ignore_index
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
        index = self._index(raw, path)
        return index.replace(self._labels_of(index.values))

    def segments(self, raw: NDArray[Any], path: str | Path) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """The same in one pass as segments (1, H, W) and labels (N,): one segment for each class that occurs.

        Raises:
            DataError: as for a call.
        """
        index = self._index(raw, path)
        labels = self._labels_of(index.values)
        present = np.unique(labels[labels != self.ignore_index]).astype(np.int64)
        rows = np.where(labels == self.ignore_index, 0, np.searchsorted(present, labels) + 1)
        return index.replace(rows.astype(segment_dtype(len(present))))[None], present

    def _index(self, raw: NDArray[Any], path: str | Path) -> ValueIndex:
        """The values of a mask, all of them listed."""
        if self.is_color != (raw.ndim == 3):
            raise DataError(self._wrong_kind(path))
        index = ValueIndex(color_ids(raw) if self.is_color else raw)
        if not np.isin(index.values, self.keys).all():
            raise DataError(self._unlisted(index.raw, path))
        return index

    def _labels_of(self, values: NDArray[Any]) -> NDArray[Any]:
        return self.labels[np.searchsorted(self.keys, values)]

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


def semantic_sample(
    image: NDArray[np.uint8],
    labels: NDArray[Any],
    name: str,
    *,
    ignore_index: int,
    meta: dict[str, str] | None = None,
) -> Sample:
    """A picture and its (H, W) class map as a `Sample` with one segment for each class that occurs."""
    segments, present = from_semantic(labels, ignore_index)
    return Sample(image, segments, present, np.zeros(len(present), np.bool_), name, meta or {})
