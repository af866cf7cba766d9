"""Cross-entropy on dense logits, plain and with online hard example mining.

Source: `torch.nn.functional.cross_entropy`; OHEM after Shrivastava et al., "Training Region-based Object Detectors with
Online Hard Example Mining", CVPR 2016, https://arxiv.org/abs/1604.03540, in the form of mmsegmentation's
`OHEMPixelSampler` (mmseg/structures/sampler/ohem_pixel_sampler.py).
**Deviations**: the mean of OHEM is over the kept pixels, as in HRNet's `OhemCrossEntropy`; mmsegmentation divides by
all pixels, so that its value shrinks as fewer pixels are hard.
"""

from __future__ import annotations

from torch import Tensor, tensor

from trimask.losses.dense import DenseTerm, Look, Strip


class CrossEntropy(DenseTerm):
    """Equal to `F.cross_entropy` with its mean, which divides by the sum of the class weights of the pixels' labels.

    Args:
        weight: factor on the value.
        class_weights: one factor a class, not negative; by default 1.
        label_smoothing: share of the truth that is spread evenly over the classes, 0..1. With it the minimum is not 0.
        name: key of the value.
    """

    def __init__(
        self,
        *,
        weight: float = 1.0,
        class_weights: list[float] | None = None,
        label_smoothing: float = 0.0,
        name: str = "cross_entropy",
    ) -> None:
        super().__init__(weight=weight, name=name)
        if not 0 <= label_smoothing <= 1:
            raise ValueError(f"label_smoothing must lie in 0..1; got {label_smoothing}.")
        self.label_smoothing = label_smoothing
        self.class_weights: Tensor | None
        self.register_buffer(
            "class_weights", None if class_weights is None else tensor(class_weights), persistent=False
        )

    def check(self, num_channels: int) -> None:
        num_classes = max(2, num_channels)
        if self.class_weights is not None and len(self.class_weights) != num_classes:
            raise ValueError(
                f"The term {self.name!r} has {len(self.class_weights)} class weights, but there are {num_classes} "
                "classes; give one weight a class, in label order."
            )

    def focus(self, look: Look) -> Tensor:
        if self.class_weights is None:
            return look.num_valid
        total = look.total(self.class_weights.to(look.num_valid.dtype)[look.labels])
        return total.where(total > 0, 1)

    def measure(self, strip: Strip, focus: Tensor) -> Tensor:
        """(B, 1, r, W) log-likelihood; `combine` turns the sign, which saves passes over the picture."""
        likelihood = strip.true_log_probability
        if self.class_weights is not None:
            likelihood = likelihood * self.class_weights.to(likelihood.dtype)[strip.labels][:, None]
        if self.label_smoothing > 0:
            every = strip.log_probabilities
            if self.class_weights is not None:
                every = every * self.class_weights.to(likelihood.dtype)[:, None, None]
            every = every.mean(dim=1, keepdim=True)
            likelihood = (1 - self.label_smoothing) * likelihood + self.label_smoothing * every
        return likelihood

    def combine(self, sums: Tensor, focus: Tensor) -> Tensor:
        return -sums.sum() / focus


class OhemCrossEntropy(DenseTerm):
    """Cross-entropy over the hard pixels only: those whose true class has a probability below the threshold.

    The threshold rises, over the batch, as far as is needed to keep `min_kept` pixels a picture.

    Args:
        weight: factor on the value.
        threshold: probability of the true class from which a pixel is easy, 0..1.
        min_kept: pixels to keep, times the number of pictures.
        name: key of the value.
    """

    def __init__(
        self,
        *,
        weight: float = 1.0,
        threshold: float = 0.7,
        min_kept: int = 100_000,
        name: str = "ohem_cross_entropy",
    ) -> None:
        super().__init__(weight=weight, name=name)
        if not 0 <= threshold <= 1 or min_kept < 0:
            raise ValueError(
                f"OHEM needs a threshold in 0..1 and a min_kept of at least 0; got {threshold} and {min_kept}."
            )
        self.threshold = threshold
        self.min_kept = min_kept

    def focus(self, look: Look) -> Tensor:
        """(B, 1, H, W): 1 / number kept at the hard pixels, 0 elsewhere."""
        probability = look.pixels(lambda strip: strip.true_log_probability.exp())[0]  # (N,)
        threshold = self.threshold
        if len(probability):
            rank = min(self.min_kept * len(look.labels), len(probability) - 1)
            threshold = max(threshold, float(probability.kthvalue(rank + 1).values))
        kept = (probability < threshold).to(probability.dtype)
        return look.spread(kept[None] / kept.sum().clamp(min=1))

    def measure(self, strip: Strip, focus: Tensor) -> Tensor:
        return -strip.crop(focus) * strip.true_log_probability

    def combine(self, sums: Tensor, focus: Tensor) -> Tensor:
        return sums.sum()
