"""Annotation files of any size, one object after another: COCO's are half a gigabyte, and nobody needs all of it at once.

`elements` decodes the members of the outermost lists one by one, with the standard library's decoder on a sliding piece of
text. Own work.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from trimask.types import DataError

CHUNK = 1 << 20  # characters that are read at a time
MAX_ELEMENT = 1 << 28  # characters of one element; more is no annotation

_decoder = json.JSONDecoder()
_ENDS = frozenset(" \t\n\r,]}:")  # what may follow a value
_blank = re.compile(r"[\s]*")


def elements(path: Path) -> Iterator[tuple[str, Any]]:
    """(key, element) for each element of each list that the outermost object holds, and (key, value) for its other members; for
    an outermost list ("", element).

    Raises:
        DataError: the file cannot be read or is no JSON; the message says where.
    """
    try:
        with path.open(encoding="utf-8-sig") as file:
            yield from _document(_Text(file))
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not a text file: {error}.") from error
    except (json.JSONDecodeError, RecursionError) as error:
        raise DataError(f"{path}: not valid JSON: {error}.") from error


def _document(text: _Text) -> Iterator[tuple[str, Any]]:
    first = text.peek()
    if first == "[":
        yield from (("", element) for element in _list(text))
        return
    text.expect("{")
    while text.peek() != "}":
        key = text.value()
        text.expect(":")
        if text.peek() == "[":
            yield from ((key, element) for element in _list(text))
        else:
            yield key, text.value()
        if text.peek() != "}":
            text.expect(",")
    text.expect("}")


def _list(text: _Text) -> Iterator[Any]:
    text.expect("[")
    while text.peek() != "]":
        yield text.value()
        if text.peek() != "]":
            text.expect(",")
    text.expect("]")


class _Text:
    """A piece of a file, from the place that has been read up to."""

    def __init__(self, file: TextIO) -> None:
        self.file, self.piece, self.place, self.ended, self.before = file, "", 0, False, 0

    def peek(self) -> str:
        """The next character that is not blank, or "" at the end."""
        while True:
            self.place = _blank.match(self.piece, self.place).end()  # type: ignore[union-attr]
            if self.place < len(self.piece) or not self._more():
                return self.piece[self.place : self.place + 1]

    def expect(self, character: str) -> None:
        if (found := self.peek()) != character:
            raise json.JSONDecodeError(f"{character!r} expected, {found or 'end of file'!r} found", "", self._offset())
        self.place += 1

    def value(self) -> Any:
        """The next value, whole: what follows it must be there to be seen, for a number may go on."""
        self.peek()
        while True:
            try:
                value, end = _decoder.raw_decode(self.piece, self.place)
            except json.JSONDecodeError as error:
                if len(self.piece) - self.place > MAX_ELEMENT or not self._more():
                    raise json.JSONDecodeError(error.msg, "", self.before + error.pos) from error
                continue
            if self.piece[end : end + 1] in _ENDS or not self._more():
                self.place = end
                return value

    def _offset(self) -> int:
        return self.before + self.place

    def _more(self) -> bool:
        """Reads on, dropping what has been used; twice as much each time an element does not end."""
        if self.ended:
            return False
        self.before += self.place
        rest = self.piece[self.place :]
        new = self.file.read(max(CHUNK, len(rest)))
        self.piece, self.place, self.ended = rest + new, 0, not new
        return not self.ended
