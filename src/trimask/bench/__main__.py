"""python -m trimask.bench train|infer|data|metrics [--case NAME] [--runs N]: a table, and runs/bench/<what>.json."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
from pathlib import Path

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

from rich.table import Table

from trimask.run.console import console

WHAT = ("train", "infer", "data", "metrics")


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
    rows = []
    for name, run in cases.items():
        if options.case in (None, name):
            console.print(f"[dim]{name} ...[/]")
            rows += run(options.runs)
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
    kept = [row for row in kept if (row["case"], row["peer"]) not in measured]
    file.write_text(json.dumps(kept + new, indent=1))
    console.print(f"written to {file}", highlight=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
