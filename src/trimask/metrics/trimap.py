"""Mean IoU in a band around the true boundaries, and inside of the regions: where a network is wrong.

Source: P. Kohli, L. Ladicky and P. Torr, "Robust Higher Order Potentials for Enforcing Label Consistency", IJCV 2009 (accuracy
within a band around true boundaries, of several widths); as mean IoU in L.-C. Chen et al., "DeepLab", TPAMI 2018,
arXiv:1606.00915. The width as a share of the diagonal: B. Cheng et al., "Boundary IoU", CVPR 2021, arXiv:2103.16562.
Deviations: the band lies on both sides of what parts two labelled classes; where a class meets unlabelled pixels or the
picture's edge there is no boundary. Distances are those of a square window. Sums are over the data set, as of the mean IoU.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from trimask.metrics.confusion import mean_iou
from trimask.metrics.measure import Measure, MeasuredPictures, require_equal_size
from trimask.metrics.pictures import Ratios
from trimask.types import ClassSpec, Panoptic, SemanticMap, Target

Labels = NDArray[np.int64]


class TrimapPictures(MeasuredPictures):
    """Args: rows: (P, 3, widths x 2 x C) pixels right, in the truth, in the prediction, of each class, in bands and outside of
    them; widths: as in logged names; exclude: labels left out of the means."""

    definition = (
        "mIoU of the pixels in a band around true boundaries, and of all others inside of regions; px: pixels to either side, "
        "pc: percent of the picture's diagonal."
    )

    def values(self, sums: NDArray[np.float64]) -> dict[str, Ratios]:
        widths, exclude = self.facts["widths"].tolist(), self.facts["exclude"].astype(int).tolist()
        counts = sums.astype(np.int64).reshape(len(sums), 3, len(widths), 2, -1)
        return {
            f"miou_{where}_{width}": mean_iou(counts[:, :, row, column], exclude)
            for row, width in enumerate(widths)
            for column, where in enumerate(("band", "inside"))
        }


class TrimapIoU(Measure):
    """Logs `miou_band_<width>` and `miou_inside_<width>`, e.g. `miou_band_2pc` and `miou_band_3px`.

    Args:
        classes: what the labels mean.
        widths: of the band to either side of a boundary: from 1 on in pixels, below 1 in diagonals of the picture.
        exclude: names of classes to leave out of the means, as in `SemanticConfusion`.
    """

    questions = frozenset({"semantic", "panoptic"})

    def __init__(self, classes: ClassSpec, *, widths: Sequence[float] = (0.02,), exclude: Sequence[str] = ()) -> None:
        super().__init__(classes)
        if not widths or min(widths) <= 0 or any(width > 1 and width % 1 for width in widths):
            raise ValueError(
                f"`widths` are whole pixels from 1 on, or shares of the diagonal below 1, such as 0.02; got {list(widths)}."
            )
        if unknown := sorted(set(exclude) - set(classes.names)):
            raise ValueError(f"`exclude` takes class names, which are {', '.join(classes.names)}; {unknown} are not.")
        self.widths, self.exclude = tuple(widths), [classes.names.index(name) for name in exclude]

    def update(self, answer: SemanticMap | Panoptic, truth: Target, *, name: str) -> None:
        found = answer.semantic(self.classes.ignore_index)
        require_equal_size(tuple(found.shape), truth.size, name)
        true = truth.semantic(self.classes.ignore_index).cpu().numpy()
        labelled = true != self.classes.ignore_index
        in_bands = [in_band(true, labelled, width) for width in self.widths]
        of_class = [_counts(true, found.cpu().numpy(), labelled, band, len(self.classes)) for band in in_bands]
        self.keep(name, np.stack(of_class, axis=1))

    def compute(self) -> TrimapPictures:
        names, rows = self.summed(3, len(self.widths) * 2 * len(self.classes))
        return TrimapPictures(names, rows, widths=[_in_short(width) for width in self.widths], exclude=self.exclude)


def in_band(true: Labels, labelled: NDArray[np.bool_], width: float) -> NDArray[np.bool_]:
    """(H, W) which pixels have one of another labelled class at most so far away. Args: width: as in `TrimapIoU`."""
    pixels = round(width) if width >= 1 else max(round(width * float(np.hypot(*true.shape))), 1)
    window = np.ones((2 * pixels + 1, 2 * pixels + 1), np.uint8)
    kind: Any = np.uint8 if true.max(initial=0, where=labelled) < 254 else np.float32  # four times as fast
    shifted = (true + 1).astype(kind)
    highest = cv2.dilate(np.where(labelled, shifted, kind(0)), window, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    beyond = kind(255) if kind is np.uint8 else kind(np.finfo(np.float32).max)
    lowest = cv2.erode(
        np.where(labelled, shifted, beyond), window, borderType=cv2.BORDER_CONSTANT, borderValue=float(beyond)
    )
    return (highest != lowest) & labelled


def _counts(
    true: Labels, found: Labels, labelled: NDArray[np.bool_], band: NDArray[np.bool_], num_classes: int
) -> NDArray[np.int64]:
    """(3, 2, C) pixels of each class: right, in the truth, in the prediction; in the band and outside of it."""
    true, found, offset = true[labelled], found[labelled], np.where(band[labelled], 0, num_classes)
    some = (found >= 0) & (found < num_classes)  # a panoptic answer may leave pixels without a class
    right = true == found
    parts = (true + offset)[right], true + offset, (found + offset)[some]
    return np.stack([np.bincount(part, minlength=2 * num_classes) for part in parts]).reshape(3, 2, num_classes)


def _in_short(width: float) -> str:
    return f"{width:g}px" if width >= 1 else f"{100 * width:g}pc".replace(".", "_")
