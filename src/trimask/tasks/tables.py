"""How a score is written in the table at the end of a run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numpy.typing import NDArray

from trimask.metrics import bootstrap_interval


def percent(ratio: float) -> str:
    return "absent" if ratio != ratio else f"{100 * ratio:.2f}"


def interval(value: float, rows: NDArray[Any], statistic: Callable[[NDArray[Any]], NDArray[Any]]) -> str:
    """Over pictures; nothing where there is no value. See `bootstrap_interval`."""
    if value != value:
        return ""
    low, high = bootstrap_interval(rows, statistic)
    return f"{100 * low:.2f} - {100 * high:.2f}"
