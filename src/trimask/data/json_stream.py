"""A JSON file of any size: its elements one after the other, with a few megabytes of memory, and any of them again later.

instances_train2017.json of COCO is 450 MB and the labels of BDD100K are 1.3 GB; as Python objects that is ten times as much.
Here an element of a file's lists is decoded, handed out and forgotten, and where it stands is told, so that a sample reads
and decodes its own part alone. What is read is what the standard library reads: no comments, no commas too many. Own work.
"""

from __future__ import annotations

import json
import os
import re
from codecs import BOM_UTF8
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from trimask.types import DataError

CHUNK = 1 << 20  # bytes that are read at once
MAX_ELEMENT = (
    1 << 28
)  # bytes; a longer element is no annotation, and a quote that is never closed makes one of all the rest
_TOKEN = 16  # the decoder stops no further than this from the end of a chunk that cuts off a literal or a number
_SPACE = re.compile(r"[ \t\n\r]*")
_DECODER = json.JSONDecoder()

Stamp = tuple[int, int]  # size in bytes, time of modification in nanoseconds


class Element(NamedTuple):
    """A value and where it stands.

    Attributes:
        key: the member of the file's object that it is, or that it is an element of; "" in a file that is a list.
        is_element: of a list. Else it is a member that is no list, or a list without elements, whole.
        start, length: bytes.
    """

    key: str
    value: Any
    is_element: bool
    start: int
    length: int


def elements(path: str | Path) -> Iterator[Element]:
    """What a file's object or list holds: the elements of each list one by one, all other members whole.

    Raises:
        DataError: the file cannot be read, is empty, ends early, or is neither an object nor a list.
    """
    try:
        with open(path, "rb") as file:
            text = _Text(file, str(path))
            if text.next() == "[":
                yield from _list(text, "")
            elif text.next() == "{":
                yield from _members(text)
            else:
                raise text.error("an object or a list is expected")
            text.end()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}.") from error


def stamp_of(path: str | Path) -> Stamp:
    """The state of a file, to be asked for before it is read.

    Raises:
        DataError: there is no such file.
    """
    try:
        return _stamp(os.stat(path))
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}.") from error


def values_at(path: str | Path, spans: Iterable[Iterable[int]], stamp: Stamp) -> list[Any]:
    """The values that stand at these (start, length) of a file, read from it now.

    Args: stamp: what `stamp_of` said of the file when the spans were found.

    Raises:
        DataError: the file is gone or was changed since.
    """
    try:
        with open(path, "rb", buffering=0) as file:
            if _stamp(os.fstat(file.fileno())) != stamp:
                raise DataError(f"{path}: the file was changed while it is in use. Start again.")
            return [json.loads(_read(file, *span)) for span in spans]
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}.") from error


def integer(value: object) -> int | None:
    """A whole number, also where it is written as text or as 3.0; None for anything else."""
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        return int(value) if re.fullmatch(r"\s*-?[0-9]{1,18}\s*", value) else None
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    return value if isinstance(value, int) else None


def _stamp(status: os.stat_result) -> Stamp:
    return status.st_size, status.st_mtime_ns


def _read(file: Any, start: int, length: int) -> bytes:
    file.seek(start)
    return file.read(length)


def _members(text: _Text) -> Iterator[Element]:
    for _ in _places(text, "{", "}"):
        if text.next() != '"':
            raise text.error(f"the name of a member is expected, {text.next()!r} is found")
        key = text.value().value
        text.take(":")
        if text.next() == "[":
            yield from _list(text, key)
        else:
            yield text.value(key)


def _list(text: _Text, key: str) -> Iterator[Element]:
    start, is_empty = text.offset, True
    for _ in _places(text, "[", "]"):
        is_empty = False
        yield text.value(key, is_element=True)
    if is_empty:
        yield Element(key, [], False, start, text.offset - start)


def _places(text: _Text, opening: str, closing: str) -> Iterator[None]:
    """Halts wherever a list or an object has a value or a member, and takes what stands between."""
    text.take(opening)
    if text.next() != closing:
        yield
        while text.next() == ",":
            text.take(",")
            yield
        if text.next() != closing:
            raise text.error(f"',' or {closing!r} is expected, {text.next()!r} is found")
    text.take(closing)


class _Text:
    """JSON text of which a part is in memory, one character a byte of the file (Latin-1), so that positions are those of
    the file. The structure of JSON is ASCII; a value with other characters is decoded again as UTF-8. `start` is where that
    part begins in the file, `position` the next character in it.
    """

    def __init__(self, file: BinaryIO, path: str) -> None:
        self.file, self.path = file, path
        self.position, first = 0, file.read(len(BOM_UTF8))
        self.start, self.buffer = (len(first), "") if first == BOM_UTF8 else (0, first.decode("latin-1"))

    @property
    def offset(self) -> int:
        """In the file, of the next character."""
        return self.start + self.position

    def more(self) -> bool:
        """Reads on, at least as much again as is left; whether there was more. Without more, nothing changes."""
        rest = self.buffer[self.position :]
        data = self.file.read(max(CHUNK, len(rest)))
        if data:
            self.start += self.position
            self.buffer, self.position = rest + data.decode("latin-1"), 0
        return bool(data)

    def next(self) -> str:
        """The next character that is no space; it is not taken."""
        if not self._skip_space():
            raise self.ended()
        return self.buffer[self.position]

    def _skip_space(self) -> bool:
        """Whether anything follows."""
        while True:
            self.position = _SPACE.match(self.buffer, self.position).end()  # type: ignore[union-attr]  # it always matches
            if self.position < len(self.buffer):
                return True
            if not self.more():
                return False

    def end(self) -> None:
        if self._skip_space():
            raise self.error(f"the end of the file is expected, {self.buffer[self.position]!r} is found")

    def take(self, character: str) -> None:
        if (found := self.next()) != character:
            raise self.error(f"{character!r} is expected, {found!r} is found")
        self.position += 1

    def value(self, key: str = "", *, is_element: bool = False) -> Element:
        """The next value, whole: the text goes on until it is seen where the value ends, which "12" may not do before ".5"."""
        self.next()
        while True:
            try:
                value, end = _DECODER.raw_decode(self.buffer, self.position)
            except json.JSONDecodeError as error:
                if error.pos < len(self.buffer) - _TOKEN and not error.msg.startswith("Unterminated"):
                    self.position = error.pos
                    raise self.error(error.msg) from error
                if len(self.buffer) - self.position > MAX_ELEMENT:
                    raise self.error(f"a value that does not end within {MAX_ELEMENT >> 20} MB") from error
                if not self.more():
                    raise self.ended() from error
            except (RecursionError, ValueError) as error:
                raise self.error(f"a value that cannot be read ({error})") from error
            else:
                may_go_on = isinstance(value, int | float) and end > len(self.buffer) - _TOKEN
                if not may_go_on or not self.more():
                    return self._taken(value, end, key, is_element)

    def _taken(self, value: Any, end: int, key: str, is_element: bool) -> Element:
        first, start = self.position, self.offset
        if not self.buffer.isascii() and not (text := self.buffer[first:end]).isascii():
            try:
                value = json.loads(text.encode("latin-1"))
            except UnicodeDecodeError as error:
                raise self.error("text that is not UTF-8") from error
        self.position = end
        return Element(key, value, is_element, start, end - first)

    def error(self, what: str) -> DataError:
        return DataError(f"{self.path}: not a JSON file that can be read; at byte {self.offset}: {what}.")

    def ended(self) -> DataError:
        if self.start + len(self.buffer) == 0:
            return DataError(f"{self.path}: the file is empty (0 bytes). Fetch it again.")
        return DataError(f"{self.path}: the JSON ends in the middle; the file is truncated. Fetch it again.")
