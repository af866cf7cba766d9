"""What is said of pictures and slices when a run is over: tables, a page, a reliability diagram, a table for Weights & Biases."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping
from typing import Any

import lightning as L
import numpy as np
from lightning.pytorch.callbacks import Callback
from PIL import Image

from trimask.metrics import SliceScores
from trimask.run import wandb_media
from trimask.run.folder import RunFolder
from trimask.tasks.further import FurtherScores
from trimask.tasks.tables import Breakdown, percent
from trimask.types import ClassSpec
from trimask.visualise.draw import Picture
from trimask.visualise.panels import file_name
from trimask.visualise.reliability import reliability_diagram
from trimask.visualise.report import number_section, report

Tags = Mapping[str, Mapping[str, str]]  # of pictures, by their names


class PictureReport(Callback):
    """Writes the pictures of the last evaluation, the worst first, with the scores of their classes and their tags, and what is
    measured of slices and beside the metric.

    `PictureReport` comes after `Panels`, whose files it shows.
    """

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self._last: tuple[str, Any, Any] | None = None

    def on_validation_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        if not trainer.sanity_checking:
            self._last = ("val", pl_module.last_scores, pl_module.last_further)

    def on_test_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        self._last = ("test", pl_module.last_scores, pl_module.last_further)

    def teardown(self, trainer: L.Trainer, pl_module: Any, stage: str) -> None:
        if self._last is None or not trainer.is_global_zero or trainer.interrupted:
            return
        (stage, scores, further), self._last = self._last, None
        breakdown, classes = pl_module.breakdown(scores), pl_module.classes
        self._write_csv(breakdown, classes, further.tags)
        if further.sliced:
            self._write_slices(further.sliced)
        figures = self._draw_reliability(further)
        self._write_page(stage, breakdown, classes, further, figures)
        for logger in wandb_media.loggers(trainer):
            told: dict[str, Any] = {f"{stage}/pictures": wandb_media.table(breakdown, further.tags, classes)}
            if breakdown.confusion is not None:
                told[f"{stage}/confusion"] = wandb_media.confusion(breakdown.confusion, classes)
            logger.log_metrics(told, step=trainer.global_step)

    def _write_csv(self, breakdown: Breakdown, classes: ClassSpec, tags_of: Tags) -> None:
        keys = sorted({key for tags in tags_of.values() for key in tags})
        with self.folder.picture_table.open("w", newline="") as handle:
            writer = csv.writer(handle)
            by_class = [f"{breakdown.measure} {name}" for name in classes.names]
            writer.writerow(["picture", f"mean {breakdown.measure}", *by_class, *keys])
            for row in breakdown.worst_first():
                name, values = breakdown.names[row], (breakdown.means[row], *breakdown.by_class[row])
                numbers = ["" if np.isnan(value) else repr(float(value)) for value in values]
                writer.writerow([name, *numbers, *(tags_of.get(name, {}).get(key, "") for key in keys)])

    def _write_slices(self, sliced: SliceScores) -> None:
        with self.folder.slice_table.open("w", newline="") as handle:
            writer = csv.writer(handle)
            writer.writerow(["tag", "value", "pictures", *sliced.scores])
            for index, one in enumerate(sliced.slices):
                numbers = [float(values[index]) for values in sliced.scores.values()]
                writer.writerow([one.tag, one.value, len(one.rows), *("" if n != n else repr(n) for n in numbers)])

    def _draw_reliability(self, further: FurtherScores) -> list[Picture]:
        """Of the measures that tell it."""
        told = [part.reliability for part in further.parts if hasattr(part, "reliability")]
        drawn = [reliability_diagram(one.share, one.confidence, one.right, "share that is right") for one in told]
        for picture in drawn:
            Image.fromarray(picture).save(self.folder.reliability)
        return drawn

    def _write_page(
        self, stage: str, breakdown: Breakdown, classes: ClassSpec, further: FurtherScores, figures: list[Picture]
    ) -> None:
        rows = [
            (breakdown.names[row], float(breakdown.means[row]), breakdown.by_class[row])
            for row in breakdown.worst_first()
        ]
        title = f"{self.folder.path} · {stage}"
        page = report(
            title,
            breakdown.measure,
            rows,
            classes,
            tags=further.tags,
            panel=self._panel,
            confusion=breakdown.confusion,
            further=_sections(further, figures),
        )
        self.folder.report.write_text(page, encoding="utf-8")

    def _panel(self, name: str) -> Picture | None:
        file = self.folder.panels / f"{file_name(name)}.png"
        return np.asarray(Image.open(file).convert("RGB")) if file.is_file() else None


def _sections(further: FurtherScores, figures: list[Picture]) -> list[str]:
    """Of the page: slices, then measures."""
    sections = []
    if sliced := further.sliced:
        rows = []
        for one in further.slice_rows:
            numbers = str(one.num_pictures), percent(one.score), _ends(one.ends, percent)
            rows.append([one.tag, one.value, *numbers, "worst" if one.is_worst else ""])
        head = ["tag", "value", "pictures", sliced.headline, "95 %", ""]
        facts = [sliced.definition, f"the {sliced.headline} of all pictures is {percent(sliced.whole)}"]
        sections.append(number_section("Slices", facts, head, rows))
    if further.measure_rows:
        rows = [[one.name, _number(one.value), _ends(one.ends, _number)] for one in further.measure_rows]
        sections.append(number_section("Further measures", [further.definitions], ["", "value", "95 %"], rows, figures))
    return sections


def _number(value: float) -> str:
    return "absent" if np.isnan(value) else f"{value:.4f}"


def _ends(ends: tuple[float, float] | None, told: Callable[[float], str]) -> str:
    return "" if ends is None else f"{told(ends[0])} - {told(ends[1])}"
