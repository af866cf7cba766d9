"""Other classes than a dataset's own: merged, left out, renamed, reordered. Own work.

    data:
      remap:
        names: [road, vehicle, person]            # the new classes in label order; those of the old names stay
        merge: {vehicle: [car, truck, bus]}       # new class -> the old ones that become it
        ignore: [sky]                             # become unlabelled
        rest: ignore                              # what is said nowhere: keep, ignore, or the new class that it joins

Every old class must be spoken of, by name or by `rest`. The pictures and their cache are not touched: only labels and
ids change. Where annotations overlap, what lies beneath a segment that is left out shows.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from trimask.data.segments import renumber
from trimask.types import ClassSpec, DataError, FileDataset, Sample, SegmentationDataset

IGNORED = -1  # in the table from old to new labels
KEEP, IGNORE = "keep", "ignore"


@dataclass
class Remap:
    """What becomes of the classes.

    Attributes:
        names: the new classes in label order; by default in the order of the old classes that they come from.
        merge: new class -> old classes. A new class with an old one's name contains that one too.
        ignore: old classes that become unlabelled.
        rest: what happens to old classes named nowhere: "keep", "ignore", or a new class; by default it is an error.
        things: the countable new classes; by default those that come from countable classes alone.
        colors: new class -> "rrggbb"; by default the color of the old class of this name, or of the first that it comes from.
    """

    names: list[str] | None = None
    merge: dict[str, list[str]] = field(default_factory=dict)
    ignore: list[str] = field(default_factory=list)
    rest: str | None = None
    things: list[str] | None = None
    colors: dict[str, str] = field(default_factory=dict)

    def plan(self, old: ClassSpec) -> tuple[ClassSpec, NDArray[np.int64]]:
        """The new classes, and (C,) the new label of each old one, -1 where it is left out.

        Raises:
            DataError: a name is unknown, is given twice, or comes from nothing; an old class is named nowhere.
        """
        target = self._targets(old)
        names = self._new_names(old, target)
        table = np.array([names.index(new) if (new := target[name]) else IGNORED for name in old.names], np.int64)
        sources = [np.flatnonzero(table == label).tolist() for label in range(len(names))]
        classes = ClassSpec(
            names,
            things=self._things(old, names, sources),
            colors=self._colors(old, names, sources),
            ignore_index=old.ignore_index,
        )
        return classes, table

    def _targets(self, old: ClassSpec) -> dict[str, str | None]:
        """Old class -> new class, or None where it is left out."""
        target: dict[str, str | None] = {}
        spoken = [(name, new) for new, sources in self.merge.items() for name in sources]
        for name, new in [*spoken, *((name, None) for name in self.ignore)]:
            if name not in old.names:
                raise DataError(f"remap: the dataset has no class {name!r}{_nearest(name, old.names)}")
            if name in target:
                raise DataError(f"remap: the class {name!r} is named twice under `merge` and `ignore`; say it once.")
            target[name] = new
        for name in [*self.merge, *(self.names or ())]:
            if name in old.names:
                target.setdefault(name, name)
        unspoken = [name for name in old.names if name not in target]
        if unspoken and self.rest is None:
            raise DataError(
                f"remap: nothing is said of the classes {unspoken}. Add them to `names`, `merge` or `ignore`, or set "
                f"`rest: {KEEP}`, `rest: {IGNORE}` or `rest: <new class>`."
            )
        if unspoken and self.rest not in (joined := [KEEP, IGNORE, *self.merge, *(self.names or old.names)]):
            raise DataError(
                f"remap: `rest` is {KEEP}, {IGNORE} or a new class; {self.rest!r} is none{_nearest(str(self.rest), joined)}"
            )
        return target | {name: {KEEP: name, IGNORE: None}.get(str(self.rest), self.rest) for name in unspoken}

    def _new_names(self, old: ClassSpec, target: dict[str, str | None]) -> list[str]:
        found = list(dict.fromkeys(new for name in old.names if (new := target[name])))
        if empty := [name for name in [*self.merge, *(self.names or ())] if name not in found]:
            others = [name for name in old.names if name != empty[0]]
            raise DataError(
                f"remap: the new class {empty[0]!r} comes from no class that is left{_nearest(empty[0], others)}"
            )
        if not found:
            raise DataError("remap: every class is ignored; keep at least one.")
        if self.names is None:
            return found
        missing = [name for name in found if name not in self.names]
        if missing and self.rest != KEEP:
            raise DataError(f"remap: `names` lacks the new class {missing[0]!r}{_nearest(missing[0], self.names)}")
        return [*self.names, *missing]

    def _things(self, old: ClassSpec, names: list[str], sources: list[list[int]]) -> list[int]:
        if self.things is not None:
            return [_index(name, names, "things") for name in self.things]
        things = []
        for label, name in enumerate(names):
            countable = {source in old.things for source in sources[label]}
            if len(countable) > 1:
                joined = [old.names[source] for source in sources[label]]
                raise DataError(f"remap: {name!r} joins countable classes and others ({joined}); say `things`.")
            if countable == {True}:
                things.append(label)
        return things

    def _colors(self, old: ClassSpec, names: list[str], sources: list[list[int]]) -> NDArray[np.uint8]:
        given = {_index(name, names, "colors"): _rgb(name, color) for name, color in self.colors.items()}
        rows = []
        for label, name in enumerate(names):
            same = [source for source in sources[label] if old.names[source] == name]
            rows.append(given.get(label, old.colors[(same or self._in_order(old, name, sources[label]))[0]]))
        return np.asarray(rows, np.uint8)

    def _in_order(self, old: ClassSpec, name: str, sources: list[int]) -> list[int]:
        """As `merge` lists them; else in the order of their labels."""
        return [old.names.index(source) for source in self.merge.get(name, ())] or sources


class Remapped(Dataset[Sample]):
    """A dataset with the classes that a `Remap` makes of its own.

    Merged stuff is one segment; things stay one segment an instance, whatever they are merged from. In a dataset without
    instances every class is one segment, so that there things are merged too.

    Args:
        dataset: what is read.
        remap: what becomes of its classes.

    Raises:
        DataError: see `Remap.plan`.
    """

    def __init__(self, dataset: SegmentationDataset, remap: Remap) -> None:
        self.dataset, self.remap, self.offers = dataset, remap, dataset.offers
        self.classes, self.table = remap.plan(dataset.classes)
        has_instances = bool(self.offers & {"instances", "panoptic"})
        labels = range(len(self.classes))
        self.joins = np.array([not has_instances or label not in self.classes.things for label in labels])
        if isinstance(dataset, FileDataset):
            self.files = dataset.files

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Sample:
        sample = self.dataset[index]
        labels = self.table[sample.labels]
        new_ids, first = self._new_ids(labels)
        is_crowd = np.ones(len(first), np.bool_)
        known = new_ids > 0
        np.logical_and.at(is_crowd, new_ids[known] - 1, sample.is_crowd[known])
        segments = sample.segments
        if not np.array_equal(new_ids, np.arange(1, len(labels) + 1)):
            segments = relabel(segments, np.append(0, new_ids))
        return replace(sample, segments=segments, labels=labels[first], is_crowd=is_crowd)

    def _new_ids(self, labels: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(N,) new labels -> (N,) new ids, 0 where left out; and of each id the first of the N rows that it comes from."""
        new_ids = np.zeros(len(labels), np.int64)
        kept = np.flatnonzero(labels != IGNORED)
        own = len(self.joins) + kept  # a group for each segment that stays by itself
        groups = np.where(self.joins[labels[kept]], labels[kept], own)
        _, first, members = np.unique(groups, return_index=True, return_inverse=True)
        order = np.argsort(first)
        new_ids[kept] = np.argsort(order)[members] + 1
        return new_ids, kept[first[order]]


def relabel(segments: NDArray[Any], new_ids: NDArray[np.int64]) -> NDArray[Any]:
    """(L, H, W) ids -> `new_ids` (N + 1,) in their place, without layers that this has emptied.

    Where one new id comes to lie on itself it stays in the highest layer only.
    """
    replaced = renumber(segments, new_ids.astype(segments.dtype))
    if len(replaced) == 1:
        return replaced
    for above in range(1, len(replaced)):
        for beneath in replaced[:above]:
            beneath[beneath == replaced[above]] = 0
    filled = replaced.any(axis=(1, 2))
    return replaced[filled] if filled.any() else replaced[:1]


def _index(name: str, names: Sequence[str], key: str) -> int:
    if name not in names:
        raise DataError(f"remap: `{key}` names {name!r}, which is no new class{_nearest(name, names)}")
    return list(names).index(name)


def _rgb(name: str, color: str) -> tuple[int, ...]:
    try:
        red, green, blue = bytes.fromhex(color.removeprefix("#"))
    except (ValueError, AttributeError) as error:
        raise DataError(f"remap: the color of {name!r} is six hexadecimal digits in quotes; got {color!r}.") from error
    return red, green, blue


def _nearest(name: str, known: Iterable[str]) -> str:
    """The end of a sentence about an unknown name."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(known)}."
