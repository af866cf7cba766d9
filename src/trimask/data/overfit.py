"""A few pictures to learn by heart: the first question to a new network, loss or data set. Own work."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import albumentations as A
import numpy as np
from torch.utils.data import Dataset

from trimask.data.transforms import Warp
from trimask.types import FileDataset, Sample, SegmentationDataset


class Few(Dataset[Sample]):
    """Samples that lie evenly over a dataset, the first and the last among them.

    Args: count: so many, or all where there are fewer.
    """

    def __init__(self, dataset: SegmentationDataset, count: int) -> None:
        self.dataset, self.classes, self.offers = dataset, dataset.classes, dataset.offers
        self.indices = np.linspace(0, len(dataset) - 1, min(count, len(dataset))).astype(int).tolist()
        if isinstance(dataset, FileDataset):
            self.files = self._files

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Sample:
        return self.dataset[self.indices[index]]

    def _files(self, index: int) -> tuple[str, ...]:
        dataset: Any = self.dataset
        return tuple(dataset.files(self.indices[index]))


def unchanged(transforms: Sequence[A.BasicTransform]) -> list[A.BasicTransform]:
    """What is left of an augmentation when nothing is drawn: whole pictures, fitted into the size that the last `Warp` gives, or
    as they are where there is none."""
    warps = [transform for transform in transforms if isinstance(transform, Warp)]
    return [Warp(warps[-1].size, fit="contain", place="corner")] if warps else []
