"""python -m trimask.parity [--only NAME ...]: every network against its reference; exit code 1 if one row fails.

Prints one table, and writes a list with one entry a compared row to runs/parity.json; of chosen rows where `--out` says, so that
they do not take the place of all.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import pkgutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

import trimask.parity
from trimask.parity.row import EXACT, TOLERANCE, Count, Outcome, Row, compare

COLUMNS = ("architecture", "variant", "reference", "tensors", "error fp32", "fp64", "if changed", "ours", "theirs")
EVERY = "runs/parity.json"  # the results of every row


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    rows, counts = (_chosen(found, options.only) for found in (find("ROWS"), find("COUNTS")))
    if not rows:
        known = ", ".join(sorted({row.architecture for row in find("ROWS")}))
        print(f"No row is called {', '.join(options.only)}; there are rows for: {known}.", file=sys.stderr)
        return 2
    present = [row for row in rows if row.reference.version]
    outcomes = [(row, _run(row)) for row in present]
    console = Console(width=None if sys.stdout.isatty() else 180)
    console.print(_table(outcomes))
    failures = [f"{row.title}: {failure}" for row, outcome in outcomes for failure in outcome.failures]
    failures += [f"{count.network.__name__}: {misfit}" for count in counts for misfit in count.misfits()]
    out = options.out or (None if options.only else EVERY)
    if out is not None:
        _write(Path(out), outcomes)
    _conclude(console, rows, counts, failures, out)
    return 1 if failures else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m trimask.parity", description="Every network against its reference.")
    parser.add_argument("--only", nargs="+", default=[], help="rows whose architecture/variant/library contains this")
    parser.add_argument("--out", help=f"where the list of results goes; by default {EVERY}, with --only nowhere")
    return parser


def find(attribute: str) -> list[Any]:
    """All entries of `attribute` ("ROWS" or "COUNTS") in the files of this package."""
    names = sorted(info.name for info in pkgutil.iter_modules(trimask.parity.__path__) if info.name != "__main__")
    modules = [importlib.import_module(f"trimask.parity.{name}") for name in names]
    return [entry for module in modules for entry in getattr(module, attribute, ())]


def _chosen(entries: Sequence[Any], only: Sequence[str]) -> list[Any]:
    def title(entry: Row | Count) -> str:
        return entry.title if isinstance(entry, Row) else entry.network.__name__

    return [entry for entry in entries if not only or any(part.lower() in title(entry).lower() for part in only)]


def _run(row: Row) -> Outcome:
    print(f"{row.title} ...", end=" ", flush=True, file=sys.stderr)
    try:
        outcome = compare(row)
    except Exception as error:  # whatever one row dies of, the others shall run; it is printed and fails the run
        outcome = Outcome(failures=[f"{type(error).__name__}: {error}"])
    gc.collect()
    print("FAILS" if outcome.failures else f"equal ({outcome.seconds:.0f} s)", flush=True, file=sys.stderr)
    return outcome


def _table(outcomes: Sequence[tuple[Row, Outcome]]) -> Table:
    table = Table(title="Same weights, same logits", caption=_legend(), caption_justify="left")
    for column in (*COLUMNS, "published", ""):
        table.add_column(column, justify="left" if column in COLUMNS[:3] else "right")
    for row, outcome in outcomes:
        errors = (outcome.error, outcome.exact_error, outcome.perturbed_error)
        table.add_row(
            row.architecture,
            row.variant,
            f"{row.reference.library} {row.reference.version}",
            str(outcome.tensors),
            *("-" if error is None else f"{error:.0e}" for error in errors),
            f"{outcome.params / 1e6:.2f} M",
            f"{outcome.params_reference / 1e6:.2f} M",
            "-" if row.published is None else f"{row.published.total} M",
            "[red]fails" if outcome.failures else "[green]equal",
        )
    return table


def _legend() -> str:
    return (
        f"Largest difference of a logit; allowed are {TOLERANCE:.0e} in fp32 and {EXACT:.0e} in fp64, less for small "
        "logits. If changed: after one random tensor of the reference was changed."
    )


def _write(path: Path, outcomes: Sequence[tuple[Row, Outcome]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([entry(*pair) for pair in outcomes], indent=1) + "\n")


def entry(row: Row, outcome: Outcome) -> dict[str, Any]:
    """Plain data; numbers of parameters are counts, also the published one."""
    published = row.published
    return {
        "architecture": row.architecture,
        "variant": row.variant,
        "reference": f"{row.reference.library} {row.reference.version}",
        "reference_name": row.reference.name,
        "sizes": [list(size) for size in row.sizes],
        "tensors": outcome.tensors,
        "max_abs_error": outcome.error,
        "max_abs_error_fp64": outcome.exact_error,
        "max_abs_error_perturbed": outcome.perturbed_error,
        "params": outcome.params,
        "params_reference": outcome.params_reference,
        "params_published": None if published is None else round(published.total * 1e6),
        "params_source": None if published is None else published.where,
        "failures": outcome.failures,
    }


def _conclude(
    console: Console, rows: Sequence[Row], counts: Sequence[Count], failures: Sequence[str], out: str | None
) -> None:
    skipped = [row for row in rows if not row.reference.version]
    for library in sorted({row.reference.library for row in skipped}):
        titles = [f"{row.architecture}/{row.variant}" for row in skipped if row.reference.library == library]
        console.print(f"Skipped, because {library} is not installed (`make parity` has it): {'; '.join(titles)}.")
    for failure in failures:
        console.print(f"[red]{failure}", soft_wrap=True)
    numbers = f"{len(rows) - len(skipped)} rows, {len(counts)} parameter counts, {len(failures)} failures"
    console.print(numbers if out is None else f"{numbers}; {out}")


if __name__ == "__main__":
    sys.exit(main())
