"""Focal loss: binary cross-entropy in which well classified pixels count less.

Source: Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, https://arxiv.org/abs/1708.02002, section 3;
equal to `torchvision.ops.sigmoid_focal_loss` with the mean over pixels and channels. As in the paper every channel is
told from the rest by its own sigmoid, one logit being the foreground.
**Deviations**: computed in log space, so that the gradient stays finite at saturated logits for any gamma.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from trimask.losses.dense import DenseTerm, Strip


class Focal(DenseTerm):
    """The mean of -(1 - p)^gamma log p over valid pixels and channels; p is the probability of what is true.

    Args:
        weight: factor on the value.
        gamma: how strongly easy pixels fade, not negative; 0 is binary cross-entropy.
        alpha: factor on positives, with 1 - alpha on negatives, 0..1; by default both count 1. The paper takes 0.25.
        name: key of the value.
    """

    def __init__(
        self, *, weight: float = 1.0, gamma: float = 2.0, alpha: float | None = None, name: str = "focal"
    ) -> None:
        super().__init__(weight=weight, name=name)
        if gamma < 0 or not (alpha is None or 0 <= alpha <= 1):
            raise ValueError(f"Focal needs gamma >= 0 and alpha in 0..1; got {gamma} and {alpha}.")
        self.gamma = gamma
        self.alpha = alpha

    def measure(self, strip: Strip, focus: Tensor) -> Tensor:
        loss = -logsigmoid(strip.margin) * torch.exp(self.gamma * logsigmoid(-strip.margin))
        if self.alpha is not None:
            loss = loss * (self.alpha * strip.truth + (1 - self.alpha) * (1 - strip.truth))
        return loss.mean(dim=1, keepdim=True)
