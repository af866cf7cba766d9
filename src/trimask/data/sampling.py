"""Which samples make which batch: a pure function of (seed, epoch), cut the same way for any number of processes.

Class balance chooses pictures by what they show. `RepeatFactor`: Gupta et al., "LVIS", CVPR 2019, appendix; `RareClass`:
Hoyer et al., "DAFormer", CVPR 2022, section 3.3, https://github.com/lhoyer/DAFormer (mmseg/datasets/uda_dataset.py). Own work.

Deviations: an epoch keeps the number of pictures of the data set, so that schedules mean the same with and without balance;
of LVIS's longer epoch it is a random part. DAFormer counts the pixels of a class over pictures without a class list of their
own in files beside the data; here they are the split's statistics.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from trimask.data.statistics import ClassStatistics
from trimask.types import DataError


class Key(NamedTuple):
    """What a loader asks for. With the data set's seed it determines the sample and its augmentation.

    Attributes:
        epoch: counted from 0.
        sample: its index in the data set.
        repeat: how often the epoch has drawn this sample before, so that its draws differ.
        focus: the class for whose sake it was drawn, if any; see `rare_class_pixels` of `transforms.Warp`.
    """

    epoch: int
    sample: int
    repeat: int = 0
    focus: int | None = None

    def entropy(self, seed: int) -> tuple[int, ...]:
        """What the draws of this sample depend on."""
        return (seed, self.epoch, self.sample, self.repeat)


class Draws(NamedTuple):
    """The samples of an epoch in order: (N,) indices, and (N,) the class of each draw or -1."""

    indices: NDArray[np.int64]
    focus: NDArray[np.int64]


class Balance(ABC):
    """Chooses the pictures of an epoch by the classes that they show. A user's own is a subclass named by its class path."""

    @abstractmethod
    def draw(self, statistics: ClassStatistics, generator: np.random.Generator) -> Draws:
        """As many draws as the split has pictures, a function of the statistics and the generator alone."""


class RepeatFactor(Balance):
    """Pictures of rare classes several times an epoch.

    A class that a share f of the pictures shows has the factor max(1, sqrt(threshold / f)), a picture the largest factor of
    its classes. It is drawn so often on average, relative to pictures of frequent classes.

    Args: threshold: the share of pictures below which a class counts as rare, in 0..1; LVIS takes 0.001.
    """

    def __init__(self, threshold: float = 0.001) -> None:
        if not 0 < threshold <= 1:
            raise ValueError(
                f"RepeatFactor: `threshold` is a share of the pictures, above 0 and at most 1; got {threshold}."
            )
        self.threshold = threshold

    def factors(self, statistics: ClassStatistics) -> NDArray[np.float64]:
        """(N,) of each picture, at least 1."""
        share = statistics.pictures / statistics.num_pictures
        of_class = np.maximum(1, np.sqrt(self.threshold / np.where(share > 0, share, 1)))
        factors = np.ones(statistics.num_pictures)
        shown = statistics.area > 0
        np.maximum.at(factors, statistics.picture[shown], of_class[statistics.label[shown]])
        return factors

    def draw(self, statistics: ClassStatistics, generator: np.random.Generator) -> Draws:
        factors = self.factors(statistics)
        whole = np.floor(factors)
        repeats = (whole + (generator.random(len(factors)) < factors - whole)).astype(np.int64)
        indices = generator.permutation(np.repeat(np.arange(len(factors)), repeats))[: len(factors)]
        return Draws(indices, np.full(len(indices), -1))


class RareClass(Balance):
    """Chooses a class by its rarity, then one of the pictures that show it.

    The probability of a class is proportional to exp((1 - f) / temperature) with its share f of the labelled pixels. The
    window is then drawn for the sake of that class: set `rare_class_pixels` of `transforms.Warp` (half of `min_pixels` in
    the paper).

    Args:
        temperature: the lower, the more the rarest classes are preferred; 0.01 in the paper.
        min_pixels: a picture shows a class if it has so many pixels of it; 3000 in the paper, on pictures of 1024x512.
    """

    def __init__(self, temperature: float = 0.01, min_pixels: int = 3000) -> None:
        if temperature <= 0 or min_pixels < 1:
            raise ValueError(
                f"RareClass: `temperature` is positive and `min_pixels` at least 1; got {temperature} and {min_pixels}."
            )
        self.temperature, self.min_pixels = temperature, min_pixels

    def probabilities(self, statistics: ClassStatistics) -> NDArray[np.float64]:
        """(C,) of each class; 0 for those that no picture shows.

        Raises:
            DataError: no picture shows any class.
        """
        candidates = np.bincount(statistics.label[self._shown(statistics)], minlength=statistics.num_classes)
        if not candidates.any():
            raise DataError(f"RareClass: no picture has {self.min_pixels} pixels of any class; lower `min_pixels`.")
        rarity = 1 - statistics.pixels / max(statistics.pixels.sum(), 1)
        rarity[candidates == 0] = -np.inf
        weights = np.exp((rarity - rarity.max()) / self.temperature)
        return weights / weights.sum()

    def draw(self, statistics: ClassStatistics, generator: np.random.Generator) -> Draws:
        shown = self._shown(statistics)
        pictures, labels = statistics.picture[shown], statistics.label[shown]
        pictures = pictures[np.argsort(labels, kind="stable")]  # class after class
        number = np.bincount(labels, minlength=statistics.num_classes)
        first = np.cumsum(number) - number
        num_draws = statistics.num_pictures
        focus = generator.choice(statistics.num_classes, num_draws, p=self.probabilities(statistics))
        indices = pictures[first[focus] + (generator.random(num_draws) * number[focus]).astype(np.int64)]
        return Draws(indices, focus)

    def _shown(self, statistics: ClassStatistics) -> NDArray[np.bool_]:
        return statistics.area >= self.min_pixels


class EpochBatches(Sampler[list[Key]]):
    """Shuffled training batches of one process.

    The order of an epoch is a permutation drawn from (seed, epoch), or what `draw` makes of that generator. Step s of all
    processes together takes the s-th run of `batch_size * num_processes` entries, so the step sees the same pictures on one
    process and on many. The last, incomplete batch is left out. Since the epoch travels with the index, workers that live
    through several epochs need not be told.

    Args:
        num_samples: size of the training set.
        batch_size: pictures a step and process.
        seed: of the permutations.
        rank, num_processes: which share of every step is ours.
        position: tells how many batches this run has trained on so far, over all epochs; asked when an epoch (or its rest,
            after a resume) begins.
        limit: at most so many batches an epoch.
        draw: chooses the `num_samples` draws of an epoch instead of a permutation.
    """

    def __init__(
        self,
        num_samples: int,
        batch_size: int,
        *,
        seed: int,
        rank: int = 0,
        num_processes: int = 1,
        position: Callable[[], int] = lambda: 0,
        limit: int | None = None,
        draw: Callable[[np.random.Generator], Draws] | None = None,
    ) -> None:
        self.num_samples, self.batch_size, self.seed = num_samples, batch_size, seed
        self.rank, self.num_processes, self.position, self.draw = rank, num_processes, position, draw
        self.num_batches = num_samples // (batch_size * num_processes)
        self.num_used = self.num_batches if limit is None else min(self.num_batches, limit)

    def __len__(self) -> int:
        return self.num_batches

    def __iter__(self) -> Iterator[list[Key]]:
        epoch, first = divmod(self.position(), max(self.num_used, 1))
        indices, focus = self._draws(epoch)
        repeats = occurrences(indices)
        step = self.batch_size * self.num_processes
        for start in range(first * step, self.num_batches * step, step):
            rows = range(start + self.rank, start + step, self.num_processes)
            yield [Key(epoch, int(indices[i]), int(repeats[i]), _label(focus[i])) for i in rows]

    def _draws(self, epoch: int) -> Draws:
        generator = np.random.default_rng((self.seed, epoch))
        if self.draw is not None:
            return self.draw(generator)
        return Draws(generator.permutation(self.num_samples), np.full(self.num_samples, -1))


def _label(number: np.int64) -> int | None:
    return int(number) if number >= 0 else None


def occurrences(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """(N,) -> (N,): how often each value has come before."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    is_first = np.append(True, ordered[1:] != ordered[:-1])[: len(values)]
    starts = np.flatnonzero(is_first)
    earlier = np.empty(len(values), np.int64)
    earlier[order] = np.arange(len(values)) - starts[np.cumsum(is_first) - 1]
    return earlier


class EveryOnce(Sampler[Key]):
    """Evaluation: every sample exactly once over all processes, uneven shares rather than repeated samples."""

    def __init__(self, num_samples: int, *, rank: int = 0, num_processes: int = 1) -> None:
        self.indices = range(rank, num_samples, num_processes)

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[Key]:
        return iter([Key(0, index) for index in self.indices])
