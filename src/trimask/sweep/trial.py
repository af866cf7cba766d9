"""One trial of a sweep, and what is kept of it: runs/sweeps/<name>/trials/<number>.*

<number>.json            the `Trial`
<number>.overrides.json  what it sets, as --overrides takes it
<number>.folder          where its run is
<number>.log             what it printed
"""

from __future__ import annotations

import csv
import json
import math
import os
import signal
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trimask.run.child import told_folder
from trimask.run.disk import whole_file
from trimask.run.folder import RunFolder

if TYPE_CHECKING:
    from trimask.sweep.plan import SweepPlan


class State(StrEnum):
    RUNNING = "running"  # or interrupted, where no process runs it
    FINISHED = "finished"
    STOPPED = "stopped"  # early, by `early_terminate`
    FAILED = "failed"


@dataclass
class Trial:
    """Attributes:
    place: the sweep's folder.
    number: from 1.
    overrides: {key: value}.
    state: see `State`.
    seconds: that it ran, in all.
    why: it failed.
    pid: of its process.
    """

    place: Path
    number: int
    overrides: dict[str, Any]
    state: State = State.RUNNING
    seconds: float = 0.0
    why: str = ""
    pid: int | None = field(default=None)

    def file(self, kind: str) -> Path:
        return self.place / "trials" / f"{self.number:04}.{kind}"

    def save(self) -> None:
        """Whole, whenever a kill comes."""
        told = {key: value for key, value in asdict(self).items() if key != "place"}
        with whole_file(self.file("json")) as fresh:
            fresh.write_text(json.dumps(told, indent=1))

    def write_overrides(self) -> Path:
        file = self.file("overrides.json")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(self.overrides, indent=1))
        return file

    @property
    def folder(self) -> RunFolder | None:
        return told_folder(self.file("folder"))

    def history(self, metric: str) -> list[float]:
        """The logged values so far, finite ones."""
        if self.folder is None or not self.folder.metrics.is_file():
            return []
        with self.folder.metrics.open(newline="") as file:
            values = [float(row[metric]) for row in csv.DictReader(file) if row.get(metric)]
        return [value for value in values if math.isfinite(value)]

    def value(self, plan: SweepPlan) -> float | None:
        """The best of the history: what best.ckpt has, where it follows this metric."""
        values = self.history(plan.metric)
        if not values:
            return None
        return max(values) if plan.maximize else min(values)

    def end_orphan(self) -> None:
        """Ends the process of a sweep that was killed before it could do so itself."""
        if self.pid is None:
            return
        file = Path(f"/proc/{self.pid}/cmdline")
        with suppress(FileNotFoundError, ProcessLookupError):  # it has ended by itself, perhaps just now
            if str(self.file("overrides.json")).encode() in file.read_bytes():
                os.kill(self.pid, signal.SIGKILL)


def load(place: Path) -> list[Trial]:
    """All trials so far, by number."""
    found = []
    for path in sorted((place / "trials").glob("[0-9][0-9][0-9][0-9].json")):
        told = json.loads(path.read_text())
        found.append(Trial(place, **{**told, "state": State(told["state"])}))
    return found
