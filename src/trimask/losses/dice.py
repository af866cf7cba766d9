"""Dice loss, and what it shares with every loss that compares areas.

Source: Milletari et al., "V-Net", 3DV 2016, https://arxiv.org/abs/1606.04797, with plain instead of squared
probabilities in the denominator; equal to segmentation_models_pytorch's `DiceLoss` (from logits, smooth 0,
modes "binary" and "multiclass"). Deviations: none.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from trimask.losses.dense import DenseTerm, Strip

EPSILON = 1e-7  # segmentation_models_pytorch's


class AreaTerm(DenseTerm):
    """A loss of the areas of prediction, truth and their intersection, each class's summed over the whole batch."""

    linear = False

    def measure(self, strip: Strip, focus: Any) -> tuple[Tensor, ...]:
        return strip.probabilities * strip.truth, strip.probabilities, strip.truth

    def combine(self, sums: Tensor, focus: Any) -> Tensor:
        """The mean over all classes; those absent from the truth have no defined overlap and contribute 0."""
        intersection, predicted, true = sums.sum(dim=0).chunk(3)  # (C,) each
        return torch.where(true > 0, self.distance(intersection, predicted, true), 0).mean()

    def distance(self, intersection: Tensor, predicted: Tensor, true: Tensor) -> Tensor:
        """(C,) soft areas in pixels -> (C,) losses in 0..1."""
        raise NotImplementedError


class Dice(AreaTerm):
    """1 - 2 intersection / (predicted + true).

    Args:
        weight: factor on the value.
        name: key of the value.
    """

    def __init__(self, *, weight: float = 1.0, name: str = "dice") -> None:
        super().__init__(weight=weight, name=name)

    def distance(self, intersection: Tensor, predicted: Tensor, true: Tensor) -> Tensor:
        return 1 - 2 * intersection / (predicted + true).clamp(min=EPSILON)
