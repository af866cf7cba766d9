"""How scores are laid out: in the table at the end of a run, and picture by picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from trimask.metrics import Pictures, bootstrap_intervals
from trimask.metrics.bootstrap import NUM_RESAMPLES


class Breakdown(NamedTuple):
    """The scores of each picture by itself.

    Attributes:
        measure: what the numbers are, such as "IoU".
        names: (P,) of the pictures.
        means: (P,) mean over the classes of the picture, 0..1; nan where there is nothing to score.
        by_class: (P, C) of each class, 0..1; nan where a picture has none.
        confusion: (C, C) pixels over all pictures, row = truth, column = prediction; None where pixels are not what is counted.
    """

    measure: str
    names: Sequence[str]
    means: NDArray[np.float64]
    by_class: NDArray[np.float64]
    confusion: NDArray[np.int64] | None = None

    def worst_first(self) -> list[int]:
        """Rows of the pictures that have a score, the lowest first."""
        return [int(row) for row in np.argsort(self.means, kind="stable") if not np.isnan(self.means[row])]


def percent(ratio: float) -> str:
    return "absent" if ratio != ratio else f"{100 * ratio:.2f}"


def intervals(pictures: Pictures | None, num_resamples: int = NUM_RESAMPLES) -> dict[str, str]:
    """Of every score, over pictures, by its short name; scores without a value are left out. See `bootstrap_intervals`."""
    if pictures is None or not pictures.names:
        return {}
    found = bootstrap_intervals(pictures, num_resamples=num_resamples)
    return {name: f"{100 * low:.2f} - {100 * high:.2f}" for name, (low, high) in found.items() if low == low}
