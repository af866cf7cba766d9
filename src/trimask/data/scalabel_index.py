"""Scalabel JSON of any size: read once as a stream, of which names, frame tags and positions are kept.

A file is {"frames": [...], "config": {...}} or a bare list of frames. A sample then reads and decodes its own frame alone, so
that no process ever holds the labels of a whole file: an index takes about 100 bytes a frame.

What it costs, measured on a file like det_train.json of BDD100K (486 MB, 70,000 frames, one core): 4.2 s and 10 MB of memory
the first time, 0.02 s from then on, 0.15 ms to read a frame. Own work on the format of https://doc.scalabel.ai/format.html.
"""

from __future__ import annotations

import json
import zipfile
from array import array
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from trimask.data.files import listed, repeated_names
from trimask.data.json_stream import elements, stamp_of, values_at
from trimask.data.kept import Kind, made_once
from trimask.types import DataError

TAGS = ("weather", "scene", "timeofday")  # the frame attributes of BDD100K that become tags of a sample
KEPT = Kind("frames", ".npz", "trimask frames 1")


class FrameIndex:
    """Where the frames of a file are, what they are called and how they are tagged, in the order of the file.

    Attributes:
        source: the file, absolute.
        stamp: its size in bytes and its time of modification in nanoseconds, when it was read.
        names: as the file has them.
        spans: (F, 2) int64 first byte and number of bytes.
        tag_codes: (F,) int32 row of `tag_table`.
        tag_table: the different sets of tags that occur.
        categories: the leaves of `config.categories`, as the file has them; None where it has none.
    """

    def __init__(
        self,
        source: str,
        stamp: Sequence[int],
        names: list[str],
        spans: NDArray[np.int64],
        tag_codes: NDArray[np.int32],
        tag_table: list[dict[str, str]],
        categories: list[dict[str, Any]] | None,
    ) -> None:
        self.source, self.stamp, self.names, self.spans = source, (stamp[0], stamp[1]), names, spans
        self.tag_codes, self.tag_table, self.categories = tag_codes, tag_table, categories

    def __len__(self) -> int:
        return len(self.names)

    def tags(self, row: int) -> dict[str, str]:
        return self.tag_table[self.tag_codes[row]]

    def frame(self, row: int) -> dict[str, Any]:
        """A frame as the file has it, read from it now.

        Raises:
            DataError: the file is gone or was changed since its index was made.
        """
        return values_at(self.source, [self.spans[row].tolist()], self.stamp)[0]


def open_frames(path: str | Path) -> FrameIndex:
    """The index of a file, from the cache folder where the file is large; see `kept.made_once`.

    Raises:
        DataError: the file is no Scalabel file, or two of its frames have the same name.
    """
    return made_once(path, KEPT, make=build, load=_load, save=_save)


def build(source: str) -> FrameIndex:
    """Reads a file as a stream."""
    stamp = stamp_of(source)
    names, spans, codes = [], array("q"), array("i")
    table: dict[tuple[tuple[str, str], ...], int] = {}
    categories = None
    for element in elements(source):
        if element.is_element and element.key in ("", "frames"):
            frame = element.value
            if not isinstance(frame, dict) or not isinstance(frame.get("name"), str) or not frame["name"]:
                raise DataError(f"{source}: the frame at byte {element.start} is no object with a `name`.")
            names.append(frame["name"])
            spans.extend((element.start, element.length))
            codes.append(table.setdefault(_tags(frame), len(table)))
        elif element.key == "config" and isinstance(element.value, dict) and element.value.get("categories"):
            categories = list(_leaves(element.value["categories"], source))
        elif element.key == "frames" and element.value != []:
            raise DataError(f"{source}: `frames` is no list of frames.")
    if not names:
        raise DataError(f"{source}: the file has no frames; a Scalabel file is a list of them, or has it as `frames`.")
    if repeated := repeated_names(names):
        raise DataError(f"{source}: the file has frames twice: {listed(repeated)}.")
    return FrameIndex(
        source,
        stamp,
        names,
        np.array(spans, np.int64).reshape(-1, 2),
        np.array(codes, np.int32),
        [dict(tags) for tags in table],
        categories,
    )


def _tags(frame: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    attributes = frame.get("attributes")
    if not isinstance(attributes, dict):
        return ()
    return tuple((key, attributes[key]) for key in TAGS if isinstance(attributes.get(key), str) and attributes[key])


def _leaves(categories: Any, source: str) -> Iterator[dict[str, Any]]:
    """The categories without subcategories, at any depth."""
    for category in categories if isinstance(categories, list) else [None]:
        if not isinstance(category, dict) or not isinstance(category.get("name"), str):
            raise DataError(f"{source}: `config.categories` is no list of categories with a name.")
        if category.get("subcategories"):
            yield from _leaves(category["subcategories"], source)
        else:
            yield category


# --- kept indexes: one .npz a file ---


def _save(index: FrameIndex, out: BinaryIO) -> None:
    texts = {
        "source": index.source,
        "stamp": index.stamp,
        "names": index.names,
        "tag_table": index.tag_table,
        "categories": index.categories,
    }
    header = np.frombuffer(json.dumps(texts).encode(), np.uint8)
    np.savez(out, header=header, spans=index.spans, tag_codes=index.tag_codes)


def _load(file: Path) -> FrameIndex | None:
    """A kept index; None if there is none that is whole."""
    try:
        with np.load(file, allow_pickle=False) as arrays:
            texts = json.loads(arrays["header"].tobytes())
            return FrameIndex(spans=arrays["spans"], tag_codes=arrays["tag_codes"], **texts)
    except (OSError, ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile):
        return None
