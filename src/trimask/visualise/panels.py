"""Panels of a run: picture, truth, prediction and errors of a few fixed validation pictures, as PNG for any logger."""

from __future__ import annotations

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import WandbLogger
from numpy.typing import NDArray
from PIL import Image

from trimask.run.folder import RunFolder
from trimask.types import Batch


class Panels(Callback):
    """Draws the same pictures at every validation: those evenly spread over the split, by their position.

    Each picture has one file, panels/<name>.png, which shows the newest state.

    Args:
        folder: of the run.
        count: how many pictures; 0 draws none.
    """

    def __init__(self, folder: RunFolder, count: int) -> None:
        self.folder, self.count = folder, count
        self._drawn: dict[str, NDArray[Any]] = {}

    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Batch, batch_idx: int, *rest: Any
    ) -> None:
        if trainer.is_global_zero and not trainer.sanity_checking:
            self._draw(int(trainer.num_val_batches[0]), pl_module, outputs["answers"], batch, batch_idx)

    def on_test_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Batch, batch_idx: int, *rest: Any
    ) -> None:
        if trainer.is_global_zero:
            self._draw(int(trainer.num_test_batches[0]), pl_module, outputs["answers"], batch, batch_idx)

    def _draw(self, num_batches: int, module: Any, answers: list[Any], batch: Batch, batch_idx: int) -> None:
        """One picture of every batch whose turn it is, or several where there are fewer batches than panels."""
        first, beyond = batch_idx * self.count // num_batches, (batch_idx + 1) * self.count // num_batches
        for index in range(min(beyond - first, len(batch))):
            image = batch.image(index).permute(1, 2, 0).cpu().numpy()
            self._drawn[batch.names[index]] = module.draw(image, batch.target(index), answers[index])

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._write(trainer)

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._write(trainer)

    def _write(self, trainer: L.Trainer) -> None:
        if not self._drawn:
            return
        self.folder.panels.mkdir(exist_ok=True)
        for name, picture in self._drawn.items():
            Image.fromarray(picture).save(self.folder.panels / f"{name.replace('/', '_')}.png")
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                for name, picture in self._drawn.items():
                    logger.log_image(f"panels/{name}", [picture], step=trainer.global_step)
        self._drawn = {}
