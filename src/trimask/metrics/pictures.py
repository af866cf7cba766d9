"""What is kept of each picture beside the scores of a data set, so that the data set can be redrawn later.

A run keeps it as pictures.npz: intervals (`bootstrap.py`), the comparison of two runs and the ledger read it, without a network
and without the data. Own work.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any, Self
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

Ratios = NDArray[np.float64]
Arrays = Mapping[str, NDArray[Any]]
_CLASS = "class_path"  # the array that names who reads the others
_NAMES = "names"
_STEP = 256  # pictures that are looked at alone in one go


class Pictures(ABC):
    """Args: names: of the pictures, unique."""

    directions: Mapping[str, int] = {}  # of scores that should not grow: -1 where less is better, 0 where neither is

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)

    @abstractmethod
    def redrawn(self, times: NDArray[np.integer]) -> dict[str, Ratios]:
        """Scores of R data sets: (R, P) how often each picture is taken -> {the short name that a task logs: (R,)}."""

    @abstractmethod
    def arrays(self) -> dict[str, NDArray[Any]]:
        """All but the names, as plain arrays; `from_arrays` is the inverse."""

    @classmethod
    @abstractmethod
    def from_arrays(cls, names: Sequence[str], arrays: Arrays) -> Self: ...

    def scores(self) -> dict[str, float]:
        """Of the data set as it is."""
        return {name: float(value[0]) for name, value in self.redrawn(np.ones((1, len(self.names)), np.int64)).items()}

    def alone(self, score: str) -> Ratios:
        """(P,) the score of each picture by itself; nan where a picture has none."""
        found = [np.zeros(0)]
        for start in range(0, len(self.names), _STEP):
            stop = min(start + _STEP, len(self.names))
            found.append(self.redrawn(np.eye(stop - start, len(self.names), start, dtype=np.int64))[score])
        return np.concatenate(found)


class SummedPictures(Pictures):
    """Scores that are functions of sums over pictures. Args: rows: (P, K, C) what is summed."""

    def __init__(self, names: Sequence[str], rows: NDArray[Any]) -> None:
        super().__init__(names)
        self.rows = rows

    @abstractmethod
    def values(self, sums: NDArray[Any]) -> dict[str, Ratios]:
        """(R, K, C) sums, of the type of `rows` -> {short name: (R,)}."""

    def only(self, rows: NDArray[np.int64]) -> Self:
        """Some of the pictures. Args: rows: (N,) which."""
        names = [self.names[row] for row in rows]
        return self.from_arrays(names, {**self.arrays(), "rows": self.rows[rows]})

    def redrawn(self, times: NDArray[np.integer]) -> dict[str, Ratios]:
        # In float64, because numpy multiplies integer matrices without BLAS; counts below 2^53 stay exact.
        flat = self.rows.reshape(len(self.names), prod(self.rows.shape[1:])).astype(np.float64)
        sums = times.astype(np.float64) @ flat
        return self.values(sums.astype(self.rows.dtype).reshape(len(times), *self.rows.shape[1:]))


class JoinedPictures(Pictures):
    """Several kinds of scores of the same pictures, under their own names.

    Raises:
        ValueError: the pictures differ, or two parts have a score of one name.
    """

    def __init__(self, parts: Sequence[Pictures]) -> None:
        super().__init__(parts[0].names)
        self.parts = tuple(parts)
        self.directions = {name: way for part in parts for name, way in part.directions.items()}
        if any(part.names != self.names for part in parts):
            raise ValueError("Scores can be joined only if they are of the same pictures; each name must be unique.")

    def redrawn(self, times: NDArray[np.integer]) -> dict[str, Ratios]:
        found: dict[str, Ratios] = {}
        for part in self.parts:
            scores = part.redrawn(times)
            if double := sorted(found.keys() & scores.keys()):
                raise ValueError(f"Two measures have a score of the name {double[0]!r}; leave one of them out.")
            found |= scores
        return found

    def arrays(self) -> dict[str, NDArray[Any]]:
        told: dict[str, NDArray[Any]] = {}
        for number, part in enumerate(self.parts):
            own = {_CLASS: np.array(_path(type(part))), **part.arrays()}
            told |= {f"{number}.{key}": array for key, array in own.items()}
        return told

    @classmethod
    def from_arrays(cls, names: Sequence[str], arrays: Arrays) -> JoinedPictures:
        split: dict[int, dict[str, NDArray[Any]]] = {}
        for key, array in arrays.items():
            number, _, name = key.partition(".")
            split.setdefault(int(number), {})[name] = array
        parts = [split[number] for number in sorted(split)]
        return cls([_kind(str(part.pop(_CLASS))).from_arrays(names, part) for part in parts])


def _path(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _kind(path: str) -> type[Pictures]:
    """Raises ValueError for what is no class of pictures' scores."""
    module, _, name = path.rpartition(".")
    kind = getattr(importlib.import_module(module), name, None) if module else None
    if not (isinstance(kind, type) and issubclass(kind, Pictures)):
        raise ValueError(f"{path or 'nothing'} is no kind of scores of pictures.")
    return kind


def save(pictures: Pictures, path: Path) -> None:
    """Writes beside the place and moves there, so that a kill leaves the old file or the new one."""
    fresh = path.with_suffix(".new")
    with fresh.open("wb") as file:
        own = {_CLASS: np.array(_path(type(pictures))), _NAMES: np.array(pictures.names, dtype=str)}
        everything: dict[str, Any] = {**own, **pictures.arrays()}
        np.savez_compressed(file, **everything)
    fresh.replace(path)


def load(path: Path) -> Pictures:
    """What `save` wrote; no code comes from the file.

    Raises:
        ValueError: there is no such file, or it is not one of these.
    """
    if not path.is_file():
        raise ValueError(
            f"There is no {path}: the run was made before runs kept their pictures' scores; validate it again."
        )
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
        kind = _kind(str(arrays.pop(_CLASS, "")))
    except (ValueError, EOFError, BadZipFile, ImportError) as error:
        raise ValueError(f"{path} does not hold the scores of pictures; validate the run again.") from error
    names = tuple(arrays.pop(_NAMES).tolist())
    return kind.from_arrays(names, arrays)
