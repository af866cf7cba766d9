"""Binary cross-entropy: every channel against the rest, foreground against background where there is one logit.

Source: `torch.nn.functional.binary_cross_entropy_with_logits` on one-hot truth, averaged over pixels and classes.
Deviations: none.
"""

from __future__ import annotations

from torch import Tensor, tensor
from torch.nn.functional import logsigmoid

from trimask.losses.dense import DenseTerm, Strip


class BinaryCrossEntropy(DenseTerm):
    """The mean over valid pixels and channels.

    Args:
        weight: factor on the value.
        pos_weight: factor on the positive pixels of each channel; one number a channel (a list of one for one logit).
        name: key of the value.
    """

    def __init__(
        self, *, weight: float = 1.0, pos_weight: list[float] | None = None, name: str = "binary_cross_entropy"
    ) -> None:
        super().__init__(weight=weight, name=name)
        self.pos_weight: Tensor | None
        self.register_buffer("pos_weight", None if pos_weight is None else tensor(pos_weight), persistent=False)

    def check(self, num_channels: int) -> None:
        if self.pos_weight is not None and len(self.pos_weight) != num_channels:
            raise ValueError(
                f"The term {self.name!r} has {len(self.pos_weight)} positive weights, but the network has "
                f"{num_channels} channels; give one weight a channel."
            )

    def measure(self, strip: Strip, focus: Tensor) -> Tensor:
        """(B, 1, r, W) log-likelihood; `combine` turns the sign, which saves passes over the picture."""
        likelihood = logsigmoid(strip.margin)
        if self.pos_weight is not None:
            factor = self.pos_weight.to(likelihood.dtype)[:, None, None]
            likelihood = likelihood * (1 + (factor - 1) * strip.truth)
        return likelihood.mean(dim=1, keepdim=True) if likelihood.shape[1] > 1 else likelihood

    def combine(self, sums: Tensor, focus: Tensor) -> Tensor:
        return -sums.sum() / focus
