"""Calibration: whether scores are probabilities. Of all answers that a network gives with 0.8, four of five should be right.

Sources: expected calibration error (ECE) with bins of equal width, and temperature scaling: C. Guo et al., "On Calibration of
Modern Neural Networks", ICML 2017, arXiv:1706.04599; the score of several classes: G. W. Brier, "Verification of forecasts
expressed in terms of probability", Monthly Weather Review 1950; detections: F. Kueppers et al., "Multivariate Confidence
Calibration for Object Detection", CVPR Workshops 2020, arXiv:2004.13546, by the score alone.
Deviations: a bin holds its lower end and not its upper one; confidences are rounded to 1/4096 of a bin, so that their sum is a
count, the same in whatever order pixels come; the mean is over all labelled pixels of the data set, not over pictures.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trimask.metrics.average_precision import AT_50, AveragePrecision, one_matched
from trimask.metrics.confusion import ratio
from trimask.metrics.measure import Measure, MeasuredPictures, require_equal_size
from trimask.metrics.panoptic_quality import match_segments, pair_ious, pair_pixels, top_layer
from trimask.metrics.pictures import Ratios
from trimask.types import ClassSpec, Instances, Panoptic, SemanticMap, Target

LEVELS = 4096  # of confidence in a bin
ROWS = 64  # of a picture whose scores are looked at together
LEAST = float(np.finfo(np.float32).tiny)  # a probability of 0 is taken for this one, so that its logarithm is a number
BOUNDS = (0.01, 100.0)  # between which a temperature is looked for


class Reliability(NamedTuple):
    """A reliability diagram, (B,) of each bin: share of all answers, mean confidence, share that is right; nan if it is empty."""

    share: Ratios
    confidence: Ratios
    right: Ratios


class Evidence(NamedTuple):
    """What a temperature is fitted to, on the host.

    Attributes:
        logs: (n, K) log probabilities, up to a constant for each row.
        true: (n,) int64 which of the K is true.
    """

    logs: Tensor
    true: Tensor


class CalibrationPictures(MeasuredPictures):
    """Args: rows: (P, 1, 3 B + 2) answers of each bin, those that are right, sums of confidence; sums of Brier scores and of
    negative log likelihoods."""

    directions: Mapping[str, int] = {"ece": -1, "mce": -1, "brier": -1, "nll": -1, "overconfidence": 0}
    definition = (
        "ECE: the mean gap between confidence and share of right answers, over bins of confidence weighted by what they hold; "
        "MCE: the largest gap. Brier: squared distance to the truth, 0 to 2. NLL: negative log of what the truth is given. "
        "Overconfidence: mean confidence minus share of right answers."
    )

    def values(self, sums: NDArray[np.float64]) -> dict[str, Ratios]:
        count, right, confidence = self._bins(sums)
        total = count.sum(axis=1)
        gaps = np.abs(right - confidence)
        return {
            "ece": ratio(gaps.sum(axis=1), total),
            "mce": np.where(total > 0, np.nan_to_num(ratio(gaps, count)).max(axis=1), np.nan),
            "brier": ratio(sums[:, 0, -2], total),
            "nll": ratio(sums[:, 0, -1], total),
            "overconfidence": np.where(total > 0, ratio((confidence - right).sum(axis=1), total), np.nan),
        }

    @property
    def reliability(self) -> Reliability:
        """Of all pictures."""
        count, right, confidence = (one[0] for one in self._bins(self.rows.sum(axis=0)[None]))
        share = count / max(count.sum(), 1)
        return Reliability(share, ratio(confidence, count), ratio(right, count))

    @staticmethod
    def _bins(sums: NDArray[np.float64]) -> NDArray[np.float64]:
        """(R, 1, 3 B + 2) -> (3, R, B)."""
        return np.moveaxis(sums[:, 0, :-2].reshape(len(sums), 3, -1), 1, 0)


class Calibration(Measure):
    """Of class maps: over labelled pixels, the winning class with its probability.

    Logs `ece`, `mce`, `brier`, `nll` and `overconfidence`. A picture costs its full-size class probabilities.

    Args:
        classes: what the labels mean.
        bins: of confidence.
    """

    questions = frozenset({"semantic"})
    asks: ClassVar[Mapping[str, Any]] = {"scores": True}

    def __init__(self, classes: ClassSpec, *, bins: int = 15) -> None:
        super().__init__(classes)
        self.bins = _at_least_two(bins)

    def update(self, answer: SemanticMap, truth: Target, *, name: str) -> None:
        require_equal_size(tuple(answer.labels.shape), truth.size, name)
        scores = _scores(answer, name)
        labels = truth.semantic(self.classes.ignore_index)
        labelled = labels != self.classes.ignore_index
        true = labels.where(labelled, 0)
        given = scores.gather(0, true[None])[0].where(labelled, 1)  # to the true class
        confidence = scores.gather(0, answer.labels[None])[0] if answer.confidence is None else answer.confidence
        # Of all classes; by rows, so that the scores are not copied as a whole.
        squares = torch.cat([rows.square().sum(dim=0) for rows in scores.split(ROWS, dim=1)])
        brier = (squares - 2 * given + 1).where(labelled, 0).sum(dtype=torch.float64)
        nll = -given.clamp(min=LEAST).log().sum(dtype=torch.float64)
        right = (answer.labels == labels)[labelled]
        self.keep(name, _sums(confidence[labelled], right, self.bins, float(brier), float(nll)))

    def compute(self) -> CalibrationPictures:
        return CalibrationPictures(*self.summed(1, 3 * self.bins + 2))

    def evidence(self, answer: SemanticMap, truth: Target, *, name: str, count: int, seed: int) -> Evidence:
        """What a temperature is fitted to: at most `count` labelled pixels of the picture, chosen by its name and the seed."""
        labels = truth.semantic(self.classes.ignore_index).flatten()
        places = torch.nonzero(labels != self.classes.ignore_index)[:, 0]
        if len(places) > count:
            generator = np.random.default_rng([seed, *name.encode()])
            chosen = generator.choice(len(places), count, replace=False, shuffle=False)
            places = places[torch.from_numpy(np.sort(chosen)).to(places.device)]
        given = _scores(answer, name).flatten(1)[:, places]
        return Evidence(given.clamp(min=LEAST).log().T.float().cpu(), labels[places].cpu())


class _OfRegions(Measure):
    """Of answers that are right or wrong as a whole. Logs the same as `Calibration`.

    Args:
        classes: what the labels mean.
        bins: of confidence.
    """

    def __init__(self, classes: ClassSpec, *, bins: int = 15) -> None:
        super().__init__(classes)
        self.bins = _at_least_two(bins)

    @abstractmethod
    def matched(self, answer: Any, truth: Target, name: str) -> tuple[Tensor, Tensor]:
        """(D,) float64 scores of the regions that count, and which of them are right; on the host."""

    def update(self, answer: Any, truth: Target, *, name: str) -> None:
        scores, right = self.matched(answer, truth, name)
        given = torch.where(right, scores, 1 - scores)
        brier = 2 * (1 - given).square().sum()  # of two classes: right and wrong
        nll = -given.clamp(min=LEAST).log().sum()
        self.keep(name, _sums(scores, right, self.bins, float(brier), float(nll)))

    def compute(self) -> CalibrationPictures:
        return CalibrationPictures(*self.summed(1, 3 * self.bins + 2))

    def evidence(self, answer: Any, truth: Target, *, name: str, count: int, seed: int) -> Evidence:
        """What a temperature is fitted to: all regions that count, as right or wrong."""
        scores, right = self.matched(answer, truth, name)
        return Evidence(torch.stack([1 - scores, scores], dim=1).clamp(min=LEAST).log().float(), right.long())


class InstanceCalibration(_OfRegions):
    """Of instances: whether a score is the chance that an object of the class lies there, with an IoU of masks of at least 0.5.

    Matches are those of average precision: the best 100 of a class and picture, each object found once, none that lies in a
    crowd. Logs the same as `Calibration`.

    Args:
        classes: what the labels mean.
        bins: of confidence.
        above: instances with a smaller score are left out.
    """

    questions = frozenset({"instances"})

    def __init__(self, classes: ClassSpec, *, bins: int = 15, above: float = 0.0) -> None:
        super().__init__(classes, bins=bins)
        self.above = above
        self._matching = AveragePrecision(classes)  # of one picture at a time

    def matched(self, answer: Instances, truth: Target, name: str) -> tuple[Tensor, Tensor]:
        self._matching.reset()
        self._matching.update(answer.above(self.above), truth, name=name)
        found = one_matched(self._matching)
        counts = ~found.ignored[:, AT_50]
        return torch.from_numpy(found.scores_of[counts]), torch.from_numpy(found.right[counts, AT_50])


class PanopticCalibration(_OfRegions):
    """Of panoptic segments: whether a score is the chance that the segment matches a true one of its class, as PQ has it.

    Segments that PQ excuses, because they lie on unlabelled pixels or in crowds, do not count. Logs the same as `Calibration`.
    """

    questions = frozenset({"panoptic"})

    def matched(self, answer: Panoptic, truth: Target, name: str) -> tuple[Tensor, Tensor]:
        require_equal_size(tuple(answer.segments.shape), truth.size, name)
        labels, true_labels = answer.labels.cpu().numpy(), truth.labels.cpu().numpy()
        true, found = top_layer(truth.segments.cpu().numpy()), answer.segments.cpu().numpy()
        pixels = pair_pixels(true, found, len(true_labels), len(labels))
        matches = match_segments(pixels, pair_ious(pixels), true_labels, labels, truth.is_crowd.cpu().numpy())
        right = np.zeros(len(labels), bool)
        right[matches.found] = True
        counts = right | matches.wrong
        return answer.scores.double().cpu()[torch.from_numpy(counts)], torch.from_numpy(right[counts])


def _sums(confidence: Tensor, right: Tensor, bins: int, brier: float, nll: float) -> NDArray[np.float64]:
    """(3 B + 2,) of one picture. Args: confidence, right: (n,) of its answers."""
    num_levels = bins * LEVELS
    level = (confidence * num_levels).long().clamp(0, num_levels - 1)
    counts = torch.bincount(2 * level + right, minlength=2 * num_levels).reshape(bins, LEVELS, 2).cpu().numpy()
    of_level = counts.sum(axis=2)
    middle = (np.arange(num_levels).reshape(bins, LEVELS) + 0.5) / num_levels
    parts = of_level.sum(axis=1), counts[:, :, 1].sum(axis=1), (of_level * middle).sum(axis=1)
    return np.concatenate([*parts, [brier, nll]])


def _at_least_two(bins: int) -> int:
    if bins < 2:
        raise ValueError(f"`bins` of confidence are at least two; got {bins}.")
    return bins


def _scores(answer: SemanticMap, name: str) -> Tensor:
    if answer.scores is None:
        raise ValueError(f"The answer for {name!r} has no scores; ask for it with `scores=True`.")
    return answer.scores


# --- temperature scaling ---


def fit_temperature(evidence: Evidence) -> float:
    """The temperature at which the truth is most likely: where the slope of the loss is zero.

    In the inverse of the temperature the loss is convex, so that there is one such place or none.

    Raises:
        ValueError: there is nothing to learn from, or no temperature between `BOUNDS` is best.
    """
    from scipy.optimize import brentq

    logs, true = evidence
    if not len(logs):
        raise ValueError("A temperature is fitted to answers whose truth is known; there are none.")
    behind = logs - logs.gather(1, true[:, None])  # the truth

    def slope(log_inverse: float) -> float:
        return float(
            ((behind * float(np.exp(log_inverse))).softmax(dim=1) * behind).sum(dim=1).mean(dtype=torch.float64)
        )

    low, high = (float(-np.log(bound)) for bound in reversed(BOUNDS))
    if not slope(low) < 0 < slope(high):
        raise ValueError(
            f"The likelihood grows on to temperatures outside {BOUNDS[0]:g} to {BOUNDS[1]:g}: the answers are all right, all "
            "wrong or constant, and no temperature calibrates them. Measure more pictures."
        )
    return float(np.exp(-brentq(slope, low, high, xtol=1e-5)))
