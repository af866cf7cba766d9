"""How often the classes of a split occur: counted once, in parallel, and kept on disk.

What is counted is the truth as it is annotated, in whole pictures before any augmentation. Own work.
"""

from __future__ import annotations

import logging
import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from trimask.data.cache import cache_folder, locked
from trimask.data.fingerprint import dataset_fingerprint, fingerprint
from trimask.types import DataError, Sample, SegmentationDataset

log = logging.getLogger("trimask")

VERSION = 1  # of what is counted and how
PICTURES_EACH = 16  # that a worker counts before it reports
FEW_PICTURES = 64  # are counted sooner than workers start
MAX_WORKERS = 16


@dataclass(frozen=True)
class ClassStatistics:
    """One row for each class in each picture, ordered by picture and then by class; E rows, C classes.

    Attributes:
        num_classes: C.
        num_pictures: of the split, those without any label among them.
        picture: (E,) int64 index of the sample.
        label: (E,) int64.
        area: (E,) int64 visible pixels, the highest layer on top.
        count: (E,) int64 instances; crowds are not counted, nor is anything where the annotation has no instances.
    """

    num_classes: int
    num_pictures: int
    picture: NDArray[np.int64]
    label: NDArray[np.int64]
    area: NDArray[np.int64]
    count: NDArray[np.int64]

    @property
    def pixels(self) -> NDArray[np.int64]:
        """(C,) pixels of each class; their sum is the number of labelled pixels."""
        return self._by_label(self.area)

    @property
    def pictures(self) -> NDArray[np.int64]:
        """(C,) pictures that show the class."""
        return self._by_label((self.area > 0).astype(np.int64))

    @property
    def instances(self) -> NDArray[np.int64]:
        """(C,) instances of each countable class."""
        return self._by_label(self.count)

    @property
    def pixels_around(self) -> NDArray[np.int64]:
        """(C,) labelled pixels of the pictures that show the class."""
        labelled = np.zeros(self.num_pictures, np.int64)
        np.add.at(labelled, self.picture, self.area)
        return self._by_label(np.where(self.area > 0, labelled[self.picture], 0))

    def _by_label(self, values: NDArray[np.int64]) -> NDArray[np.int64]:
        sums = np.zeros(self.num_classes, np.int64)
        np.add.at(sums, self.label, values)
        return sums


def class_statistics(dataset: SegmentationDataset, *, progress: bool = True) -> ClassStatistics:
    """The statistics of a split: read where they are kept, else counted by all cores and kept.

    They are kept where `place_of` says, also by `trimask doctor`. Of several processes that ask at the same time one counts
    and the others wait.

    Args: progress: show a bar while counting.

    Raises:
        DataError: a sample cannot be read, or has labels that are no classes.
    """
    file = place_of(dataset)
    if file is None:
        return count(dataset, progress=progress)
    lock = file.with_suffix(".lock")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        lock.touch()
    except OSError as error:
        log.warning(f"Class statistics cannot be kept in {file.parent} ({error.strerror}); set TRIMASK_CACHE.")
        return count(dataset, progress=progress)
    with locked(lock):
        kept = _load(file, dataset)
        if kept is None:
            kept = count(dataset, progress=progress)
            keep(kept, file)
    return kept


def place_of(dataset: SegmentationDataset) -> Path | None:
    """The file below `cache.cache_folder()` for the statistics of a dataset in the state that its files have now.

    None for a dataset that does not name its files, or holds what cannot be told from other such things.
    """
    try:
        key = dataset_fingerprint(dataset)
    except TypeError:
        return None
    return None if key is None else cache_folder() / "statistics" / f"{fingerprint(key, VERSION)}.npz"


def _load(file: Path, dataset: SegmentationDataset) -> ClassStatistics | None:
    """None where there is no whole file."""
    try:
        with np.load(file, allow_pickle=False) as kept:
            columns = {name: kept[name] for name in ("picture", "label", "area", "count")}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    return ClassStatistics(len(dataset.classes), len(dataset), **columns)


def keep(statistics: ClassStatistics, file: Path) -> None:
    """What a `place_of` holds from now on; a warning says so if it cannot be written."""
    fresh = file.with_suffix(f".{os.getpid()}.new")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with fresh.open("wb") as handle:
            np.savez(
                handle,
                picture=statistics.picture,
                label=statistics.label,
                area=statistics.area,
                count=statistics.count,
            )
        fresh.replace(file)
    except OSError as error:
        log.warning(f"Class statistics cannot be kept as {file} ({error.strerror}); they will be counted again.")
        with suppress(OSError):
            fresh.unlink()


def count(dataset: SegmentationDataset, *, progress: bool = True) -> ClassStatistics:
    """Reads every sample once. Small splits are counted here, others by a worker a core."""
    few = len(dataset) <= FEW_PICTURES
    chunks: DataLoader = DataLoader(
        _Chunks(dataset), batch_size=None, num_workers=0 if few else min(len(os.sched_getaffinity(0)), MAX_WORKERS)
    )
    rows: list[NDArray[np.int64]] = [np.zeros((0, 4), np.int64)]
    with _bar(len(dataset)) if progress and not few else nullcontext(lambda: None) as advance:
        for chunk in chunks:
            rows.append(np.asarray(chunk))
            advance()
    picture, label, area, number = np.concatenate(rows).T.copy()
    return ClassStatistics(len(dataset.classes), len(dataset), picture, label, area, number)


class _Chunks(Dataset):
    """Runs of samples, counted: (E, 4) rows of picture, label, area and count."""

    def __init__(self, dataset: SegmentationDataset) -> None:
        self.dataset = dataset
        self.has_instances = bool(dataset.offers & {"instances", "panoptic"})

    def __len__(self) -> int:
        return -(-len(self.dataset) // PICTURES_EACH)

    def __getitem__(self, chunk: int) -> NDArray[np.int64]:
        first = chunk * PICTURES_EACH
        return np.concatenate(
            [self._rows(index) for index in range(first, min(first + PICTURES_EACH, len(self.dataset)))]
        )

    def _rows(self, index: int) -> NDArray[np.int64]:
        sample, num_classes = self.dataset[index], len(self.dataset.classes)
        if len(sample.labels) and not 0 <= sample.labels.min() <= sample.labels.max() < num_classes:
            raise DataError(
                f"{sample.name}: has labels {sorted(set(sample.labels.tolist()))} with {num_classes} classes."
            )
        areas, counts = np.zeros(num_classes, np.int64), np.zeros(num_classes, np.int64)
        np.add.at(areas, sample.labels, visible_areas(sample))
        if self.has_instances:
            countable = np.isin(sample.labels, list(self.dataset.classes.things)) & ~sample.is_crowd
            np.add.at(counts, sample.labels[countable], 1)
        present = np.flatnonzero(areas + counts)
        return np.stack([np.full_like(present, index), present, areas[present], counts[present]], axis=1)


def visible_areas(sample: Sample) -> NDArray[np.int64]:
    """(N,) pixels of each segment that no higher layer covers."""
    top = sample.segments[0]
    for layer in sample.segments[1:]:
        top = np.where(layer > 0, layer, top)
    return np.bincount(top.ravel(), minlength=len(sample.labels) + 1)[1:].astype(np.int64)


@contextmanager
def _bar(num_pictures: int) -> Iterator[Any]:
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("Counting classes", total=num_pictures)
        yield lambda: progress.advance(task, PICTURES_EACH)
