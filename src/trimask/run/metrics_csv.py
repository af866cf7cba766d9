"""metrics.csv: one row a step, one column a logged number.

Lightning's CSVLogger deletes the file of the run that it continues; this one goes on with it, and replaces the rows of steps
that are trained again.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger, rank_zero_experiment
from lightning.pytorch.utilities import rank_zero_only

from trimask.run.disk import appended, whole_file


class MetricsCsv(Logger):
    """Args: path: of the file; an existing one is continued."""

    def __init__(self, path: str | Path) -> None:
        super().__init__()
        self.path = Path(path)
        self._rows: dict[int, dict[str, str]] = {}
        self._columns: list[str] = ["step"]
        self._unsaved: list[int] = []
        self._whole = True  # whether the file must be written anew rather than appended to
        self._continued = self.path.is_file()
        if self._continued:
            with self.path.open(newline="") as handle:
                whole, _, _ = handle.read().rpartition("\n")  # a kill can have cut off the last row
            reader = csv.DictReader(whole.splitlines())
            self._rows = {int(row["step"]): {k: v for k, v in row.items() if v != ""} for row in reader}
            self._columns = list(reader.fieldnames or self._columns)

    @property
    def name(self) -> str:
        return "metrics"

    @property
    def version(self) -> str:
        return ""

    @property
    @rank_zero_experiment
    def experiment(self) -> MetricsCsv:
        return self

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Nothing: config.yaml has them."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        step = int(step or 0)
        if self._continued:  # the first row after a resume: what was logged beyond the checkpoint happens again
            self._rows = {old: row for old, row in self._rows.items() if old < step}
            self._continued = False
            self._whole = True
        new_columns = [key for key in metrics if key not in self._columns]
        self._columns += new_columns
        self._whole |= bool(new_columns) or step in self._rows or step < max(self._rows, default=step)
        row = self._rows.setdefault(step, {"step": str(step)})
        row.update({key: repr(float(value)) for key, value in metrics.items()})
        self._unsaved.append(step)

    @rank_zero_only
    def save(self) -> None:
        """Appends the new row; where older rows or the columns have changed, writes the file anew beside itself and moves it
        in place, so that a killed run leaves the old file or the new one."""
        if not self._unsaved:
            return
        if self._whole:
            with whole_file(self.path) as fresh, fresh.open("w", newline="") as handle:
                writer = csv.DictWriter(handle, self._columns, restval="")
                writer.writeheader()
                writer.writerows(row for _, row in sorted(self._rows.items()))
        else:
            with appended(self.path), self.path.open("a", newline="") as handle:
                rows = [self._rows[step] for step in dict.fromkeys(self._unsaved)]
                csv.DictWriter(handle, self._columns, restval="").writerows(rows)
        self._unsaved, self._whole = [], False

    @rank_zero_only
    def finalize(self, status: str) -> None:
        self.save()
