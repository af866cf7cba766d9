"""What watches a run: checkpoints, the progress bar, the learning rates and the table at the end. They observe and write;
they change neither batch nor output nor network."""

from __future__ import annotations

import logging
import time
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, RichProgressBar
from rich.console import Console
from safetensors.torch import save_file

from trimask.run.folder import RunFolder
from trimask.tasks.weights import network_state, read_checkpoint
from trimask.types import Batch

log = logging.getLogger("trimask")


def checkpoints(folder: RunFolder, monitor: str, mode: str, every_n_steps: int) -> list[Callback]:
    """best.ckpt by the monitored number, last.ckpt after every validation and every `every_n_steps` steps, and the best
    network's weights alone."""
    best = ModelCheckpoint(
        folder.checkpoints, filename="best", monitor=monitor, mode=mode, save_top_k=1, enable_version_counter=False
    )
    last = _Last(
        folder.checkpoints, filename="last", save_top_k=1, enable_version_counter=False, save_on_exception=False
    )
    between = _Last(
        folder.checkpoints, filename="last", every_n_train_steps=every_n_steps, enable_version_counter=False
    )
    return [best, BestWeights(folder, best), last, between]


class _Last(ModelCheckpoint):
    """Two of them write the same file, at different moments; each needs a name of its own for its state."""

    @property
    def state_key(self) -> str:
        return f"last every {self._every_n_train_steps} steps"


class BestWeights(Callback):
    """Keeps best.safetensors, the network's weights alone, equal to best.ckpt."""

    def __init__(self, folder: RunFolder, best: ModelCheckpoint) -> None:
        self.folder, self.best = folder, best
        self._written: tuple[str, float] | None = None

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._write(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._write(trainer)

    def _write(self, trainer: L.Trainer) -> None:
        file = self.folder.checkpoint("best")
        if not trainer.is_global_zero or not file.is_file() or self._written == (str(file), file.stat().st_mtime):
            return
        weights = network_state(read_checkpoint(file))
        fresh = self.folder.best_weights.with_suffix(".new")
        save_file({key: value.contiguous() for key, value in weights.items()}, fresh)
        fresh.replace(self.folder.best_weights)
        self._written = (str(file), file.stat().st_mtime)


class LearningRates(Callback):
    """Logs lr/<group> whenever the trainer logs."""

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        step = trainer.fit_loop.epoch_loop._batches_that_stepped  # what Lightning numbers its logged rows by
        if (step + 1) % trainer.log_every_n_steps:
            return
        rates = {f"lr/{group['name']}": group["lr"] for group in trainer.optimizers[0].param_groups}
        for logger in trainer.loggers:
            logger.log_metrics(rates, step=step)


class Progress(RichProgressBar):
    """Lightning's rich bar with the learning rate and the throughput; one line a validation where nobody watches."""

    def __init__(self) -> None:
        super().__init__()
        self._seen, self._since = 0, time.perf_counter()

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        self._seen, self._since = 0, time.perf_counter()
        super().on_train_epoch_start(trainer, pl_module)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Batch, batch_idx: int) -> None:
        self._seen += len(batch) * trainer.world_size
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def get_metrics(self, trainer: Any, pl_module: Any) -> dict[str, Any]:
        metrics = {k: v for k, v in super().get_metrics(trainer, pl_module).items() if k != "v_num"}
        if trainer.training and trainer.optimizers:
            metrics["lr"] = f"{trainer.optimizers[0].param_groups[-1]['lr']:.1e}"
            metrics["pictures/s"] = f"{self._seen / max(time.perf_counter() - self._since, 1e-6):.1f}"
        return metrics


class Report(Callback):
    """Logs what is trained on what, one line a validation, and prints the table of results when the run is over."""

    def __init__(self, folder: RunFolder, console: Console) -> None:
        self.folder, self.console = folder, console
        self._started = self._epoch_started = time.perf_counter()
        self._last: Any = None

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        network, data = pl_module.network, trainer.datamodule
        millions = sum(parameter.numel() for parameter in network.parameters()) / 1e6
        log.info(
            f"{type(network).__name__} with {millions:.2f} M parameters, {len(data.split('train'))} pictures to train and "
            f"{len(data.split('val'))} to validate, {int(trainer.estimated_stepping_batches)} steps -> {self.folder.path}"
        )

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        self._epoch_started = time.perf_counter()

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        if trainer.sanity_checking:
            return
        self._last = pl_module.last_scores
        if trainer.state.fn == "fit":
            values = trainer.callback_metrics
            headline = [
                f"{key} {values[key]:.4f}" for key in ("train/loss", f"val/{pl_module.headline}") if key in values
            ]
            seconds = time.perf_counter() - self._epoch_started
            log.info(f"epoch {trainer.current_epoch}: {'  '.join(headline)}  ({seconds:.0f} s)")

    def on_test_end(self, trainer: Any, pl_module: Any) -> None:
        self._last = pl_module.last_scores

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        if self._last is None or not trainer.is_global_zero or trainer.interrupted:
            return
        table = pl_module.score_table(self._last)
        self.console.print(table)
        with self.folder.log.open("a") as handle:
            Console(file=handle, width=120).print(table)
        log.info(f"{self.folder.path}  ({time.perf_counter() - self._started:.0f} s)")
