"""What a measurement saw, by the contents of its data: two machines with the same pictures' truth get the same hashes.

`data/fingerprint.py` is about files of this machine (paths, times); here the decoded truth counts, so that a copy, another
folder or another encoding of the same masks is the same data.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from trimask.types import Sample, SegmentationDataset


@dataclass(frozen=True)
class DataFingerprint:
    """Attributes:
    dataset: the class that read it.
    split: which part.
    pictures: how many.
    sizes: {"height x width": how many}, the commonest first; of more than 20 sizes the rest is summed up.
    classes: their names.
    names: sha256 of the pictures' names, in the order of the names.
    labels: sha256 of the truth: sizes, segments, labels and crowds, in that order.
    """

    dataset: str
    split: str
    pictures: int
    sizes: dict[str, int]
    classes: list[str]
    names: str
    labels: str

    def to_config(self) -> dict[str, Any]:
        return asdict(self)


def data_fingerprint(dataset: SegmentationDataset, split: str, samples: Iterable[Sample]) -> DataFingerprint:
    """Args: samples: all of the dataset, in any order; they are decoded while they are read."""
    sizes: Counter[str] = Counter()
    truths: dict[str, bytes] = {}
    for sample in samples:
        sizes[f"{sample.size[0]} x {sample.size[1]}"] += 1
        truths[sample.name] = _truth(sample)
    names, labels = hashlib.sha256(), hashlib.sha256()
    for name in sorted(truths):
        names.update(name.encode(errors="surrogateescape") + b"\0")
        labels.update(truths[name])
    return DataFingerprint(
        type(dataset).__name__,
        split,
        sizes.total(),
        _commonest(sizes),
        list(dataset.classes.names),
        names.hexdigest(),
        labels.hexdigest(),
    )


def _truth(sample: Sample) -> bytes:
    """The same for any integer type that holds the ids."""
    digest = hashlib.sha256()
    digest.update(np.array([*sample.size, *sample.segments.shape], "<i8").tobytes())
    digest.update(np.ascontiguousarray(sample.segments, "<i4").data.cast("B") if sample.segments.size else b"")
    digest.update(np.ascontiguousarray(sample.labels, "<i8").tobytes())
    digest.update(np.ascontiguousarray(sample.is_crowd, np.uint8).tobytes())
    return digest.digest()


def _commonest(sizes: Counter[str], limit: int = 20) -> dict[str, int]:
    shown = dict(sorted(sizes.items(), key=lambda pair: (-pair[1], pair[0]))[:limit])
    rest = sizes.total() - sum(shown.values())
    return shown | ({f"{len(sizes) - limit} other sizes": rest} if rest else {})
