"""Scores of the pictures that share a tag: of rainy pictures, of those by night, ..., and of the worst of these slices.

Every metric keeps what its scores are made of picture by picture (`pictures.py`), so that a slice is the same sums over some of
the pictures: exact for mean IoU, AP and PQ alike, without a metric a slice. What a slice is good for: a mean over all pictures
can rise while the pictures that matter get worse (S. Sagawa et al., "Distributionally robust neural networks for group shifts",
ICLR 2020, where the worst group is what a model is chosen by). Own work.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trimask.metrics.bootstrap import bootstrap_interval_of_slice
from trimask.metrics.pictures import JoinedPictures, Pictures, Ratios, SummedPictures
from trimask.metrics.records import PictureRecords

MAX_VALUES = 100  # of a tag; more than that is a name, not a tag
Tags = Mapping[str, str]


class PictureTags(PictureRecords):
    """The tags of each picture that was evaluated, from all processes."""

    fields = (np.uint8,)  # JSON

    def update(self, tags: Tags, *, name: str) -> None:
        self.keep(name, np.frombuffer(json.dumps(dict(tags)).encode(), np.uint8))

    def compute(self) -> dict[str, dict[str, str]]:
        """The tags of each picture by its name, in the order of the names."""
        return {name: json.loads(text.tobytes()) for name, (text,) in self.kept().items()}


@dataclass(frozen=True)
class Slices:
    """Which slices a run measures.

    Attributes:
        tags: of the pictures, such as weather or timeofday; each of their values is a slice.
        min_pictures: how many pictures a slice must have to be the worst one; the score of fewer says little.
    """

    tags: Sequence[str]
    min_pictures: int = 10

    def __post_init__(self) -> None:
        if not self.tags or self.min_pictures < 1:
            raise ValueError(
                f"`slices` takes at least one of the pictures' tags, and `min_pictures` from 1 on; got {list(self.tags)} and "
                f"{self.min_pictures}."
            )

    def require(self, known: Mapping[str, AbstractSet[str]]) -> None:
        """Raises ValueError unless the data have these tags. Args: known: tags and their values, as far as looked at."""
        for tag in self.tags:
            if tag not in known:
                there = ", ".join(f"{name} ({_few(values)})" for name, values in sorted(known.items()))
                raise ValueError(
                    f"model.slices asks for the tag {tag!r}, which none of the pictures that were looked at has. "
                    + (f"They have {there}." if there else "They have no tags at all; leave `slices` out.")
                )
            _require_few(tag, len(known[tag]))


def _few(values: AbstractSet[str]) -> str:
    shown = sorted(values)
    return ", ".join(shown[:6]) + (", ..." if len(shown) > 6 else "")


def _require_few(tag: str, num_values: int) -> None:
    if num_values > MAX_VALUES:
        raise ValueError(
            f"The tag {tag!r} has more than {MAX_VALUES} values, so that each slice would be a picture or two; slice by another."
        )


@dataclass(frozen=True, eq=False)
class Slice:
    """Attributes: tag, value; rows: (N,) the pictures, among those that were evaluated; key: as part of a logged name."""

    tag: str
    value: str
    rows: NDArray[np.int64]
    key: str

    @property
    def name(self) -> str:
        return f"{self.tag} {self.value}"


def find_slices(names: Sequence[str], tags: Mapping[str, Tags], asked: Slices) -> list[Slice]:
    """In the order of the tags, then of the values. A picture without a tag is in none of its slices."""
    found: list[Slice] = []
    keys: set[str] = set()
    for tag in asked.tags:
        of_picture = [tags.get(name, {}).get(tag) for name in names]
        values = sorted({value for value in of_picture if value is not None})
        _require_few(tag, len(values))
        for value in values:
            rows = np.flatnonzero([other == value for other in of_picture])
            found.append(Slice(tag, value, rows, _free_key(f"{tag}_{value}", keys)))
    return found


def plain_key(text: str) -> str:
    """Of small letters, digits and underscores alone, which is what W&B can sort by and any shell can say."""
    return re.sub(r"[^\w]+", "_", text.lower()).strip("_")


def _free_key(text: str, taken: set[str]) -> str:
    """A plain key; one that is taken by a value that differs in other characters gets a number."""
    plain = plain_key(text)
    key, number = plain, 2
    while key in taken:
        key, number = f"{plain}_{number}", number + 1
    taken.add(key)
    return key


class SliceScores:
    """The scores of every slice.

    Args:
        pictures: of the whole data set.
        slices: of them.
        headline: the score of `pictures` by which slices are compared; more is better.
        min_pictures: see `Slices`.
        beside: further scores of the same pictures.

    Attributes:
        scores: {short name: (S,)} of every slice, all that the pictures tell.
        whole: the headline of all pictures.
    """

    def __init__(
        self,
        pictures: Pictures,
        slices: Sequence[Slice],
        headline: str,
        *,
        min_pictures: int,
        beside: Sequence[Pictures] = (),
    ) -> None:
        self.pictures, self.slices = pictures, tuple(slices)
        self.headline, self.min_pictures = headline, min_pictures
        times = np.zeros((len(slices) + 1, len(pictures.names)), np.int64)
        times[0] = 1
        for row, one in zip(times[1:], slices, strict=True):
            row[one.rows] = 1
        found = JoinedPictures([pictures, *beside]).redrawn(times)
        self.scores: dict[str, Ratios] = {name: values[1:] for name, values in found.items()}
        self.whole = float(found[headline][0])

    def worst(self) -> int | None:
        """Of the slices that have enough pictures and a score."""
        values = self.scores[self.headline]
        fit = [i for i, s in enumerate(self.slices) if len(s.rows) >= self.min_pictures and not np.isnan(values[i])]
        return min(fit, key=lambda index: float(values[index]), default=None)

    def values(self) -> dict[str, float]:
        """What is logged: the headline of each slice, and that of the worst; nan where no slice has enough pictures."""
        values, worst = self.scores[self.headline], self.worst()
        named = {f"{self.headline}_{one.key}": float(value) for one, value in zip(self.slices, values, strict=True)}
        return named | {f"{self.headline}_worst_slice": float("nan") if worst is None else float(values[worst])}

    def interval(self, index: int) -> tuple[float, float] | None:
        """Of the headline of a slice, as in `bootstrap_interval`; None where it would take minutes (AP), or there is no score."""
        if not isinstance(self.pictures, SummedPictures) or np.isnan(self.scores[self.headline][index]):
            return None
        return bootstrap_interval_of_slice(self.pictures, self.slices[index].rows, self.headline)

    @property
    def definition(self) -> str:
        untagged = {
            tag: len(self.pictures.names) - sum(len(one.rows) for one in self.slices if one.tag == tag)
            for tag in dict.fromkeys(one.tag for one in self.slices)
        }
        left_out = "".join(f" {count} have no {tag}." for tag, count in untagged.items() if count)
        return (
            f"The {self.headline} of a slice is that of its pictures as if they were the whole data set. The worst slice is "
            f"among those with at least {self.min_pictures} pictures.{left_out}"
        )
