"""One data set as the doctor sees it: the datasets of its splits, those that could not be made, and its folder. Own work."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from trimask.data.doctor.findings import Where
from trimask.data.doctor.resolution import Resolution
from trimask.data.doctor.tree import Tree
from trimask.types import ClassSpec, DataError, SegmentationDataset

SPLITS = ("train", "val", "test")
WHOLE = "all"
MAX_ALONE = 500  # files outside all samples that are looked at where a dataset exists; spread evenly


@dataclass
class Case:
    """A data set under examination.

    Attributes:
        name: for titles and folders.
        reader: class path of the dataset, "" where no dataset knows the folder.
        datasets: split -> dataset.
        refusals: split -> why its dataset could not be made.
        same: split -> the other split that it has the same samples as, e.g. "test" -> "val".
        tree: the files below the folder; None where there is none, or where another case of the same run has it.
        known: files that datasets of other cases with this folder read.
        resolution: what training does with the size of a picture, where it is known.
        limit: samples of a split, and files alone, that are looked at; None for all.
    """

    name: str
    reader: str = ""
    datasets: dict[str, SegmentationDataset] = field(default_factory=dict)
    refusals: dict[str, str] = field(default_factory=dict)
    same: dict[str, str] = field(default_factory=dict)
    tree: Tree | None = None
    known: frozenset[str] = frozenset()
    resolution: Resolution | None = None
    limit: int | None = None

    @property
    def folder(self) -> Path | None:
        return self.tree.folder if self.tree else None

    def relative(self, path: str) -> str:
        """A path for messages: below the case's folder, or as it is."""
        return self.tree.relative(path) if self.tree else path

    @property
    def classes(self) -> ClassSpec | None:
        return next((dataset.classes for dataset in self.datasets.values()), None)

    @property
    def partial(self) -> bool:
        """Whether the limit leaves samples out, so that nothing can be said about what is absent."""
        return self.limit is not None and any(len(dataset) > self.limit for dataset in self.datasets.values())

    def samples(self) -> Iterator[Where]:
        """Every sample that is looked at."""
        for split, dataset in self.datasets.items():
            for index in spread(len(dataset), self.limit):
                yield self.where(split, index)

    def num_samples(self) -> dict[str, int]:
        """How many these are."""
        return {split: len(spread(len(dataset), self.limit)) for split, dataset in self.datasets.items()}

    def where(self, split: str, index: int) -> Where:
        files = files_of(self.datasets[split], index)
        return Where(split, index, Path(files[0]).stem if files else f"{split} {index}", files)

    @cached_property
    def read(self) -> frozenset[str]:
        """Every file of every sample, of this case and of others with the same folder."""
        own = {
            file
            for dataset in self.datasets.values()
            for index in range(len(dataset))
            for file in files_of(dataset, index)
        }
        return self.known | own

    @cached_property
    def unread(self) -> list[str]:
        """The pictures in the folder that belong to no sample."""
        if self.tree is None:
            return []
        resolved = {str(Path(file)) for file in self.read}
        return [path for path in self.tree.pictures if path not in resolved]

    def alone(self) -> list[str]:
        """Those of them that are looked at."""
        limits = [limit for limit in (self.limit, MAX_ALONE if self.datasets else None) if limit is not None]
        return [self.unread[index] for index in spread(len(self.unread), min(limits, default=None))]


def spread(count: int, limit: int | None) -> Sequence[int]:
    """All of 0..count-1, or `limit` of them, evenly."""
    if limit is None or count <= limit:
        return range(count)
    return np.linspace(0, count - 1, limit).astype(int).tolist()


def files_of(dataset: SegmentationDataset, index: int) -> tuple[str, ...]:
    """Of a sample; empty where the dataset reads no files or does not say which."""
    files = getattr(dataset, "files", None)
    if files is None:
        return ()
    try:
        return tuple(files(index))
    except DataError:  # such as a path that leads out of the folder; reading the sample says it
        return ()


def open_case(
    name: str,
    make: Callable[[str], Any],
    *,
    reader: str = "",
    splits: Iterable[str] = SPLITS,
    **rest: Any,
) -> Case:
    """A case whose datasets are made by `make(split)`; what it refuses is kept as a refusal.

    A data set that cannot be divided, because it is too small or no list says how, is opened as a whole, if it can be.

    Args: rest: further fields of `Case`.
    """
    case = Case(name, reader, **rest)
    for split in splits:
        _open(case, make, split)
    if not case.datasets and splits == SPLITS and not _open(case, make, WHOLE):
        del case.refusals[WHOLE]  # it says what the others say
    return case


def _open(case: Case, make: Callable[[str], Any], split: str) -> bool:
    """Puts the dataset of a split, or why there is none, into the case; whether there is one."""
    try:
        dataset = make(split)
        len(dataset)
    except DataError as error:
        case.refusals[split] = str(error)
        return False
    twin = next((other for other, made in case.datasets.items() if _same_samples(made, dataset)), None)
    if twin:
        case.same[split] = twin
    else:
        case.datasets[split] = dataset
    return True


def _same_samples(one: SegmentationDataset, other: SegmentationDataset) -> bool:
    """Whether two splits consist of the same files."""
    if len(one) != len(other) or not len(one) or not files_of(one, 0):
        return False
    return all(files_of(one, index) == files_of(other, index) for index in range(len(one)))
