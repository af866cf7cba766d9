"""Batches are a function of (seed, epoch): for any number of processes, and from any position."""

import numpy as np
import pytest

from trimask.data.sampling import EpochBatches, EveryOnce


def epoch(number, *, length=23, batch=6, world=1, rank=0, start=0, seed=5):
    per_epoch = length // batch
    sampler = EpochBatches(
        length, batch // world, seed=seed, rank=rank, num_processes=world, position=lambda: number * per_epoch + start
    )
    return list(sampler)


@pytest.mark.parametrize("world", [2, 3])
def test_processes_share_the_steps_of_the_single_process(world):
    alone = epoch(3)
    shares = [epoch(3, world=world, rank=rank) for rank in range(world)]
    for step, keys in enumerate(alone):
        assert sorted(keys) == sorted(key for share in shares for key in share[step])


def test_resume_continues_the_epoch_and_then_the_next():
    assert epoch(2, start=1) == epoch(2)[1:]
    assert epoch(2, start=3) == epoch(3), "the position behind the last batch is the next epoch"


def indices(batches):
    return [index for batch in batches for _, index in batch]


def test_epochs_and_seeds_differ_and_repeat_nothing():
    first, second = epoch(0), epoch(1)
    assert indices(first) != indices(second)
    assert indices(first) != indices(epoch(0, seed=6))
    assert len(set(indices(first))) == 18
    assert {epoch for batch in second for epoch, _ in batch} == {1}


def test_limit_makes_shorter_epochs():
    sampler = EpochBatches(20, 5, seed=0, position=lambda: 2, limit=2)
    assert next(iter(sampler))[0][0] == 1


@pytest.mark.parametrize("world", [1, 2, 3])
def test_evaluation_visits_each_once(world):
    seen = [index for rank in range(world) for _, index in EveryOnce(10, rank=rank, num_processes=world)]
    np.testing.assert_array_equal(sorted(seen), range(10))
