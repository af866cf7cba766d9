"""Cross-entropy on dense logits, plain and with online hard example mining.

Source: `torch.nn.functional.cross_entropy`; OHEM after Shrivastava et al., "Training Region-based Object Detectors with
Online Hard Example Mining", CVPR 2016, https://arxiv.org/abs/1604.03540, in the form of mmsegmentation's
`OHEMPixelSampler` (mmseg/structures/sampler/ohem_pixel_sampler.py).

What plain cross-entropy is divided by differs, and with it the effective learning rate: torch takes the sum of the class
weights of the labelled pixels, Caffe (SegNet) their number, mmsegmentation by default the number of all pixels, unlabelled
ones and padding too.

**Deviations**: by default the mean of OHEM is over the kept pixels, as in HRNet's `OhemCrossEntropy`; `average="all"` is
mmsegmentation's division by all pixels, with which the value shrinks as fewer pixels are hard. Neither OHEM looks at class
weights when it chooses pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from torch import Tensor

from trimask.losses.class_weights import ClassFrequencies, ClassWeights, Rule
from trimask.losses.dense import DenseTerm, Look, Strip


class _ClassWeighted(DenseTerm):
    """A term with one factor a class."""

    compares_channels: ClassVar[bool] = True

    def __init__(self, *, weight: float, class_weights: list[float] | Rule | None, name: str) -> None:
        super().__init__(weight=weight, name=name)
        self.class_weights = ClassWeights(class_weights, name)

    @property
    def needs_frequencies(self) -> bool:
        return self.class_weights.rule is not None

    def learn_frequencies(self, frequencies: ClassFrequencies) -> Mapping[str, list[float]]:
        self.class_weights.learn(frequencies)
        return {"class weights": self.class_weights.values or []}

    def check(self, num_channels: int) -> None:
        self.class_weights.check(max(2, num_channels))


class CrossEntropy(_ClassWeighted):
    """Equal to `F.cross_entropy` with its mean.

    Args:
        weight: factor on the value.
        class_weights: one factor a class, not negative; or the rule by which they are made from how often the classes occur
            in the training split, see `class_weights`; by default 1.
        label_smoothing: share of the truth that is spread evenly over the classes, 0..1. With it the minimum is not 0.
        average: what the sum is divided by. "weights": the class weights of all labelled pixels; "labelled": their number;
            "all": the number of all pixels. Without class weights the first two are the same.
        name: key of the value.
    """

    def __init__(
        self,
        *,
        weight: float = 1.0,
        class_weights: list[float] | Rule | None = None,
        label_smoothing: float = 0.0,
        average: Literal["weights", "labelled", "all"] = "weights",
        name: str = "cross_entropy",
    ) -> None:
        super().__init__(weight=weight, class_weights=class_weights, name=name)
        if not 0 <= label_smoothing <= 1:
            raise ValueError(f"label_smoothing must lie in 0..1; got {label_smoothing}.")
        if average not in ("weights", "labelled", "all"):
            raise ValueError(f"Cross-entropy averages over weights, labelled pixels or all; got {average!r}.")
        self.label_smoothing = label_smoothing
        self.average = average

    def focus(self, look: Look) -> Tensor:
        if self.average == "all":
            return look.num_valid.new_tensor(look.shape.numel())
        if not self.class_weights.is_given or self.average == "labelled":
            return look.num_valid
        total = look.total(self.class_weights.like(look.num_valid)[look.labels])
        return total.where(total > 0, 1)

    def measure(self, strip: Strip, focus: Tensor) -> Tensor:
        """(B, 1, r, W) log-likelihood; `combine` turns the sign, which saves passes over the picture."""
        likelihood = strip.true_log_probability
        if self.class_weights.is_given:
            likelihood = likelihood * self.class_weights.like(likelihood)[strip.labels][:, None]
        if self.label_smoothing > 0:
            every = strip.log_probabilities
            if self.class_weights.is_given:
                every = every * self.class_weights.like(every)[:, None, None]
            every = every.mean(dim=1, keepdim=True)
            likelihood = (1 - self.label_smoothing) * likelihood + self.label_smoothing * every
        return likelihood

    def combine(self, sums: Tensor, focus: Tensor) -> Tensor:
        return -sums.sum() / focus


class OhemCrossEntropy(_ClassWeighted):
    """Cross-entropy over the hard pixels only: those whose true class has a probability below the threshold.

    The threshold rises, over the batch, as far as is needed to keep `min_kept` pixels a picture.

    Args:
        weight: factor on the value.
        threshold: probability of the true class from which a pixel is easy, 0..1.
        min_kept: pixels to keep, times the number of pictures.
        class_weights: as for `CrossEntropy`; a factor on the loss of each pixel.
        average: what the sum is divided by. "kept": the number of kept pixels. "all": the number of all pixels, ignored ones
            among them as in mmsegmentation; with class weights the sum of those of all valid pixels.
        name: key of the value.
    """

    def __init__(
        self,
        *,
        weight: float = 1.0,
        threshold: float = 0.7,
        min_kept: int = 100_000,
        class_weights: list[float] | Rule | None = None,
        average: Literal["kept", "all"] = "kept",
        name: str = "ohem_cross_entropy",
    ) -> None:
        super().__init__(weight=weight, class_weights=class_weights, name=name)
        if not 0 <= threshold <= 1 or min_kept < 0:
            raise ValueError(
                f"OHEM needs a threshold in 0..1 and a min_kept of at least 0; got {threshold} and {min_kept}."
            )
        if average not in ("kept", "all"):
            raise ValueError(f"OHEM averages over the pixels that are kept or over all; got {average!r}.")
        self.threshold = threshold
        self.min_kept = min_kept
        self.average = average

    def focus(self, look: Look) -> Tensor:
        """(B, 1, H, W): what the loss of each pixel counts, 0 where it is easy or ignored."""
        kept = self._kept(look)
        if not self.class_weights.is_given:
            total = kept.sum() if self.average == "kept" else kept.new_tensor(look.shape.numel())
            return look.spread(kept[None] / total.clamp(min=1))
        weights = self.class_weights.like(kept)[look.labels]  # (B, H, W)
        total = kept.sum() if self.average == "kept" else look.total(weights)
        return look.spread(kept[None]) * weights[:, None] / total.where(total > 0, 1)

    def _kept(self, look: Look) -> Tensor:
        """(N,) 1 at the hard ones of the valid pixels, 0 at the others."""
        probability = look.pixels(lambda strip: strip.true_log_probability.exp())[0]
        threshold = self.threshold
        if len(probability):
            rank = min(self.min_kept * look.shape[0], len(probability) - 1)
            threshold = max(threshold, float(probability.kthvalue(rank + 1).values))
        return (probability < threshold).to(probability.dtype)

    def measure(self, strip: Strip, focus: Tensor) -> Tensor:
        return -strip.crop(focus) * strip.true_log_probability

    def combine(self, sums: Tensor, focus: Tensor) -> Tensor:
        return sums.sum()
