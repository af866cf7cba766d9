import numpy as np
import pytest

from trimask.metrics.bootstrap import bootstrap_interval
from trimask.metrics.confusion import mean_iou


def rows(num_pictures=40, num_classes=3, seed=0):
    generator = np.random.default_rng(seed)
    truth = generator.integers(50, 200, (num_pictures, num_classes))
    predicted = generator.integers(50, 200, (num_pictures, num_classes))
    right = (np.minimum(truth, predicted) * generator.uniform(0.5, 1, truth.shape)).astype(np.int64)
    return np.stack([right, truth, predicted], axis=1)


def test_equals_a_loop_over_redrawn_data_sets():
    counts = rows()
    generator = np.random.default_rng(1)
    scores = [mean_iou(counts[generator.integers(0, 40, 40)].sum(axis=0)) for _ in range(4000)]
    expected = np.quantile(scores, [0.025, 0.975])
    np.testing.assert_allclose(bootstrap_interval(counts, mean_iou, num_resamples=4000), expected, atol=2e-3)


def test_is_deterministic_and_holds_the_score():
    counts = rows()
    low, high = bootstrap_interval(counts, mean_iou)
    assert (low, high) == bootstrap_interval(counts, mean_iou)
    assert (low, high) != bootstrap_interval(counts, mean_iou, seed=1)
    assert low < mean_iou(counts.sum(axis=0)) < high


def test_a_wider_level_and_fewer_pictures_give_a_wider_interval():
    def width(interval):
        return interval[1] - interval[0]

    usual = width(bootstrap_interval(rows(), mean_iou))
    assert width(bootstrap_interval(rows(), mean_iou, level=0.99)) > usual
    assert width(bootstrap_interval(rows()[:10], mean_iou)) > usual


def test_equal_pictures_leave_no_doubt():
    low, high = bootstrap_interval(np.repeat(rows(1), 9, axis=0), mean_iou)
    assert low == pytest.approx(high)


@pytest.mark.parametrize(("counts", "level"), [(rows()[:0], 0.95), (rows(), 1.0), (rows(), 0.0)])
def test_refuses_what_makes_no_sense(counts, level):
    with pytest.raises(ValueError):
        bootstrap_interval(counts, mean_iou, level=level)
