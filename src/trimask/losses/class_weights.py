"""One factor a class: given as a list, or made by a rule from how often the classes occur in the training split.

| rule              | factor of a class                               | source                                       |
|-------------------|-------------------------------------------------|----------------------------------------------|
| inverse_frequency | 1 / (C p)                                       | scikit-learn's "balanced"                    |
| median_frequency  | median of f / f                                 | Eigen & Fergus, ICCV 2015; SegNet, PAMI 2017 |
| enet              | 1 / ln(1.02 + p)                                | ENet, https://arxiv.org/abs/1606.02147       |
| espnet            | 1 / ln(1.10 + p)                                | ESPNet, ECCV 2018: train/loadData.py         |
| effective_number  | (1 - b) / (1 - b^n), b = 0.999, over their mean | Cui et al., CVPR 2019                        |
| auto              | as enet: none is more than 36 times another     |                                              |

p is the class's share of the labelled pixels, f its share within the pictures that show it, n the number of these pictures.
A class that no picture shows counts 0, but with enet 50.5 and with espnet 10.5.

Deviations: Cui et al. count samples of a classification set; here a class counts by its pictures, because neighboring pixels
are not samples of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Rule = Literal["auto", "inverse_frequency", "median_frequency", "enet", "espnet", "effective_number"]

_BETA = 0.999


class ClassFrequencies(Protocol):
    """How often each class occurs, (C,) whole numbers each.

    Attributes:
        pixels: pixels of the class.
        pictures: pictures that show the class.
        pixels_around: labelled pixels of the pictures that show the class.
    """

    @property
    def pixels(self) -> Any: ...

    @property
    def pictures(self) -> Any: ...

    @property
    def pixels_around(self) -> Any: ...


class ClassWeights:
    """The class weights of one loss term.

    Args:
        given: one factor a class, a rule, or None for 1.
        name: of the term, for messages.

    Raises:
        ValueError: an unknown rule, or a factor below 0.
    """

    def __init__(self, given: Sequence[float] | str | None, name: str) -> None:
        self.rule = given if isinstance(given, str) else None
        self.name = name
        if self.rule is not None and self.rule not in get_args(Rule):
            raise ValueError(
                f"The term {name!r}: `class_weights` is one number a class, or one of {', '.join(get_args(Rule))}; "
                f"got {self.rule!r}."
            )
        self.values = None if given is None or self.rule else [float(factor) for factor in given]
        if self.values and min(self.values) < 0:
            raise ValueError(f"The term {name!r}: class weights are not negative; got {self.values}.")
        self._tensors: dict[tuple[torch.device, torch.dtype], Tensor] = {}

    @property
    def is_given(self) -> bool:
        """Whether classes count differently at all."""
        return self.values is not None or self.rule is not None

    def learn(self, frequencies: ClassFrequencies) -> None:
        """Makes the factors by the rule; a list stays what it is."""
        if self.rule is not None:
            self.values = RULES[self.rule](frequencies).tolist()
            self._tensors = {}

    def check(self, num_classes: int) -> None:
        """Raises ValueError where there are factors for another number of classes, or none yet."""
        if self.rule is not None and self.values is None:
            raise ValueError(
                f"The term {self.name!r} makes its class weights by the rule {self.rule!r} from the training data, which it "
                "has not been told of: train with trimask's DataModule, call `criterion.learn_frequencies`, or list the "
                "weights."
            )
        if self.values is not None and len(self.values) != num_classes:
            raise ValueError(
                f"The term {self.name!r} has {len(self.values)} class weights, but there are {num_classes} classes; give "
                "one weight a class, in label order."
            )

    def like(self, tensor: Tensor) -> Tensor:
        """(C,) on the device and in the type of `tensor`.

        Neither a parameter nor a buffer: those that average or compare modules tensor by tensor do not expect tensors that
        come into being when training starts.
        """
        place = tensor.device, tensor.dtype
        if place not in self._tensors:
            self._tensors[place] = torch.tensor(self.values, device=tensor.device, dtype=tensor.dtype)
        return self._tensors[place]


def inverse_frequency(frequencies: ClassFrequencies) -> NDArray[np.float64]:
    """(C,) such that every class has the same weight in all, and a pixel 1 on average."""
    share = _shares(frequencies)
    return _reciprocal(share * len(share))


def median_frequency(frequencies: ClassFrequencies) -> NDArray[np.float64]:
    """(C,)"""
    pixels = np.asarray(frequencies.pixels, np.float64)
    frequency = pixels / np.maximum(frequencies.pixels_around, 1)
    shown = frequency > 0
    return _reciprocal(frequency) * (np.median(frequency[shown]) if shown.any() else 0)


def enet(frequencies: ClassFrequencies) -> NDArray[np.float64]:
    """(C,) between 1.42 and 50.5."""
    return 1 / np.log(1.02 + _shares(frequencies))


def espnet(frequencies: ClassFrequencies) -> NDArray[np.float64]:
    """(C,) between 1.35 and 10.5."""
    return 1 / np.log(1.10 + _shares(frequencies))


def effective_number(frequencies: ClassFrequencies) -> NDArray[np.float64]:
    """(C,) with the mean 1 over the classes that are shown."""
    pictures = np.asarray(frequencies.pictures, np.float64)
    weights = _reciprocal((1 - _BETA**pictures) / (1 - _BETA))
    shown = pictures > 0
    return weights / (weights[shown].mean() if shown.any() else 1)


RULES: dict[str, Callable[[ClassFrequencies], NDArray[np.float64]]] = {
    "auto": enet,
    "inverse_frequency": inverse_frequency,
    "median_frequency": median_frequency,
    "enet": enet,
    "espnet": espnet,
    "effective_number": effective_number,
}


def _shares(frequencies: ClassFrequencies) -> NDArray[np.float64]:
    pixels = np.asarray(frequencies.pixels, np.float64)
    return pixels / max(pixels.sum(), 1)


def _reciprocal(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 / x, 0 at 0."""
    return np.divide(1, values, out=np.zeros_like(values), where=values > 0)
