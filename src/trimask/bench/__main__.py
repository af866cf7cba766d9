"""python -m trimask.bench train|infer|data|metrics|regions [--case NAME] [--runs N]: a table, runs/bench/<what>.json, and the
medians over the groups of cases in that file, those of earlier calls among them."""

from __future__ import annotations

import argparse
import importlib
import json
import multiprocessing
import os
import statistics
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

from rich.table import Table

from trimask.bench.side_by_side import measure
from trimask.run.console import console

WHAT = ("train", "infer", "data", "metrics", "regions")


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="trimask.bench", description="Side by side with peers, alternating in one run."
    )
    parser.add_argument("what", choices=WHAT)
    parser.add_argument("--case", help="one case only, by its name")
    parser.add_argument("--runs", type=int, default=3, help="timed turns of each side; medians are reported")
    options = parser.parse_args()
    cases = importlib.import_module(f"trimask.bench.{options.what}").CASES
    if options.case and options.case not in cases:
        console.print(f"error: no case {options.case!r} of {options.what}; there are {', '.join(cases)}.")
        return 2
    names = [options.case] if options.case else list(cases)
    # A process of its own for each case: what the last one holds in memory would slow the next.
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), max_tasks_per_child=1) as process:
        rows = [row for name in names for row in process.submit(measure, options.what, name, options.runs).result()]
    table = Table(
        "case", "peer", "ratio", "ours", "theirs", "unit", "runs", title=f"{options.what}: ratio > 1, we are ahead"
    )
    for row in rows:
        table.add_row(
            *(row.case, row.peer, f"{row.ratio:.2f}", f"{row.ours:.3g}", f"{row.theirs:.3g}", row.unit, str(row.runs))
        )
    console.print(table)
    file = Path("runs/bench") / f"{options.what}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    kept = json.loads(file.read_text()) if file.exists() else []
    new = [row.to_json() for row in rows]
    measured = {(row["case"], row["peer"]) for row in new}
    kept = [row for row in kept if (row["case"], row["peer"]) not in measured]  # other cases of earlier calls
    file.write_text(json.dumps(kept + new, indent=1))
    console.print(f"written to {file}", highlight=False)
    for group, ratios in ratios_by_group(kept + new).items():
        numbers = f"at least {min(ratios):.2f}, median of {len(ratios)} {statistics.median(ratios):.2f}"
        console.print(f"{group}: {numbers}", highlight=False)
    return 0


def ratios_by_group(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    """Group -> the ratios of its rows in runs/bench/<what>.json, where rows have one."""
    groups: dict[str, list[float]] = {}
    for row in rows:
        if group := row.get("group"):
            groups.setdefault(group, []).append(row["ratio"])
    return groups


if __name__ == "__main__":
    sys.exit(main())
