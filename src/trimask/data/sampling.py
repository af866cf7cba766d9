"""Which samples make which batch: a pure function of (seed, epoch), cut the same way for any number of processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from torch.utils.data import Sampler

Key = tuple[int, int]  # (epoch, index of the sample); the seed is the data set's


class EpochBatches(Sampler[list[Key]]):
    """Shuffled training batches of one process, as lists of (epoch, index).

    The order of an epoch is a permutation drawn from (seed, epoch). Step s of all processes together takes the s-th run of
    `batch_size * num_processes` entries, so the step sees the same pictures on one process and on many. The last, incomplete
    batch is left out. Since the epoch travels with the index, workers that live through several epochs need not be told.

    Args:
        num_samples: size of the training set.
        batch_size: pictures a step and process.
        seed: of the permutations.
        rank, num_processes: which share of every step is ours.
        position: tells how many batches this run has trained on so far, over all epochs; asked when an epoch (or its rest,
            after a resume) begins.
        limit: at most so many batches an epoch.
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
    ) -> None:
        self.num_samples, self.batch_size, self.seed = num_samples, batch_size, seed
        self.rank, self.num_processes, self.position = rank, num_processes, position
        self.num_batches = num_samples // (batch_size * num_processes)
        self.num_used = self.num_batches if limit is None else min(self.num_batches, limit)

    def __len__(self) -> int:
        return self.num_batches

    def __iter__(self) -> Iterator[list[Key]]:
        epoch, first = divmod(self.position(), max(self.num_used, 1))
        order = np.random.default_rng((self.seed, epoch)).permutation(self.num_samples)
        step = self.batch_size * self.num_processes
        for start in range(first * step, self.num_batches * step, step):
            yield [(epoch, int(index)) for index in order[start : start + step][self.rank :: self.num_processes]]


class EveryOnce(Sampler[Key]):
    """Evaluation: every sample exactly once over all processes, uneven shares rather than repeated samples."""

    def __init__(self, num_samples: int, *, rank: int = 0, num_processes: int = 1) -> None:
        self.indices = range(rank, num_samples, num_processes)

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[Key]:
        return iter([(0, index) for index in self.indices])
