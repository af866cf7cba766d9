"""The frames of a JSON file of any size, one after the other, with a few megabytes of memory.

det_train.json of BDD100K is 450 MB and the 2018 labels are 1.3 GB; as Python objects that is ten times as much. Here a file
is decoded element by element and forgotten, and where each element stands in the file is told, so that it can be read
alone later. Own work.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from trimask.types import DataError

CHUNK = 1 << 20  # bytes that are read at once
_TOKEN = 16  # the decoder stops no further than this from the end of a chunk that cuts off a literal or a number
_SPACE = re.compile(r"[ \t\n\r]*")
_DECODER = json.JSONDecoder()


class Element(NamedTuple):
    """A value and where it stands.

    Attributes:
        key: the member of the file's object that it is, or that it is an element of; "" in a file that is a list.
        is_element: whether it is an element of a list that was asked for.
        start, length: bytes.
    """

    key: str
    value: Any
    is_element: bool
    start: int
    length: int


def elements(path: str | Path, key: str) -> Iterator[Element]:
    """The elements of the list `key` of the file's object, or of a file that is a list, and whole members of other keys.

    Raises:
        DataError: the file cannot be read, is empty, ends early, or is neither an object nor a list.
    """
    try:
        with open(path, "rb") as file:
            text = _Text(file, str(path))
            if text.next() == "[":
                yield from _list(text, "")
            elif text.next() == "{":
                yield from _members(text, key)
            else:
                raise text.error("an object or a list is expected")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}.") from error


def _members(text: _Text, wanted: str) -> Iterator[Element]:
    text.take("{")
    while text.next() != "}":
        key = text.value("").value
        text.take(":")
        if key == wanted and text.next() == "[":
            yield from _list(text, key)
        else:
            yield text.value(str(key))
        if text.next() != "}":
            text.take(",")


def _list(text: _Text, key: str) -> Iterator[Element]:
    text.take("[")
    while text.next() != "]":
        yield text.value(key)._replace(is_element=True)
        if text.next() != "]":
            text.take(",")
    text.take("]")


class _Text:
    """JSON text of which a part is in memory, one character a byte of the file (Latin-1), so that positions are those of
    the file. The structure of JSON is ASCII; a value with other characters is decoded again as UTF-8.
    """

    def __init__(self, file: BinaryIO, path: str) -> None:
        self.file, self.path = file, path
        self.buffer, self.position, self.start = "", 0, 0  # `start` is where the buffer begins in the file
        self.more()
        self.position = 3 if self.buffer.startswith("\xef\xbb\xbf") else 0

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
        while True:
            self.position = _SPACE.match(self.buffer, self.position).end()  # type: ignore[union-attr]  # it always matches
            if self.position < len(self.buffer):
                return self.buffer[self.position]
            if not self.more():
                raise self.ended()

    def take(self, character: str) -> None:
        if (found := self.next()) != character:
            raise self.error(f"{character!r} is expected, {found!r} is found")
        self.position += 1

    def value(self, key: str) -> Element:
        self.next()
        while True:
            try:
                value, end = _DECODER.raw_decode(self.buffer, self.position)
            except json.JSONDecodeError as error:
                if error.pos < len(self.buffer) - _TOKEN and not error.msg.startswith("Unterminated"):
                    self.position = error.pos
                    raise self.error(error.msg) from error
                if not self.more():
                    raise self.ended() from error
            except (RecursionError, ValueError) as error:
                raise self.error(f"a value that cannot be read ({error})") from error
            else:
                may_go_on = isinstance(value, int | float) and end > len(self.buffer) - _TOKEN
                if not may_go_on or not self.more():
                    return self._taken(key, value, end)

    def _taken(self, key: str, value: Any, end: int) -> Element:
        text, start = self.buffer[self.position : end], self.start + self.position
        self.position = end
        if not text.isascii():
            try:
                value = json.loads(text.encode("latin-1"))
            except UnicodeDecodeError as error:
                raise self.error("text that is not UTF-8") from error
        return Element(key, value, False, start, len(text))

    def error(self, what: str) -> DataError:
        return DataError(
            f"{self.path}: not a JSON file that can be read; at byte {self.start + self.position}: {what}."
        )

    def ended(self) -> DataError:
        if self.start + len(self.buffer) == 0:
            return DataError(f"{self.path}: the file is empty (0 bytes). Fetch it again.")
        return DataError(f"{self.path}: the JSON ends in the middle; the file is truncated. Fetch it again.")
