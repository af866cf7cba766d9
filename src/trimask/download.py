"""python -m trimask download SET: fetches a data set into the data folder, or says how to get it.

Exit codes: 0, what was asked for is complete; 2, something must be done by hand (an account, a network, room on the disk), and
the message says what; 130, interrupted, to be continued by the same command.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Table

from trimask.data.download import ARCHIVES, get, lacking, unpack_by_hand
from trimask.data.sources import SOURCES, Source
from trimask.errors import OptionParser, UsageError, nearest
from trimask.run.console import console


def download(arguments: list[str]) -> int:
    """Fetches, verifies and unpacks; returns the exit code."""
    options = _parser().parse_args(arguments)
    if options.set is None:
        console.print(_table())
        return 0
    if options.set not in SOURCES:
        raise UsageError(f"There is no data set {options.set!r}{nearest(options.set, SOURCES)}")
    source = SOURCES[options.set]
    parts = _parts(source, options.only)
    root = (options.root or Path(os.environ.get("TRIMASK_DATA") or "data")).absolute() / source.folder
    _say(f"{source.title}\n  from {source.home}\n  terms: {source.license}")
    try:
        with _Bar() as bar:
            if source.steps:
                return _by_hand(source, root, parts, bar)
            get(source, root, parts=parts, keep_archives=options.keep_archives, watch=bar)
    except KeyboardInterrupt:
        _say("interrupted; the same command goes on from here")
        raise
    _say(_hint(source, root.parent))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = OptionParser(
        prog="trimask download", description="Fetches a data set into the data folder.", allow_abbrev=False
    )
    parser.add_argument("set", nargs="?", metavar="SET", help=f"{', '.join(SOURCES)}; without it they are described")
    parser.add_argument("--root", type=Path, help="the data folder (default: $TRIMASK_DATA, or ./data)")
    parser.add_argument("--only", action="append", metavar="PART", help="only this part; may be given several times")
    parser.add_argument("--keep-archives", action="store_true", help="keep what was fetched after it is unpacked")
    return parser


def _parts(source: Source, only: Sequence[str] | None) -> list[str]:
    parts = [part for given in only or source.parts for part in given.split(",")]
    for part in parts:
        if part not in source.parts:
            raise UsageError(f"--only {part}: {source.folder} has no such part{nearest(part, source.parts)}")
    return parts


def _by_hand(source: Source, root: Path, parts: Sequence[str], bar: _Bar) -> int:
    """For a set that needs an account: unpacks what was put there, and tells what is still to be done."""
    if (root / ARCHIVES).is_dir():
        unpack_by_hand(root, bar)
    open_parts = {}
    for name in parts:
        if rest := lacking(source, source.parts[name], root):
            open_parts[name] = rest
        else:
            _say(f"{name}: complete in {root}")
    if len(open_parts) < len(parts):
        _say(_hint(source, root.parent))
        return 0
    _say("It needs an account, so that no script can fetch it:")
    for number, step in enumerate(source.steps, start=1):
        _say(f"  {number}. {step.format(archives=root / ARCHIVES, folder=root)}")
    for name, rest in open_parts.items():
        _say(f"{name} ({source.parts[name].about}) lacks, below {root / source.places[0]}:")
        for sentence in rest:
            _say(f"    {sentence}")
    return 2


def _hint(source: Source, data: Path) -> str:
    fragments = " or ".join(f"data/{name}" for name in source.fragments)
    return f"An experiment reads it with {fragments} in `defaults:` and DATA={data}; make browse DATA={data / source.folder}"


def _table() -> Table:
    table = Table("set", "what", "parts", "terms", title="make data SET=<set> DATA=<folder>")
    for name, source in SOURCES.items():
        parts = "\n".join(f"{part}: {entry.about}" for part, entry in source.parts.items())
        table.add_row(name, source.title, parts, source.license + ("; needs an account" if source.steps else ""))
    return table


def _say(text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)


class _Bar:
    """The progress of one file after the other: bytes, speed and the time that is left. A line a file where nobody watches."""

    def __init__(self) -> None:
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self.task = self.progress.add_task("", visible=False)
        self.what = ""

    def __enter__(self) -> _Bar:
        self.progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.progress.stop()

    def begin(self, what: str, total: int | None, done: int = 0) -> None:
        if what != self.what:
            size = f" ({total / 1e6:.1f} MB{f', {done / 1e6:.1f} of them are there' if done else ''})" if total else ""
            _say(f"{what}{size}")
        self.what = what
        self.progress.reset(self.task, total=total, completed=done, description=what, visible=True)

    def advance(self, num_bytes: int) -> None:
        self.progress.advance(self.task, num_bytes)

    def say(self, text: str) -> None:
        _say(text)
