"""Semantic scores from one confusion count that is summed over the data set.

Source: the definitions of mmsegmentation (mmseg/evaluation/metrics/iou_metric.py, `intersect_and_union` and
`total_area_to_metrics`), which are those of the papers that report a data set's mean IoU.
Deviations: pictures are counted with one integer `bincount`, so that sums are exact and the same for any number of
processes; a class that is absent from truth and prediction is reported instead of silently left out; classes may be
left out of the means without leaving the counts (BDD100K's background of the drivable area); the counts of each
picture are kept, for intervals (`bootstrap.py`) and tables of the worst pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.distributed import gather_all_tensors

from trimask.metrics.pictures import Arrays, SummedPictures
from trimask.types import ClassSpec

Counts = NDArray[np.int64]  # (..., 3, C) pixels of each class: right, in the truth, in the prediction
Ratios = NDArray[np.float64]

DEFINITION = (
    "IoU = right / (truth + predicted - right) of each class, in pixels summed over all pictures at their own size; "
    "mIoU is the mean over the classes that occur in truth or prediction. Unlabelled pixels are not counted."
)


def iou(counts: Counts) -> Ratios:
    """(..., 3, C) counts -> (..., C) intersection over union; nan where a class is in neither truth nor prediction."""
    right, truth, predicted = np.moveaxis(counts, -2, 0)
    return ratio(right, truth + predicted - right)


def dice(counts: Counts) -> Ratios:
    """(..., 3, C) counts -> (..., C) Dice (F1); nan where a class is in neither truth nor prediction."""
    right, truth, predicted = np.moveaxis(counts, -2, 0)
    return ratio(2 * right, truth + predicted)


def accuracy(counts: Counts) -> Ratios:
    """(..., 3, C) counts -> (..., C) share of each class's true pixels that are right; nan where the truth has none."""
    right, truth, _ = np.moveaxis(counts, -2, 0)
    return ratio(right, truth)


def class_mean(values: Ratios, exclude: Sequence[int] = ()) -> Ratios:
    """(..., C) -> (...) mean over the classes with a value and not in `exclude`; nan if there is none."""
    kept = np.delete(values, list(exclude), axis=-1)
    return ratio(np.nansum(kept, axis=-1), (~np.isnan(kept)).sum(axis=-1))


def mean_iou(counts: Counts, exclude: Sequence[int] = ()) -> Ratios:
    """(..., 3, C) counts -> (...) mean IoU: the usual `statistic` of `bootstrap_interval`."""
    return class_mean(iou(counts), exclude)


def ratio(part: NDArray[np.number], whole: NDArray[np.number]) -> Ratios:
    """part / whole, nan where whole is 0."""
    part, whole = np.asarray(part, np.float64), np.asarray(whole, np.float64)
    return np.divide(part, whole, out=np.full(whole.shape, np.nan), where=whole > 0)


@dataclass(frozen=True)
class PictureCounts:
    """The counts of each picture, ordered by name whatever process counted it.

    Attributes:
        names: one a picture.
        rows: (P, 3, C) int64 pixels: right, in the truth, in the prediction.
    """

    names: tuple[str, ...]
    rows: Counts

    def worst_first(self, exclude: Sequence[int] = ()) -> list[tuple[str, float]]:
        """(name, mean IoU of that picture alone), lowest first; pictures without a labelled pixel are left out."""
        scores = mean_iou(self.rows, exclude)
        return [(self.names[i], float(scores[i])) for i in np.argsort(scores, kind="stable") if not np.isnan(scores[i])]


class SemanticPictures(SummedPictures):
    """Args: rows: as in `PictureCounts`; classes: their names; exclude: labels left out of the means."""

    def __init__(
        self, names: Sequence[str], rows: Counts, *, classes: Sequence[str], exclude: Sequence[int] = ()
    ) -> None:
        super().__init__(names, rows)
        self.classes, self.exclude = tuple(classes), tuple(exclude)

    def values(self, sums: Counts) -> dict[str, Ratios]:
        right, truth = sums[:, 0].sum(axis=1), sums[:, 1].sum(axis=1)
        by_class = iou(sums)
        means = {
            "miou": class_mean(by_class, self.exclude),
            "pixel_accuracy": ratio(right, truth),
            "mean_accuracy": class_mean(accuracy(sums), self.exclude),
            "mean_dice": class_mean(dice(sums), self.exclude),
        }
        return means | {f"iou_{name}": by_class[:, label] for label, name in enumerate(self.classes)}

    def arrays(self) -> dict[str, NDArray[Any]]:
        return {
            "rows": self.rows,
            "classes": np.array(self.classes, dtype=str),
            "exclude": np.array(self.exclude, np.int64),
        }

    @classmethod
    def from_arrays(cls, names: Sequence[str], arrays: Arrays) -> SemanticPictures:
        classes, exclude = arrays["classes"].tolist(), arrays["exclude"].tolist()
        return cls(names, arrays["rows"], classes=classes, exclude=exclude)


class SemanticScores:
    """What a confusion count says. All ratios are in 0..1; a ratio without pixels is nan and left out of its mean.

    Not a dataclass: torchmetrics maps over the dataclasses that `compute` returns and refuses frozen ones.

    Args:
        confusion: (C, C) int64 pixels, row = truth, column = prediction.
        pictures: the counts picture by picture.
        names: of the classes.
        exclude: labels left out of the means.

    Attributes:
        iou, accuracy, dice: (C,) by class.
        miou, mean_accuracy, mean_dice: over the classes that have a value and are not in `exclude`.
        pixel_accuracy: over all labelled pixels, those of excluded classes included.
        absent: labels that are in neither truth nor prediction.
        definition: a sentence to print beside the numbers.
    """

    def __init__(
        self, confusion: Counts, pictures: PictureCounts, names: Sequence[str], exclude: Sequence[int] = ()
    ) -> None:
        self.confusion = confusion
        self.pictures = pictures
        self.names = tuple(names)
        self.exclude = tuple(exclude)
        counts = np.stack([np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)])
        self.iou, self.accuracy, self.dice = iou(counts), accuracy(counts), dice(counts)
        self.miou = float(class_mean(self.iou, self.exclude))
        self.mean_accuracy = float(class_mean(self.accuracy, self.exclude))
        self.mean_dice = float(class_mean(self.dice, self.exclude))
        self.pixel_accuracy = float(ratio(counts[0].sum(), counts[1].sum()))
        self.absent = tuple(np.flatnonzero(np.isnan(self.iou)).tolist())

    @property
    def kept(self) -> SemanticPictures:
        """What a run keeps of each picture."""
        rows = self.pictures.rows
        return SemanticPictures(self.pictures.names, rows, classes=self.names, exclude=self.exclude)

    @property
    def definition(self) -> str:
        excluded, absent = (", ".join(self.names[label] for label in labels) for labels in (self.exclude, self.absent))
        left_out = f" Left out of the means: {excluded}." if excluded else ""
        return DEFINITION + left_out + (f" In neither truth nor prediction: {absent}." if absent else "")


class SemanticConfusion(Metric):
    """Counts pixels by true and predicted class over a data set; exact, and the same for any number of processes.

    Its state is not part of a module's `state_dict` unless `.persistent(True)` is called (torchmetrics' rule).

    Args:
        classes: what the labels mean, and which label is ignored.
        exclude: names of classes to leave out of the means, though their pixels count as errors of other classes.
    """

    full_state_update = False
    higher_is_better = True
    is_differentiable = False
    questions = frozenset({"semantic"})

    confusion: Tensor
    rows: list[Tensor]
    encoded_names: list[Tensor]

    def __init__(self, classes: ClassSpec, *, exclude: Sequence[str] = ()) -> None:
        super().__init__(dist_sync_fn=_gather_integers)
        if unknown := sorted(set(exclude) - set(classes.names)):
            raise ValueError(f"`exclude` takes class names, which are {', '.join(classes.names)}; {unknown} are not.")
        if len(set(exclude)) == len(classes):
            raise ValueError("`exclude` names every class, so that no class is left for the mean.")
        self.names = classes.names
        self.num_classes = num_classes = len(classes)
        self.ignore_index = classes.ignore_index
        self.exclude = tuple(classes.names.index(name) for name in exclude)
        square = torch.zeros(num_classes, num_classes, dtype=torch.int64)
        self.add_state("confusion", square, dist_reduce_fx="sum")
        # Flat, because torchmetrics can gather from a process that has seen no picture only if the state has one axis.
        self.add_state("rows", [], dist_reduce_fx="cat")
        self.add_state("encoded_names", [], dist_reduce_fx="cat")

    def update(self, prediction: Tensor, truth: Tensor, *, name: str = "") -> None:
        """Counts one picture.

        Args:
            prediction: (H, W) integer labels 0..C-1.
            truth: (H, W) integer labels 0..C-1 or `ignore_index`, at the same size.
            name: of the picture, for the order of `PictureCounts`.

        Raises:
            ValueError: if the sizes differ or a label is outside its range.
        """
        if prediction.shape != truth.shape:
            raise ValueError(
                f"Prediction {tuple(prediction.shape)} and truth {tuple(truth.shape)} of {name!r} differ in size; "
                "bring the prediction to the size of the truth."
            )
        counts = self._count(prediction, truth, name)
        self.confusion += counts
        self.rows.append(torch.cat([counts.diagonal(), counts.sum(dim=1), counts.sum(dim=0)]))
        # As bytes in a tensor, because names must travel between processes in the same order as the rows.
        self.encoded_names.append(_encode(name).to(counts.device))

    def _count(self, prediction: Tensor, truth: Tensor, name: str) -> Tensor:
        """(C, C) pixels of one picture; what the truth has below 0 or above C-1 lands in rows that are cut off."""
        size = self.num_classes
        lowest, highest = (int(value) for value in torch.aminmax(prediction)) if prediction.numel() else (0, 0)
        if lowest < 0 or highest >= size:
            raise ValueError(f"The prediction of {name!r} has labels {lowest}..{highest}; allowed are 0..{size - 1}.")
        rows = truth.long().clamp(-1, size).add_(1)
        index = torch.add(prediction, rows, alpha=size).flatten()
        counts = torch.bincount(index, minlength=size * (size + 2)).reshape(size + 2, size)
        unlabelled = truth == self.ignore_index
        if int(counts[0].sum() + counts[-1].sum()) != int(unlabelled.count_nonzero()):
            strange = truth[((truth < 0) | (truth >= size)) & ~unlabelled].unique().tolist()
            raise ValueError(
                f"The truth of {name!r} has labels {strange[:8]}; allowed are 0..{size - 1} and {self.ignore_index} "
                "for unlabelled pixels. Check the class map of the dataset."
            )
        return counts[1:-1]

    def compute(self) -> SemanticScores:
        """The scores over all pictures of all processes."""
        rows = _joined(self.rows).reshape(-1, 3, self.num_classes).astype(np.int64)
        names = bytes(_joined(self.encoded_names).astype(np.uint8)).decode().split("\0")[:-1]
        order = sorted(range(len(names)), key=lambda i: names[i])
        pictures = PictureCounts(tuple(names[i] for i in order), rows[order])
        return SemanticScores(self.confusion.cpu().numpy(), pictures, self.names, self.exclude)


def _gather_integers(state: Tensor, group: Any = None) -> list[Tensor]:
    """torchmetrics' gather, in int64: it lets a process that has counted nothing send an empty float tensor."""
    return gather_all_tensors(state.to(torch.int64), group)


def _encode(name: str) -> Tensor:
    """UTF-8 bytes with a closing zero, as int64."""
    return torch.tensor([*name.encode(), 0], dtype=torch.int64)


def _joined(state: Tensor | list[Tensor]) -> NDArray[np.number]:
    """A list state before synchronization, or the one tensor that it is after it, as one flat array."""
    parts = state if isinstance(state, list) else [state]
    return torch.cat([part.flatten() for part in parts]).cpu().numpy() if parts else np.zeros(0, np.int64)
