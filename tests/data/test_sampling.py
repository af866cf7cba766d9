"""Batches are a function of (seed, epoch): for any number of processes, and from any position."""

from functools import partial

import numpy as np
import pytest

from trimask.data.sampling import Draws, EpochBatches, EveryOnce, Key, RareClass, RepeatFactor, occurrences
from trimask.data.statistics import ClassStatistics
from trimask.types import DataError


def epoch(number, *, length=23, batch=6, world=1, rank=0, start=0, seed=5, draw=None):
    per_epoch = length // batch
    sampler = EpochBatches(
        length,
        batch // world,
        seed=seed,
        rank=rank,
        num_processes=world,
        position=lambda: number * per_epoch + start,
        draw=draw,
    )
    return list(sampler)


def balanced(balance, *rows, num_pictures=23, num_classes=3):
    """A draw over pictures of which `rows` (picture, label, area) tell what they show."""
    return partial(balance.draw, counted(*rows, num_pictures=num_pictures, num_classes=num_classes))


def counted(*rows, num_pictures=23, num_classes=3):
    picture, label, area = np.array(rows, np.int64).T
    return ClassStatistics(num_classes, num_pictures, picture, label, area, np.zeros(len(rows), np.int64))


COMMON = [(picture, 0, 1000) for picture in range(23)]
RARE = [(4, 1, 50), (9, 2, 10), (9, 1, 5)]
DRAWS = {
    "permutation": None,
    "repeat factor": balanced(RepeatFactor(0.5), *COMMON, *RARE),
    "rare class": balanced(RareClass(0.5, min_pixels=5), *COMMON, *RARE),
}
every_draw = pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)


@every_draw
@pytest.mark.parametrize("world", [2, 3])
def test_processes_share_the_steps_of_the_single_process(world, draw):
    alone = epoch(3, draw=draw)
    shares = [epoch(3, world=world, rank=rank, draw=draw) for rank in range(world)]
    for step, keys in enumerate(alone):
        assert sorted(keys, key=str) == sorted((key for share in shares for key in share[step]), key=str)


@every_draw
def test_resume_continues_the_epoch_and_then_the_next(draw):
    assert epoch(2, start=1, draw=draw) == epoch(2, draw=draw)[1:]
    assert epoch(2, start=3, draw=draw) == epoch(3, draw=draw), "the position behind the last batch is the next epoch"


@every_draw
def test_no_draw_of_an_epoch_comes_twice(draw):
    keys = [key for batch in epoch(1, draw=draw) for key in batch]
    assert len({key.entropy(5) for key in keys}) == len(keys) == 18


def indices(batches):
    return [key.sample for batch in batches for key in batch]


def test_epochs_and_seeds_differ_and_repeat_nothing():
    first, second = epoch(0), epoch(1)
    assert indices(first) != indices(second)
    assert indices(first) != indices(epoch(0, seed=6))
    assert len(set(indices(first))) == 18
    assert {key.epoch for batch in second for key in batch} == {1}


def test_limit_makes_shorter_epochs():
    sampler = EpochBatches(20, 5, seed=0, position=lambda: 2, limit=2)
    assert next(iter(sampler))[0][0] == 1


@pytest.mark.parametrize("world", [1, 2, 3])
def test_evaluation_visits_each_once(world):
    seen = [key.sample for rank in range(world) for key in EveryOnce(10, rank=rank, num_processes=world)]
    np.testing.assert_array_equal(sorted(seen), range(10))


# --- balance ---


def test_repeat_factors_are_those_of_lvis():
    statistics = counted(
        *[(picture, 0, 1) for picture in range(100)], (7, 1, 5), (8, 2, 1), (9, 2, 1), num_pictures=100
    )
    factors = RepeatFactor(0.04).factors(statistics)
    expected = np.ones(100)
    expected[7], expected[8:10] = 2, np.sqrt(2)  # sqrt(0.04 / 0.01), sqrt(0.04 / 0.02)
    np.testing.assert_allclose(factors, expected)
    assert RepeatFactor(0.01).factors(statistics).tolist() == [1.0] * 100


def test_repeat_factors_are_the_average_number_of_draws():
    statistics = counted(*[(picture, 0, 1) for picture in range(100)], (7, 1, 5), num_pictures=100)
    balance = RepeatFactor(0.0625)  # picture 7 two and a half times
    drawn = [balance.draw(statistics, np.random.default_rng(seed)).indices for seed in range(400)]
    assert {len(indices) for indices in drawn} == {100}
    counts = np.bincount(np.concatenate(drawn), minlength=100)
    assert counts[7] / np.delete(counts, 7).mean() == pytest.approx(2.5, rel=0.07)
    assert max(np.bincount(indices)[7] for indices in drawn) == 3


def test_a_balance_that_has_nothing_to_balance_draws_each_once():
    indices, focus = balanced(RepeatFactor(0.1), *COMMON)(np.random.default_rng(0))
    assert sorted(indices) == list(range(23))
    assert (focus == -1).all()


def test_probabilities_of_rare_classes_are_those_of_daformer():
    statistics = counted((0, 0, 700), (0, 1, 290), (1, 2, 10), num_pictures=2)
    rarity = np.exp((1 - np.array([0.7, 0.29, 0.01])) / 0.1)
    np.testing.assert_allclose(RareClass(0.1, min_pixels=10).probabilities(statistics), rarity / rarity.sum())
    assert RareClass(0.01, min_pixels=100).probabilities(statistics)[2] == 0, "no picture shows enough of it"
    with pytest.raises(DataError, match="no picture has 5000 pixels of any class"):
        RareClass(min_pixels=5000).probabilities(statistics)


def test_a_rare_class_is_looked_for_where_it_is():
    statistics = counted(*COMMON, (4, 1, 50), (9, 1, 3), (11, 1, 60), (9, 2, 70))
    indices, focus = RareClass(1.0, min_pixels=50).draw(statistics, np.random.default_rng(0))
    assert len(indices) == 23
    shown = {0: set(range(23)), 1: {4, 11}, 2: {9}}
    assert all(index in shown[label] for index, label in zip(indices.tolist(), focus.tolist(), strict=True))
    assert {4, 11} <= set(indices[focus == 1].tolist())
    keys = [key for batch in epoch(0, draw=partial(RareClass(1.0, 50).draw, statistics)) for key in batch]
    assert {key.focus for key in keys} == {0, 1, 2}


def test_occurrences():
    assert occurrences(np.array([3, 1, 3, 3, 1, 0])).tolist() == [0, 0, 1, 2, 1, 0]
    assert occurrences(np.array([], np.int64)).tolist() == []


def test_a_repeated_sample_has_draws_of_its_own():
    draw = lambda generator: Draws(np.array([4, 4, 4]), np.array([-1, 2, 2]))  # noqa: E731
    [keys] = epoch(0, length=3, batch=3, draw=draw)
    assert keys == [Key(0, 4), Key(0, 4, 1, 2), Key(0, 4, 2, 2)]
    first, second, _ = (np.random.default_rng(key.entropy(7)).integers(2**60) for key in keys)
    assert first != second
    assert first == np.random.default_rng((7, 0, 4)).integers(2**60), "as without balance"


@pytest.mark.parametrize(
    "make", [lambda: RepeatFactor(0), lambda: RepeatFactor(1.5), lambda: RareClass(0), lambda: RareClass(min_pixels=0)]
)
def test_settings_out_of_range_are_refused(make):
    with pytest.raises(ValueError, match="; got"):
        make()
