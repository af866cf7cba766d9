"""The pictures that a run shows: a few fixed ones, drawn with truth and prediction as PNG, and as masks for Weights & Biases."""

from __future__ import annotations

import re
from typing import Any

import lightning as L
import numpy as np
from lightning.pytorch.callbacks import Callback
from PIL import Image

from trimask.run import wandb_media
from trimask.run.folder import RunFolder
from trimask.types import Batch
from trimask.visualise.draw import Picture, rgb


class Panels(Callback):
    """Shows the same pictures at every evaluation, chosen by a fixed seed among those that the first process sees.

    Each has one file, panels/<name>.png, which shows the newest state. Where a W&B logger is, the first MAX_PICTURES are also
    logged as pictures/<stage>/<name>, with the masks of truth and prediction; of more classes than a mask can hold, the panel
    is logged instead. Only what is shown is kept in memory.

    Args:
        folder: of the run.
        count: how many pictures; 0 shows none.
    """

    def __init__(self, folder: RunFolder, count: int) -> None:
        self.folder, self.count = folder, count
        self._chosen: frozenset[int] = frozenset()
        self._drawn: dict[str, Picture] = {}
        self._logged: dict[str, Any] = {}

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.is_global_zero:
            self._choose(trainer.val_dataloaders, int(trainer.num_val_batches[0]))

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.is_global_zero:
            self._choose(trainer.test_dataloaders, int(trainer.num_test_batches[0]))

    def _choose(self, loader: Any, num_batches: int) -> None:
        self._batch_size = loader.batch_size
        self._chosen = chosen(min(len(loader.sampler), num_batches * loader.batch_size), self.count)

    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Batch, batch_idx: int, *rest: Any
    ) -> None:
        if trainer.is_global_zero and not trainer.sanity_checking:
            self._show(trainer, pl_module, "val", outputs["answers"], batch, batch_idx)

    def on_test_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Batch, batch_idx: int, *rest: Any
    ) -> None:
        if trainer.is_global_zero:
            self._show(trainer, pl_module, "test", outputs["answers"], batch, batch_idx)

    def _show(
        self, trainer: L.Trainer, module: Any, stage: str, answers: list[Any], batch: Batch, batch_idx: int
    ) -> None:
        for index in range(len(batch)):
            if batch_idx * self._batch_size + index not in self._chosen:
                continue
            image, target = batch.image(index).permute(1, 2, 0).cpu().numpy(), batch.target(index)
            name = file_name(batch.names[index])
            self._drawn[name] = drawn = module.draw(image, target, answers[index])
            if wandb_media.loggers(trainer) and len(self._logged) < wandb_media.MAX_PICTURES:
                truth = module.asked_of(target)
                self._logged[f"pictures/{stage}/{name}"] = (
                    wandb_media.picture(rgb(image), truth, answers[index], module.classes)
                    if len(module.classes) <= wandb_media.MAX_CLASSES
                    else wandb_media.plain(drawn)
                )

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._write(trainer)

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._write(trainer)

    def _write(self, trainer: L.Trainer) -> None:
        if not self._drawn:
            return
        self.folder.panels.mkdir(exist_ok=True)
        for name, picture in self._drawn.items():
            Image.fromarray(picture).save(self.folder.panels / f"{name}.png")
        for logger in wandb_media.loggers(trainer):
            logger.log_metrics(self._logged, step=trainer.global_step)
        self._drawn, self._logged = {}, {}


def chosen(num_pictures: int, count: int) -> frozenset[int]:
    """Positions of `count` of them, or of all; always the same ones."""
    return frozenset(np.random.default_rng(0).permutation(num_pictures)[:count].tolist())


def file_name(name: str) -> str:
    """The name of a picture as that of a file."""
    return re.sub(r"[^\w.-]+", "_", name).lstrip(".")
