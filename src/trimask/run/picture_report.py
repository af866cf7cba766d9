"""What is said of each picture when a run is over: pictures.csv, report.html, and a table for Weights & Biases."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from typing import Any

import lightning as L
import numpy as np
import torch.distributed
from lightning.pytorch.callbacks import Callback
from PIL import Image

from trimask.run import wandb_media
from trimask.run.folder import RunFolder
from trimask.tasks.tables import Breakdown
from trimask.types import Batch, ClassSpec
from trimask.visualise.draw import Picture
from trimask.visualise.panels import file_name
from trimask.visualise.report import report


class PictureReport(Callback):
    """Writes the pictures of the last evaluation, the worst first, with the scores of their classes and their tags.

    While the run goes on only the tags are kept: a few bytes a picture. `PictureReport` comes after `Panels`, whose files it
    shows.
    """

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self._tags: dict[str, Mapping[str, str]] = {}
        self._last: tuple[str, Any] | None = None

    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Batch, batch_idx: int, *rest: Any
    ) -> None:
        self._tags.update(zip(batch.names, batch.meta, strict=True))

    def on_test_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Batch, batch_idx: int, *rest: Any
    ) -> None:
        self._tags.update(zip(batch.names, batch.meta, strict=True))

    def on_validation_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        if not trainer.sanity_checking:
            self._end("val", pl_module.last_scores)

    def on_test_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        self._end("test", pl_module.last_scores)

    def _end(self, stage: str, scores: Any) -> None:
        self._tags = _of_all_processes(self._tags)
        self._last = (stage, scores)

    def teardown(self, trainer: L.Trainer, pl_module: Any, stage: str) -> None:
        if self._last is None or not trainer.is_global_zero or trainer.interrupted:
            return
        (stage, scores), self._last = self._last, None
        breakdown, classes = pl_module.breakdown(scores), pl_module.classes
        self._write_csv(breakdown, classes)
        self._write_page(stage, breakdown, classes)
        for logger in wandb_media.loggers(trainer):
            told: dict[str, Any] = {f"{stage}/pictures": wandb_media.table(breakdown, self._tags, classes)}
            if breakdown.confusion is not None:
                told[f"{stage}/confusion"] = wandb_media.confusion(breakdown.confusion, classes)
            logger.log_metrics(told, step=trainer.global_step)

    def _write_csv(self, breakdown: Breakdown, classes: ClassSpec) -> None:
        keys = sorted({key for tags in self._tags.values() for key in tags})
        with self.folder.picture_table.open("w", newline="") as handle:
            writer = csv.writer(handle)
            by_class = [f"{breakdown.measure} {name}" for name in classes.names]
            writer.writerow(["picture", f"mean {breakdown.measure}", *by_class, *keys])
            for row in breakdown.worst_first():
                name, values = breakdown.names[row], (breakdown.means[row], *breakdown.by_class[row])
                numbers = ["" if np.isnan(value) else repr(float(value)) for value in values]
                writer.writerow([name, *numbers, *(self._tags.get(name, {}).get(key, "") for key in keys)])

    def _write_page(self, stage: str, breakdown: Breakdown, classes: ClassSpec) -> None:
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
            tags=self._tags,
            panel=self._panel,
            confusion=breakdown.confusion,
        )
        self.folder.report.write_text(page, encoding="utf-8")

    def _panel(self, name: str) -> Picture | None:
        file = self.folder.panels / f"{file_name(name)}.png"
        return np.asarray(Image.open(file).convert("RGB")) if file.is_file() else None


def _of_all_processes(tags: dict[str, Mapping[str, str]]) -> dict[str, Mapping[str, str]]:
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return tags
    found: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(found, tags)
    return {name: meta for part in found for name, meta in part.items()}
