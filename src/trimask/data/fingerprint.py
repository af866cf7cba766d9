"""What shapes the samples of a dataset, as a short text: the key of everything that is kept of them on disk.

A dataset is described by its class, the values it holds (the arguments, the class map, the list of files, ...) and, since
files lie behind paths, by the state of every file that a value names. A changed argument, class list or annotation file
gives another fingerprint. An equal one means equal samples; a different one costs no more than work done again. Own work.

Deviations: the code itself takes no part, so that a dataset whose rules change needs a new class name or new arguments.
"""

from __future__ import annotations

import copyreg
import hashlib
import os
import stat
from collections.abc import Iterable, Mapping
from pathlib import PurePath
from types import BuiltinFunctionType, FunctionType
from typing import Any

import numpy as np

from trimask.types import FileDataset, SegmentationDataset

NUM_PROBES = 64  # so many samples are looked at to tell a list of files from another list of the same length


def fingerprint(*things: Any, with_files: bool = True) -> str:
    """Of any values that could be pickled: 32 hexadecimal digits, the same in every process.

    Args: with_files: whether an absolute path stands for the state of the file too.

    Raises:
        TypeError: a value that cannot be pickled, such as an open file.
    """
    digest = _Digest(with_files)
    for thing in things:
        digest.add(thing)
    return digest.text()


def dataset_fingerprint(dataset: SegmentationDataset) -> str | None:
    """Of a dataset with all its files; None for one that names no files, of which a change could not be noticed."""
    if not isinstance(dataset, FileDataset):
        return None
    states = [(path, file_state(path)) for index in range(len(dataset)) for path in dataset.files(index)]
    return fingerprint(dataset, dataset.classes.to_config(), states)


def file_state(path: str) -> tuple[int, int] | None:
    """Size in bytes and time of the last change in nanoseconds; None where there is no file."""
    try:
        state = os.stat(path)
    except OSError:
        return None
    return (state.st_size, state.st_mtime_ns) if stat.S_ISREG(state.st_mode) else None


class SampleKeys:
    """The part of a dataset's fingerprint that a single sample has.

    A list of the dataset whose entry i names the files of sample i is its list of files: of it entry i alone shapes the
    sample. So pictures that are added, or divided otherwise, leave the keys of the others as they are.
    """

    def __init__(self, dataset: SegmentationDataset) -> None:
        given: Any = dataset.__getstate__()
        state = given if isinstance(given, dict) else {"state": given}
        self._lists: list[Any] = [value for value in state.values() if _is_file_list(value, dataset)]
        rest = {name: value for name, value in state.items() if not any(value is one for one in self._lists)}
        self._common = fingerprint(type(dataset), rest, dataset.classes.to_config())

    def of(self, index: int, *more: Any) -> str:
        """The key of a sample; `more` is what else it depends on, the contents of its files among it."""
        return fingerprint(self._common, [rows[index] for rows in self._lists] or index, more, with_files=False)


def _is_file_list(value: Any, dataset: SegmentationDataset) -> bool:
    if not isinstance(value, list | tuple) or not isinstance(dataset, FileDataset) or len(value) != len(dataset):
        return False
    probes = np.linspace(0, len(value) - 1, min(len(value), NUM_PROBES)).astype(int).tolist()
    return all(_names(value[index], dataset.files(index)[0]) for index in probes)


def _names(entry: Any, path: str) -> bool:
    parts = [entry] if isinstance(entry, str | PurePath) else entry
    stem = PurePath(path).stem
    return isinstance(parts, Iterable) and any(
        PurePath(part).stem == stem for part in parts if isinstance(part, str | PurePath)
    )


class _Digest:
    """Feeds values into a hash by what they are made of: not by identity, memory address or the order of a set."""

    def __init__(self, with_files: bool) -> None:
        self._hash = hashlib.blake2b(digest_size=16)
        self._with_files = with_files
        self._above: list[int] = []  # the objects that we are inside of

    def text(self) -> str:
        return self._hash.hexdigest()

    def add(self, thing: Any) -> None:
        if thing is None or isinstance(thing, bool | int | float | complex | bytes):
            self._write(type(thing).__name__, repr(thing))
        elif isinstance(thing, str | PurePath):
            self._add_path(str(thing))
        elif isinstance(thing, np.ndarray) and not thing.dtype.hasobject:
            self._write("array", thing.dtype.str, repr(thing.shape))
            self._hash.update(np.ascontiguousarray(thing).data.cast("B") if thing.size else b"")
        elif isinstance(thing, type | FunctionType | BuiltinFunctionType):
            self._write("name", f"{thing.__module__}.{thing.__qualname__}")
        elif id(thing) in self._above:
            self._write("above", str(len(self._above) - self._above.index(id(thing))))
        else:
            self._above.append(id(thing))
            self._add_parts(thing)
            self._above.pop()

    def _add_path(self, text: str) -> None:
        self._write("text", text)
        if self._with_files and os.path.isabs(text) and (state := file_state(text)):
            self._write("file", repr(state))

    def _add_parts(self, thing: Any) -> None:
        kind = f"{type(thing).__module__}.{type(thing).__qualname__}"
        if isinstance(thing, Mapping) and type(thing) is dict:
            self._write(kind, str(len(thing)))
            for pair in thing.items():
                self.add(pair[0])
                self.add(pair[1])
        elif isinstance(thing, list | tuple):
            self._write(kind, str(len(thing)))
            for item in thing:
                self.add(item)
        elif isinstance(thing, set | frozenset):
            self._write(kind, *sorted(fingerprint(item, with_files=self._with_files) for item in thing))
        else:
            self._write(kind)
            self._add_reduced(thing)

    def _add_reduced(self, thing: Any) -> None:
        """As pickle takes it apart: how to make it, its state, its items."""
        reducer = copyreg.dispatch_table.get(type(thing))
        reduced: Any = reducer(thing) if reducer else thing.__reduce_ex__(4)
        if isinstance(reduced, str):
            self._write("name", reduced)
            return
        for part in reduced:
            self.add(part if part is None or isinstance(part, dict | tuple) or callable(part) else _listed(part))

    def _write(self, *texts: str) -> None:
        for text in texts:
            data = text.encode(errors="surrogatepass")
            self._hash.update(len(data).to_bytes(8, "little") + data)


def _listed(part: Any) -> Any:
    """The iterators of a reduced list or mapping as lists."""
    return list(part) if hasattr(part, "__next__") else part
