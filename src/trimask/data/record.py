"""A decoded sample as one block of bytes that is mapped back without copying. Own work.

    header        magic, key, checksum, length of the block, length of the description
    description   JSON: name, meta, and type, shape and place of each array
    arrays        image, segments, labels, is_crowd; each starts at a multiple of 64 bytes

The key tells a block from another one's, the lengths and the checksum a whole block from a torn one. The checksum is the
sum of the 64-bit words, which a missing page changes; it is no protection against forgery.

Nobody can write into what is kept. `read` maps a block privately, copy on write: whoever writes into the arrays of a sample
writes into memory of their own. `view` gives read-only arrays of a mapping that stays, which costs no page faults.
"""

from __future__ import annotations

import json
import mmap
import os
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

from trimask.types import Sample

VERSION = 1  # of the layout above, and of what `Sample` holds
_MAGIC = b"trimask\1"
_HEADER = struct.Struct("<8s16sQQQ")
_ALIGNMENT = 64
_FIELDS = ("image", "segments", "labels", "is_crowd")
_MAX_BUFFERS = 16  # fewer than any system's limit for one write


def pack(key: bytes, sample: Sample) -> list[bytes | memoryview]:
    """The parts of a block, to be written one after the other; `key` has 16 bytes."""
    arrays = [np.ascontiguousarray(getattr(sample, name)) for name in _FIELDS]
    places, end = [], 0
    for name, array in zip(_FIELDS, arrays, strict=True):
        places.append([name, array.dtype.str, array.shape, end])
        end += _padded(array.nbytes)
    text = json.dumps({"name": sample.name, "meta": sample.meta, "arrays": places}).encode()
    description = text + b" " * (_padded(_HEADER.size + len(text)) - _HEADER.size - len(text))
    parts: list[bytes | memoryview] = [description]
    for array in arrays:
        parts += [array.reshape(-1).view(np.uint8).data, bytes(_padded(array.nbytes) - array.nbytes)]
    length = _HEADER.size + len(description) + end
    header = _HEADER.pack(_MAGIC, key, _checksum(parts), length, len(description))
    return [header, *parts]


def write(parts: Sequence[bytes | memoryview], file: int, offset: int = 0) -> None:
    """Writes a block into an open file. Raises OSError where that has no room."""
    for start in range(0, len(parts), _MAX_BUFFERS):
        batch = list(parts[start : start + _MAX_BUFFERS])
        while batch:
            written = os.pwritev(file, batch, offset)
            offset += written
            while batch and written >= len(batch[0]):
                written -= len(batch.pop(0))
            if batch:
                batch[0] = memoryview(batch[0])[written:]


def length(parts: Sequence[bytes | memoryview]) -> int:
    """Bytes of a packed block."""
    return sum(len(part) for part in parts)


def read(key: bytes, file: int, size: int, offset: int = 0, *, check: bool) -> Sample | None:
    """The sample of a block of `size` bytes, mapped; None where there is no whole block with this key.

    Args:
        offset: of the block in the open file, a multiple of the page size.
        check: compare the checksum, which reads all of it.
    """
    if size < _HEADER.size:
        return None
    block = mmap.mmap(file, size, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE, offset=offset)
    return view(key, memoryview(block), check=check)


def view(key: bytes, block: memoryview, *, check: bool) -> Sample | None:
    """The sample of a block in memory, with arrays that lie there and can be written to if the block can; else as `read`."""
    magic, found, checksum, expected, description = _HEADER.unpack_from(block)
    if (magic, found, expected) != (_MAGIC, key, len(block)) or _HEADER.size + description > len(block):
        return None
    if check and _checksum([block[_HEADER.size :]]) != checksum:
        return None
    try:
        return _sample(block, _HEADER.size + description)
    except (ValueError, TypeError, KeyError):  # what damaged text and places lead to
        return None


def _sample(block: memoryview, start: int) -> Sample:
    told = json.loads(bytes(block[_HEADER.size : start]))
    arrays: dict[str, Any] = {}
    for name, dtype, shape, place in told["arrays"]:
        arrays[name] = np.ndarray(shape, dtype, buffer=block, offset=start + place)
    return Sample(**arrays, name=told["name"], meta=told["meta"])


def _padded(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def _checksum(parts: Sequence[bytes | memoryview]) -> int:
    """Sum of the 64-bit words. An array begins with a word and is padded with zeros, so that its last bytes are one too."""
    total = 0
    for part in parts:
        words = len(part) // 8
        total += int(np.add.reduce(np.frombuffer(part, "<u8", words))) if words else 0
        total += int.from_bytes(part[8 * words :], "little")
    return total % (1 << 64)
