"""Measures beside a task's own metric: calibration, boundary bands, object sizes, regions, and those of your own.

A measure makes a few sums of each picture, and its scores are functions of these sums over pictures. So it is exact on any
number of processes, has bootstrap intervals, is sliced by tags and compared between runs like the metric itself. Own work.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from trimask.metrics.pictures import Arrays, SummedPictures
from trimask.metrics.records import PictureRecords
from trimask.types import ClassSpec, Target


class MeasuredPictures(SummedPictures):
    """Args: rows: (P, K, C) what is summed; facts: whatever `values` needs beside the sums, as arrays."""

    definition: ClassVar[str]  # a sentence to print beside the numbers

    def __init__(self, names: Sequence[str], rows: NDArray[Any], **facts: Any) -> None:
        super().__init__(names, rows)
        self.facts = {name: np.asarray(fact) for name, fact in facts.items()}

    def arrays(self) -> dict[str, NDArray[Any]]:
        return {"rows": self.rows, **self.facts}

    @classmethod
    def from_arrays(cls, names: Sequence[str], arrays: Arrays) -> Self:
        facts = {name: array for name, array in arrays.items() if name != "rows"}
        return cls(names, arrays["rows"], **facts)


class Measure(PictureRecords):
    """Named in `model.measures` by class path, with the arguments after the classes. A new one is a subclass anywhere.

    Args: classes: what the labels mean.
    """

    questions: ClassVar[frozenset[str]]  # whose answers it can look at: "semantic", "instances", "panoptic"
    asks: ClassVar[Mapping[str, Any]] = {}  # what answers must be asked for, such as scores=True
    annotation: ClassVar[frozenset[str]] = frozenset()  # what the data must be annotated for beside the task's question

    fields = (np.float64,)  # the sums of a picture; counts are exact up to 2^53

    def __init__(self, classes: ClassSpec) -> None:
        super().__init__()
        self.classes = classes

    @abstractmethod
    def update(self, answer: Any, truth: Target, *, name: str) -> None:
        """Adds one picture, by `self.keep(name, sums)`. Raises ValueError for an answer of another size than the truth."""

    @abstractmethod
    def compute(self) -> MeasuredPictures:
        """What was kept of the pictures of all processes."""

    def summed(self, *shape: int) -> tuple[tuple[str, ...], NDArray[np.float64]]:
        """Names, in order, and (P, *shape) what was kept of each."""
        kept = self.kept()
        rows = [sums for (sums,) in kept.values()]
        return tuple(kept), np.array(rows, np.float64).reshape(len(rows), *shape)


def require_equal_size(answer: tuple[int, ...], truth: tuple[int, ...], name: str) -> None:
    """Raises ValueError unless (height, width) of an answer and of the truth are equal."""
    if tuple(answer) != tuple(truth):
        raise ValueError(
            f"The answer {tuple(answer)} and the truth {tuple(truth)} of {name!r} differ in size; bring the answer to the size "
            "of the truth."
        )
