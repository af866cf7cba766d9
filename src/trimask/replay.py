"""python -m trimask replay RUN_OR_FILE: run a step again that was not finite, and say where the first such value appears.

How it is found: see `run.step`. Exit code 1: everything is finite this time. Own work.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.table import Table

from trimask.errors import OptionParser, UsageError
from trimask.pipeline import usable_device
from trimask.run.console import console
from trimask.run.on_nan import FOLDER
from trimask.run.step import Found, Step, read_step


def replay(arguments: list[str]) -> int:
    options = _parser().parse_args(arguments)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.ERROR)  # which devices there are
    if options.device:
        usable_device(options.device)
    path = find(options.step)
    content = read_step(path)
    step = Step(content, path, options.device)
    console.print(step.title, highlight=False, markup=False, soft_wrap=True)
    found = step.run()
    console.print(_losses(content, found))
    for line in found.lines():
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    return 0 if found.first else 1


def _parser() -> argparse.ArgumentParser:
    parser = OptionParser(prog="trimask replay", description="Run a step again that was not finite.")
    parser.add_argument(
        "step", help=f"a file of {FOLDER}/, a run's folder, or an experiment (its newest run that has one)"
    )
    parser.add_argument(
        "--device", choices=["cpu", "cuda"], help="by default where the step was made, if that is there"
    )
    return parser


def find(name: str) -> Path:
    """The file of a step: the one that is named, or the first of a run, of the process whose own loss was not finite.

    Raises:
        UsageError: there is none.
    """
    path = Path(name)
    if path.is_file():
        return path
    folders = [path] if path.is_dir() else sorted((Path("runs") / name).glob("*/"), reverse=True)
    for folder in folders:
        if files := sorted((folder / FOLDER).glob("step-*.pt")):
            first = [file for file in files if file.name[:13] == files[0].name[:13]]
            bad = (file for file in first if not all(part["is_finite"] for part in read_step(file)["parts"]))
            return next(bad, first[0])
    raise UsageError(
        f"{name}: no step of it was kept for not being finite; give a run's folder or a file of {FOLDER}/."
    )


def _losses(content: Mapping[str, Any], found: Found) -> Table:
    table = Table("part of the step", "loss", "then", "now")
    for number, (part, now) in enumerate(zip(content["parts"], found.losses, strict=False)):
        for name, then in part["losses"].items():
            table.add_row(str(number), name, repr(then), repr(now[name]))
    return table
