"""COCO-style annotation files of any size: read once as a stream, then opened through a small memory-mapped index.

instances_train2017.json is 450 MB, and as Python objects several gigabytes, in every worker. Here the file is read once,
element by element and with a few megabytes of memory. What is kept is where the annotations of each picture stand in the
file, and a few numbers; a sample then reads and parses only its own annotations. The index is 30 bytes an annotation and
lies below the cache folder, so that every later run and every worker maps the same pages of it.

Own work on the format of https://cocodataset.org/#format-data. Accepted beyond it: numbers that are written as text, ids
that are text, `iscrowd` that is missing (not a crowd), and panoptic files without `images`, as DeepLab2 writes them.
"""

from __future__ import annotations

import json
import os
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trimask.data.json_stream import Element, Stamp, elements, integer, stamp_of, values_at
from trimask.data.kept import Kind, made_once
from trimask.types import DataError

LISTS = ("images", "annotations", "categories")
MAGIC = b"trimask annotation index 1\n"  # changes with the format, and so does the name of every file
KEPT = Kind("annotations", ".index", MAGIC.decode())
_ALIGNMENT = 64

Record = dict[str, Any]


class Header(NamedTuple):
    """What is known of a whole file.

    Attributes:
        source: the annotation file, absolute.
        stamp: its size in bytes and its time of modification in nanoseconds, when it was indexed.
        kind: "instances" (a `segmentation` an annotation) or "panoptic" (`segments_info` of a picture).
        categories: as the file has them; None where it has none.
        has_images: whether the file lists its pictures; else they are known by their ids alone.
    """

    source: str
    stamp: Stamp
    kind: str
    categories: list[Record] | None
    has_images: bool


class AnnotationIndex:
    """Which annotations belong to which picture. Pictures are numbered in the order of the file.

    A pickle of it holds the path of the mapped file and nothing else, or the arrays where there is none.

    Attributes:
        header: see `Header`.
        sizes: (P, 2) int32 height and width; 0 where the file does not list its pictures.
        first: (P + 1,) int64; the annotations of picture p are `first[p]` to `first[p + 1]`, in the order of the file.
        category_ids: (A,) int64 as in the file; -1 in a panoptic file, whose segments have categories of their own.
        has_mask: (A,) bool; an annotation may be nothing but a box.
    """

    def __init__(self, header: Header, arrays: Mapping[str, NDArray[Any]], file: str | None = None) -> None:
        self.header, self._arrays, self._file = header, dict(arrays), file
        self.sizes, self.first = arrays["sizes"], arrays["first"]
        self.category_ids, self.has_mask = arrays["category_ids"], arrays["has_mask"]

    def __reduce__(self) -> tuple[Any, ...]:
        if self._file is None:
            return AnnotationIndex, (self.header, self._arrays)
        return _reopened, (self._file, self.header.source)

    @property
    def num_pictures(self) -> int:
        return len(self.sizes)

    def file_name(self, picture: int) -> str:
        """As the file has it, unchecked: see `files.inside`."""
        return self._text("file_names", picture)

    def image_id(self, picture: int) -> str:
        return self._text("image_ids", picture)

    def name(self, picture: int) -> str:
        """Unique: the file name without its ending, or with it where the endings alone tell pictures apart."""
        return self._text("names", picture)

    def records(self, picture: int) -> list[Record]:
        """The annotations of a picture as the file has them, read from it now.

        Raises:
            DataError: the file is gone or was changed since it was indexed.
        """
        return self.read(range(*self.first[picture : picture + 2].tolist()))

    def read(self, rows: Sequence[int]) -> list[Record]:
        """The annotations of these numbers."""
        return values_at(self.header.source, self._arrays["spans"][list(rows)].tolist(), self.header.stamp)

    def _text(self, what: str, row: int) -> str:
        start, end = self._arrays[f"{what}_at"][row : row + 2].tolist()
        return self._arrays[what][start:end].tobytes().decode("utf-8")


def open_index(path: str | Path) -> AnnotationIndex:
    """The index of an annotation file: mapped from the cache folder, where the first to ask for it has put it; that of a small
    file is made each time. See `kept.made_once`.

    Raises:
        DataError: the file is no COCO-style annotation file; see `build`.
    """
    return made_once(path, KEPT, make=build, load=_mapped, save=_write)


# --- from elements to the index ---


class _Numbering:
    """Ids of any kind -> 0, 1, ... in the order in which they appear."""

    def __init__(self) -> None:
        self.numbers: dict[str | int, int] = {}

    def __call__(self, key: str | int) -> int:
        return self.numbers.setdefault(key, len(self.numbers))


class _Columns:
    """What is collected of a file while it is read, in compact arrays."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.categories: list[Record] = []
        self.kinds: set[str] = set()
        self.lists: set[str] = set()
        self.number = _Numbering()
        self.image_keys: list[str | int] = []
        self.file_names: list[str] = []
        self.sizes = array("i")
        self.annotation_ids, self.text_ids = array("q"), list[str]()
        self.image_of, self.category_ids = array("q"), array("q")  # one an annotation, as `has_mask` and `spans`
        self.has_mask, self.spans = array("b"), array("q")

    def add(self, element: Element) -> None:
        key, record, is_element, start, _ = element
        if key == "" and is_element:
            raise DataError(f"{self.path}: a COCO-style file is an object with {', '.join(LISTS)}; this one is a list.")
        if key not in LISTS:
            return
        if not isinstance(record, dict) if is_element else record != []:
            raise DataError(f"{self.path}: at byte {start}: `{key}` is a list of objects.")
        self.lists.add(key)
        if not is_element:
            return
        if key == "images":
            self._image(record)
        elif key == "annotations":
            self._annotation(element)
        else:
            self.categories.append(record)

    def _image(self, record: Record) -> None:
        where = f"{self.path}: the picture {record.get('id', record)!r}"
        self.image_keys.append(_id_of(record, "id", where))
        name = record.get("file_name")
        if not isinstance(name, str) or not name:
            raise DataError(f"{where} has no `file_name`.")
        self.file_names.append(name)
        for side in ("height", "width"):
            length = integer(record.get(side))
            if length is None or not 0 < length < 1 << 31:
                raise DataError(f"{where} has the {side} {record.get(side)!r}; it must be a number of pixels.")
            self.sizes.append(length)

    def _annotation(self, element: Element) -> None:
        record = element.value
        where = f"{self.path}: the annotation {record.get('id', '')!r} (byte {element.start})"
        self.image_of.append(self.number(_id_of(record, "image_id", where)))
        self.spans.extend((element.start, element.length))
        if "segments_info" in record:
            self.kinds.add("panoptic")
            self.category_ids.append(-1)
            self.has_mask.append(1)
            return
        self.kinds.add("instances")
        own = _id_of(record, "id", where)
        self.annotation_ids.append(own) if isinstance(own, int) else self.text_ids.append(own)
        category = integer(record.get("category_id"))
        if category is None or abs(category) >= 1 << 31:
            raise DataError(f"{where} has the category_id {record.get('category_id')!r}; it must be a number.")
        self.category_ids.append(category)
        self.has_mask.append(bool(record.get("segmentation")))

    def kind(self) -> str:
        if "annotations" not in self.lists:
            raise DataError(f"{self.path}: there is no list `annotations` in the file; it has no truth to read.")
        if len(self.kinds) > 1:
            raise DataError(
                f"{self.path}: some annotations have `segments_info`, others have not; a file is of one kind."
            )
        if not self.kinds:
            return "instances"
        return self.kinds.pop()

    def check_ids(self) -> None:
        ids, counts = np.unique(np.frombuffer(self.annotation_ids, np.int64), return_counts=True)
        repeated = [*map(str, ids[counts > 1].tolist()), *(key for key, n in Counter(self.text_ids).items() if n > 1)]
        if repeated:
            shown = ", ".join(repeated[:5]) + (", ..." if len(repeated) > 5 else "")
            raise DataError(f"{self.path}: {len(repeated)} annotation id(s) occur more than once: {shown}.")


def build(source: str) -> AnnotationIndex:
    """Reads an annotation file as a stream and checks what every use of it needs.

    Raises:
        DataError: it is not JSON, ends early, lacks a key, repeats an id, or has an annotation of no picture.
    """
    stamp, columns = stamp_of(source), _Columns(source)
    for element in elements(source):
        columns.add(element)
    kind, has_images = columns.kind(), "images" in columns.lists
    if not has_images:
        if kind != "panoptic":
            raise DataError(f"{source}: there is no list `images` in the file, so its pictures are not known.")
        columns.image_keys = list(columns.number.numbers)
        columns.file_names, columns.sizes = [""] * len(columns.image_keys), array("i", [0, 0] * len(columns.image_keys))
    columns.check_ids()
    categories = columns.categories if "categories" in columns.lists else None
    return AnnotationIndex(Header(source, stamp, kind, categories, has_images), _arrays(columns, stamp))


def _arrays(columns: _Columns, stamp: Stamp) -> dict[str, NDArray[Any]]:
    """The columns in the order of the pictures, which keeps the order of the file for the annotations of each."""
    keys = columns.image_keys
    if len(set(keys)) < len(keys):
        repeated = next(key for key, count in Counter(keys).items() if count > 1)
        raise DataError(f"{columns.path}: the picture id {repeated!r} occurs more than once.")
    picture_of_number = np.full(len(columns.number.numbers), -1, np.int64)
    for picture, key in enumerate(keys):
        if (number := columns.number.numbers.get(key)) is not None:
            picture_of_number[number] = picture
    pictures = picture_of_number[np.frombuffer(columns.image_of, np.int64)]
    if len(pictures) and pictures.min() < 0:
        raise DataError(_no_such_picture(columns, pictures, stamp))
    order = np.argsort(pictures, kind="stable")
    return {
        "sizes": np.frombuffer(columns.sizes, np.int32).reshape(-1, 2),
        "first": np.searchsorted(pictures[order], np.arange(len(keys) + 1)),
        "category_ids": np.frombuffer(columns.category_ids, np.int64)[order],
        "has_mask": np.frombuffer(columns.has_mask, np.bool_)[order],
        "spans": np.frombuffer(columns.spans, np.int64).reshape(-1, 2)[order],
        **_texts("file_names", columns.file_names),
        **_texts("image_ids", [str(key) for key in keys]),
        **_texts("names", _names(columns)),
    }


def _no_such_picture(columns: _Columns, pictures: NDArray[np.int64], stamp: Stamp) -> str:
    row = int(np.argmax(pictures < 0))
    (record,) = values_at(columns.path, [columns.spans[2 * row : 2 * row + 2]], stamp)
    return (
        f"{columns.path}: the annotation {record.get('id', '')!r} belongs to the picture {record['image_id']!r}, which "
        f"`images` does not list; so do {int((pictures < 0).sum()) - 1} more."
    )


def _names(columns: _Columns) -> list[str]:
    if not any(columns.file_names):
        return [str(key) for key in columns.image_keys]
    if repeated := [name for name, count in Counter(columns.file_names).items() if count > 1]:
        raise DataError(f"{columns.path}: {len(repeated)} file name(s) occur more than once, such as {repeated[0]!r}.")
    stems = [
        str(PurePosixPath(name).with_suffix("")) if PurePosixPath(name).name else name for name in columns.file_names
    ]
    return stems if len(set(stems)) == len(stems) else columns.file_names


def _texts(what: str, texts: Sequence[str]) -> dict[str, NDArray[Any]]:
    encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
    ends = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
    return {what: np.frombuffer(b"".join(encoded), np.uint8), f"{what}_at": ends}


def _id_of(record: Record, key: str, where: str) -> str | int:
    value = record.get(key)
    if (
        isinstance(value, bool)
        or not isinstance(value, str | int)
        or (isinstance(value, int) and abs(value) >= 1 << 63)
    ):
        raise DataError(f"{where} has the {key} {value!r}; it must be a number or a text.")
    return value


# --- the index on disk: a line that tells the format, the length of the header, the header, the arrays ---


def _write(index: AnnotationIndex, out: BinaryIO) -> None:
    specs, position = {}, 0
    for name, values in index._arrays.items():
        specs[name] = (values.dtype.str, values.shape, position)
        position += -(-values.nbytes // _ALIGNMENT) * _ALIGNMENT
    header = json.dumps({"header": index.header, "arrays": specs, "num_bytes": position}).encode()
    out.write(MAGIC + len(header).to_bytes(8, "little") + header)
    out.write(bytes(-out.tell() % _ALIGNMENT))
    for values in index._arrays.values():
        out.write(values.tobytes())
        out.write(bytes(-values.nbytes % _ALIGNMENT))


def _mapped(file: Path) -> AnnotationIndex | None:
    """The index of a file; None if there is none, or one that was not written to its end."""
    try:
        with file.open("rb") as opened:
            if opened.read(len(MAGIC)) != MAGIC:
                return None
            content = json.loads(opened.read(int.from_bytes(opened.read(8), "little")))
            start = -(-opened.tell() // _ALIGNMENT) * _ALIGNMENT
            if os.fstat(opened.fileno()).st_size != start + content["num_bytes"]:
                return None
    except (OSError, ValueError):
        return None
    pages = np.memmap(file, np.uint8, mode="r")
    arrays = {}
    for name, (dtype, shape, position) in content["arrays"].items():
        num_bytes = np.dtype(dtype).itemsize * int(np.prod(shape))
        part = pages[start + position : start + position + num_bytes]
        arrays[name] = np.asarray(part).view(dtype).reshape(shape)
    source, stamp, *rest = content["header"]
    return AnnotationIndex(Header(source, (stamp[0], stamp[1]), *rest), arrays, str(file))


def _reopened(file: str, source: str) -> AnnotationIndex:
    index = _mapped(Path(file))
    if index is None:
        raise DataError(f"{file}, the index of {source}, was removed while it is in use. Start again.")
    return index
