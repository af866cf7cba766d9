"""Tversky loss: Dice with separate prices for false positives and false negatives.

Source: Salehi et al., "Tversky loss function for image segmentation", MLMI 2017, https://arxiv.org/abs/1706.05721;
the exponent is that of Abraham and Khan, "A novel focal Tversky loss", ISBI 2019, https://arxiv.org/abs/1810.07842.
**Deviations**: `gamma` is the exponent itself, where the second paper writes 1 / gamma. Like `Dice`, classes
absent from the truth contribute 0.
"""

from __future__ import annotations

import torch
from torch import Tensor

from trimask.losses.dice import EPSILON, AreaTerm


class Tversky(AreaTerm):
    """The mean over classes of (1 - TP / (TP + alpha FP + beta FN))^gamma.

    Args:
        weight: factor on the value.
        alpha: price of a false positive, not negative.
        beta: price of a false negative, not negative; alpha = beta = 0.5 is Dice.
        gamma: exponent, positive; below 1 it keeps pushing on classes that are nearly right.
        name: key of the value.
    """

    def __init__(
        self,
        *,
        weight: float = 1.0,
        alpha: float = 0.5,
        beta: float = 0.5,
        gamma: float = 1.0,
        name: str = "tversky",
    ) -> None:
        super().__init__(weight=weight, name=name)
        if alpha < 0 or beta < 0 or gamma <= 0:
            raise ValueError(f"Tversky needs alpha >= 0, beta >= 0 and gamma > 0; got {alpha}, {beta} and {gamma}.")
        self.alpha = alpha
        self.beta = beta
        self.gamma = gamma

    def distance(self, intersection: Tensor, predicted: Tensor, true: Tensor) -> Tensor:
        errors = self.alpha * (predicted - intersection) + self.beta * (true - intersection)
        distance = errors / (intersection + errors).clamp(min=EPSILON)
        # A power below 1 has an infinite slope at 0.
        return torch.where(distance > EPSILON, distance.clamp(min=EPSILON) ** self.gamma, 0)
