"""How far a data set's score could have been otherwise: the percentile bootstrap over pictures.

Source: B. Efron, "Bootstrap methods: another look at the jackknife", 1979. Pictures are drawn, not pixels, because the
pixels of a picture are not independent. Deviations: none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray


def bootstrap_interval(
    rows: NDArray[Any],
    statistic: Callable[[NDArray[Any]], NDArray[np.float64]],
    *,
    level: float = 0.95,
    num_resamples: int = 2000,
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
    num_pictures = len(rows)
    # Drawing P pictures with replacement is drawing how often each one is taken. The product is in float64, because
    # numpy multiplies integer matrices without BLAS; counts below 2^53 stay exact.
    generator = np.random.default_rng(seed)
    times = generator.multinomial(num_pictures, np.full(num_pictures, 1 / num_pictures), size=num_resamples)
    summed = times.astype(np.float64) @ rows.reshape(num_pictures, -1).astype(np.float64)
    scores = statistic(summed.astype(rows.dtype).reshape(num_resamples, *rows.shape[1:]))
    low, high = np.nanquantile(scores, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
