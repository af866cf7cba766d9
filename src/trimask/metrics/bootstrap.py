"""How far a data set's score could have been otherwise: the percentile bootstrap over pictures.

Source: B. Efron, "Bootstrap methods: another look at the jackknife", 1979. Pictures are drawn, not pixels, because the
pixels of a picture are not independent. Deviations: none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trimask.metrics.pictures import Pictures, SummedPictures

NUM_RESAMPLES = 2000
_POWER = 1.959964 + 0.841621  # quantiles of the normal distribution at 97.5 % and 80 %


def bootstrap_interval(
    rows: NDArray[Any],
    statistic: Callable[[NDArray[Any]], NDArray[np.float64]],
    *,
    level: float = 0.95,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> tuple[float, float]:
    """Interval that holds the central `level` of a statistic of summed counts when pictures are redrawn.

    Args:
        rows: (P, K, C) what is summed over pictures, as in `PictureCounts.rows` and `PictureSums.rows`.
        statistic: (R, K, C) sums of R redrawn data sets -> (R,) scores, e.g. `confusion.mean_iou`.
        level: in 0..1.
        num_resamples: R.
        seed: of the draws; the same seed gives the same interval.

    Returns:
        The lower and the upper end.

    Raises:
        ValueError: if there is no picture, or `level` is not between 0 and 1.
    """
    if len(rows) == 0:
        raise ValueError("A bootstrap interval needs at least one picture; got none.")
    if not 0 < level < 1:
        raise ValueError(f"`level` must lie between 0 and 1; got {level}.")
    times = _draws(len(rows), num_resamples, seed)
    # The product is in float64, because numpy multiplies integer matrices without BLAS; counts below 2^53 stay exact.
    summed = times.astype(np.float64) @ rows.reshape(len(rows), -1).astype(np.float64)
    return _ends(statistic(summed.astype(rows.dtype).reshape(num_resamples, *rows.shape[1:])), level)


def bootstrap_intervals(
    pictures: Pictures, *, level: float = 0.95, num_resamples: int = NUM_RESAMPLES, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """The interval of every score that a run logs, as in `bootstrap_interval`; nan where a score has no value."""
    scores = pictures.redrawn(_draws(len(pictures.names), num_resamples, seed))
    return {name: _ends(values, level) for name, values in scores.items()}


def bootstrap_interval_of_slice(
    pictures: SummedPictures,
    rows: NDArray[np.int64],
    score: str,
    *,
    level: float = 0.95,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> tuple[float, float]:
    """The interval of one score of some of the pictures, which are redrawn among themselves. Args: rows: (N,) which."""
    drawn = pictures.only(rows).redrawn(_draws(len(rows), num_resamples, seed))
    return _ends(drawn[score], level)


class Difference(NamedTuple):
    """How far B is from A in one score.

    Attributes:
        a, b: the scores.
        low, high: ends of the interval of b - a.
        detectable: the least difference that data like these show in four of five cases (power 80 %, two-sided 5 %), from the
            spread of the redrawn differences; nan where the score has no value.
        direction: 1 where more is better, -1 where less is, 0 where neither is.
    """

    a: float
    b: float
    low: float
    high: float
    detectable: float
    direction: int = 1

    @property
    def value(self) -> float:
        return self.b - self.a

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.low > 0 or self.high < 0

    @property
    def is_better(self) -> bool:
        """Whether B is, if the difference is clear."""
        return self.value * self.direction > 0


def paired_bootstrap(
    a: Pictures, b: Pictures, *, level: float = 0.95, num_resamples: int = NUM_RESAMPLES, seed: int = 0
) -> dict[str, Difference]:
    """Differences of all scores that both have, where each redrawn data set has the same pictures for both.

    Raises:
        ValueError: the pictures are not the same.
    """
    if a.names != b.names:
        odd = sorted(set(a.names) ^ set(b.names)) or list(a.names)
        raise ValueError(
            f"A paired comparison needs the same pictures: {len(a.names)} and {len(b.names)} were measured, and e.g. {odd[0]!r} "
            "by one alone. Measure both runs on the same split."
        )
    times = _draws(len(a.names), num_resamples, seed)
    redrawn_a, redrawn_b, whole_a, whole_b = a.redrawn(times), b.redrawn(times), a.scores(), b.scores()
    found = {}
    for name in [name for name in redrawn_a if name in redrawn_b]:
        drawn = redrawn_b[name] - redrawn_a[name]
        known = drawn[~np.isnan(drawn)]
        detectable = _POWER * float(known.std(ddof=1)) if len(known) > 1 else float("nan")
        found[name] = Difference(
            whole_a[name], whole_b[name], *_ends(drawn, level), detectable, a.directions.get(name, 1)
        )
    return found


def _draws(num_pictures: int, num_resamples: int, seed: int) -> NDArray[np.int64]:
    """(R, P) how often each picture is taken: drawing P pictures with replacement is drawing this."""
    generator = np.random.default_rng(seed)
    return generator.multinomial(num_pictures, np.full(num_pictures, 1 / num_pictures), size=num_resamples)


def _ends(values: NDArray[np.float64], level: float) -> tuple[float, float]:
    known = values[~np.isnan(values)]
    if not known.size:
        return float("nan"), float("nan")
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
