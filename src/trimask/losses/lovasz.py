"""Lovasz losses: the convex surrogate of the Jaccard index (intersection over union).

Source: Berman et al., "The Lovasz-Softmax loss", CVPR 2018, https://arxiv.org/abs/1705.08790, and the authors'
https://github.com/bermanmaxim/LovaszSoftmax: Lovasz-softmax over the classes present in the truth, and the Lovasz
hinge of the foreground, the paper's binary form, where there is one logit. Deviations: none.

The loss is the errors weighted by the slopes of the Jaccard loss at their sorted order, and the slopes are constants
for the gradient. So one look sorts, and one more walk weighs. The look holds one float map of the picture's size
for each class that is present.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from trimask.losses.dense import DenseTerm, Look, Strip


@dataclass(frozen=True)
class _Slopes:
    """`classes` (K,) that are compared; `maps` (B, K, H, W) what an error at each pixel costs."""

    classes: Tensor
    maps: Tensor


class Lovasz(DenseTerm):
    """Mean over the classes present in the truth.

    Args:
        weight: factor on the value.
        per_image: mean over the pictures' own losses instead of one loss of the whole batch.
        name: key of the value.
    """

    def __init__(self, *, weight: float = 1.0, per_image: bool = False, name: str = "lovasz") -> None:
        super().__init__(weight=weight, name=name)
        self.per_image = per_image

    def focus(self, look: Look) -> _Slopes:
        labels = look.pixels(lambda strip: strip.labels[:, None])[0]  # (N,)
        single = look.num_channels == 1
        classes = labels.new_ones(1) if single else labels.unique()
        errors = look.pixels(lambda strip: _errors(strip, classes))  # (K, N)
        truth = labels == classes[:, None]  # (K, N)
        groups = look.counts.tolist() if self.per_image else [len(labels)]
        pairs = zip(errors.split(groups, dim=1), truth.split(groups, dim=1), strict=True)
        slopes = torch.cat([_group_slopes(*pair, even_if_absent=single) for pair in pairs], dim=1)
        return _Slopes(classes, look.spread(slopes / len(groups)))

    def measure(self, strip: Strip, focus: _Slopes) -> Tensor:
        return (_errors(strip, focus.classes) * strip.crop(focus.maps)).sum(dim=1, keepdim=True)

    def combine(self, sums: Tensor, focus: _Slopes) -> Tensor:
        return sums.sum()


def _errors(strip: Strip, classes: Tensor) -> Tensor:
    """(B, K, r, W): the hinge of one logit, else how far the probability of each class lies from the truth."""
    if strip.logits.shape[1] == 1:
        return (1 - strip.margin).relu()
    truth = strip.labels[:, None] == classes[:, None, None]
    return (truth.to(strip.logits.dtype) - strip.probabilities.index_select(1, classes)).abs()


def _group_slopes(errors: Tensor, truth: Tensor, *, even_if_absent: bool) -> Tensor:
    """(K, N) slopes of the Jaccard loss at each pixel's place among the sorted errors, over the number of classes."""
    counted = [index for index, true in enumerate(truth) if even_if_absent or true.any()]
    slopes = torch.zeros_like(errors)
    for index in counted:
        order = errors[index].argsort(descending=True)
        slopes[index, order] = _jaccard_slopes(truth[index, order]).to(errors.dtype) / len(counted)
    return slopes


def _jaccard_slopes(truth: Tensor) -> Tensor:
    """(N,) bool truth in order of falling error -> (N,) growth of the Jaccard loss with each error (Alg. 1).

    Written as the difference of two neighbors: subtracting one Jaccard index from the next would cancel all digits.
    """
    num_true = truth.sum()
    kept = num_true - truth.cumsum(0)  # the intersection, if everything up to here is wrong
    union = num_true + (~truth).cumsum(0)
    slopes = torch.where(truth, 1.0, kept / (union - 1).clamp(min=1)) / union
    slopes[:1] = torch.where(num_true > 0, slopes[:1], 1.0)  # the first error over an empty truth costs everything
    return slopes
