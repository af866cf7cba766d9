"""Two ways of doing the same work, timed alternately in one run.

A busy machine slows both alike when they take turns, so the ratio of the medians is steady where single times are not.
"""

from __future__ import annotations

import gc
import importlib
import importlib.util
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from trimask.run.console import console

Work = Callable[[], Any]


@dataclass(frozen=True)
class Row:
    """One line of the table: ratio > 1 means that trimask is ahead.

    Attributes: case, peer: what was compared with what; ours, theirs: medians in `unit`, where more is better;
    runs: timed turns of each side; group: the rows whose median is told together, or none.
    """

    case: str
    peer: str
    ratio: float
    ours: float
    theirs: float
    unit: str
    runs: int
    group: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def compare(
    case: str,
    peer: str,
    ours: Work,
    theirs: Work,
    *,
    amount: float,
    unit: str,
    runs: int = 3,
    warm_up: int = 1,
    group: str = "",
) -> Row:
    """Times both in turns and compares how much they do a second.

    Args:
        ours, theirs: one turn of work each, the same amount.
        amount: how many units a turn does, e.g. pictures.
        unit: e.g. "pictures/s".
        runs: timed turns of each.
        warm_up: turns of each before that.
        group: see `Row`.
    """
    for _ in range(warm_up):
        ours()
        theirs()
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(runs):
        for work, kept in zip((ours, theirs), times, strict=True):
            gc.collect()
            start = time.perf_counter()
            work()
            kept.append(time.perf_counter() - start)
    our_rate, their_rate = (amount / statistics.median(kept) for kept in times)
    return Row(case, peer, our_rate / their_rate, our_rate, their_rate, unit, runs, group)


def require_extra(package: str, extra: str) -> bool:
    """Whether a peer is installed; if not, one sentence says so and how to get it."""
    if importlib.util.find_spec(package):
        return True
    console.print(f"skipped: {package} is not installed; pip install -e '.\\[{extra}]' brings it.", highlight=False)
    return False


def measure(what: str, case: str, runs: int) -> list[Row]:
    """The rows of one case."""
    console.print(f"[dim]{case} ...[/]")
    return importlib.import_module(f"trimask.bench.{what}").CASES[case](runs)
