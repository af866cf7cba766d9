"""Over- and under-segmentation: true regions that the answer breaks up, and true regions that it joins.

Source: Y. Zhang, S. Mehta and A. Caspi, "Rethinking Semantic Segmentation Evaluation for Explainability and Model Selection",
2021, arXiv:2101.08418: the region-wise over-segmentation measure ROM and under-segmentation measure RUM. Regions are the
connected pixels of a class. A true region is over-segmented if several predicted regions touch it; with the shares of true
regions that are, and of predicted regions that take part, and m the number of predicted regions beyond the first, summed over
true regions, ROM = tanh(share x share x m). RUM is the same with truth and prediction exchanged. Both lie in 0..1, and 0 is
best.
Deviations: neighbors are eight; predictions on unlabelled pixels do not exist. A picture counts for a class that is in both its
truth and its prediction (without the other there is nothing to break or join); the mean is over pictures, then over classes.
"""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np
from numpy.typing import NDArray

from trimask.metrics.confusion import class_mean, ratio
from trimask.metrics.measure import Measure, MeasuredPictures, require_equal_size
from trimask.metrics.pictures import Ratios
from trimask.types import ClassSpec, Panoptic, SemanticMap, Target

Labels = NDArray[np.int64]
Ids = NDArray[np.int32]  # (H, W) connected regions, 0 for none


class RegionPictures(MeasuredPictures):
    """Args: rows: (P, 3, C) ROM, RUM, and 1 where the picture has the class in truth and prediction."""

    directions: Mapping[str, int] = {"rom": -1, "rum": -1}
    definition = (
        "ROM: how far true regions are broken up, RUM: how far they are joined; 0 is none, 1 the limit. Mean over the "
        "pictures that have a class in truth and prediction, then over classes."
    )

    def values(self, sums: NDArray[np.float64]) -> dict[str, Ratios]:
        over, under, pictures = np.moveaxis(sums, 1, 0)
        return {"rom": class_mean(ratio(over, pictures)), "rum": class_mean(ratio(under, pictures))}


class OverUnderSegmentation(Measure):
    """Logs `rom` and `rum`.

    Args:
        classes: what the labels mean.
        min_area: pixels; smaller regions, of truth and prediction, are left out. ROM counts each speck, as published.
    """

    questions = frozenset({"semantic", "panoptic"})

    def __init__(self, classes: ClassSpec, *, min_area: int = 1) -> None:
        super().__init__(classes)
        if min_area < 1:
            raise ValueError(f"`min_area` is a number of pixels from 1 on; got {min_area}.")
        self.min_area = min_area

    def update(self, answer: SemanticMap | Panoptic, truth: Target, *, name: str) -> None:
        answered = answer.semantic(self.classes.ignore_index)
        require_equal_size(tuple(answered.shape), truth.size, name)
        true = truth.semantic(self.classes.ignore_index).int().cpu().numpy()  # smaller numbers are compared faster
        found = np.where(true == self.classes.ignore_index, np.int32(-1), answered.int().cpu().numpy())
        sums = np.zeros((3, len(self.classes)))
        for label in range(len(self.classes)):
            if (true == label).any() and (found == label).any():
                over, under, counts = rom_and_rum(
                    regions(true == label, self.min_area), regions(found == label, self.min_area)
                )
                sums[:, label] = over, under, counts
        self.keep(name, sums)

    def compute(self) -> RegionPictures:
        return RegionPictures(*self.summed(3, len(self.classes)))


def regions(mask: NDArray[np.bool_], min_area: int = 1) -> Ids:
    """(H, W) -> its connected regions of at least `min_area` pixels, numbered from 1."""
    _, ids = cv2.connectedComponents(mask.view(np.uint8), connectivity=8)
    if min_area == 1:
        return ids.astype(np.int32, copy=False)
    keep = np.bincount(ids.ravel()) >= min_area
    keep[0] = False  # what lies outside of the mask
    return (np.cumsum(keep) * keep).astype(np.int32)[ids]


def rom_and_rum(true: Ids, found: Ids) -> tuple[float, float, bool]:
    """Of one class in one picture, and whether both have a region."""
    num_true, num_found = int(true.max(initial=0)), int(found.max(initial=0))
    if not num_true or not num_found:
        return 0.0, 0.0, False
    both = (true > 0) & (found > 0)
    pairs = np.unique(true[both].astype(np.int64) * (num_found + 1) + found[both])
    truth, prediction = np.divmod(pairs, num_found + 1)
    over = _measure(truth, prediction, num_true, num_found)
    return over, _measure(prediction, truth, num_found, num_true), True


def _measure(whole: Labels, part: Labels, num_whole: int, num_part: int) -> float:
    """Args: whole, part: (n,) which region of one side touches which of the other; num_whole, num_part: regions of each side."""
    parts = np.bincount(whole, minlength=num_whole + 1)
    broken = parts > 1
    taking_part = np.unique(part[broken[whole]])
    excess = np.maximum(parts - 1, 0).sum()
    return float(np.tanh(broken.sum() / num_whole * len(taking_part) / num_part * excess))
