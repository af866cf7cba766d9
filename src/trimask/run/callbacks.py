"""What watches a run: checkpoints, the progress bar, the learning rates and the table at the end. They observe and write;
they change neither batch nor output nor network."""

from __future__ import annotations

import logging
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, Checkpoint, ModelCheckpoint, RichProgressBar
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.utilities.exceptions import SIGTERMException
from rich.console import Console
from safetensors.torch import save_file

from trimask.metrics import pictures
from trimask.run.disk import whole_file
from trimask.run.folder import RunFolder
from trimask.tasks.weights import network_state, read_checkpoint
from trimask.types import Batch

log = logging.getLogger("trimask")


def checkpoints(folder: RunFolder, monitor: str, mode: str, every_n_steps: int) -> list[Callback]:
    """best.ckpt by the monitored number, last.ckpt after every validation, every epoch and every `every_n_steps` steps,
    the best network's weights alone, and what its scores are made of."""
    best = ModelCheckpoint(
        folder.checkpoints, filename="best", monitor=monitor, mode=mode, save_top_k=1, enable_version_counter=False
    )
    last = Last(folder.checkpoint("last"), every_n_steps)
    return [best, KeepBestPictures(folder), BestWeights(folder, best), last]


class Last(Checkpoint):
    """Keeps last.ckpt, from which a killed run goes on exactly.

    Two moments are left out at which Lightning's ModelCheckpoint (2.6.6) saves. Before a validation that is about to follow:
    the continued run would skip it; the checkpoint after it comes soon. And between accumulated batches, where the first
    batch of a continued run falls: their gradients are in no checkpoint.
    """

    def __init__(self, file: Path, every_n_steps: int) -> None:
        self.file, self.every_n_steps = file, every_n_steps
        self._step = 0  # the last one that was saved, or with which a checkpoint was loaded

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self._step = trainer.global_step

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        due = trainer.global_step > self._step and trainer.global_step % self.every_n_steps == 0
        if due and not validation_follows(trainer, batch_idx):
            self._save(trainer)

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking and not trainer.is_last_batch:
            self._save(trainer)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self._save(trainer)

    def save(self, trainer: Any) -> None:
        """Unless this step's is there."""
        if trainer.global_step > self._step:
            self._save(trainer)

    def _save(self, trainer: Any) -> None:
        if not trainer.fast_dev_run:
            trainer.save_checkpoint(self.file)
            self._step = trainer.global_step


def validation_follows(trainer: Any, batch_idx: int) -> bool:
    """Whether it is next, or the end of the epoch with what comes there."""
    index = trainer.fit_loop.total_batch_idx if trainer.check_val_every_n_epoch is None else batch_idx
    return trainer.is_last_batch or bool(trainer.val_check_batch and (index + 1) % trainer.val_check_batch == 0)


class WholeFiles(TorchCheckpointIO):
    """Writes a checkpoint beside its place and moves it there, so that a kill leaves the old one or the new one.

    Lightning writes into the system's temporary folder; from there to another disk a move is a copy, which can be cut off.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        with whole_file(Path(path)) as fresh:
            torch.save(checkpoint, fresh)


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
        with whole_file(self.folder.best_weights) as fresh:
            save_file({key: value.contiguous() for key, value in weights.items()}, fresh)
        self._written = (str(file), file.stat().st_mtime)


class KeepPictures(Callback):
    """Keeps what the scores of an evaluation are made of, picture by picture, where the metric tells (`scores.kept`)."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder

    def on_validation_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        self._save(trainer, pl_module)

    def on_test_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        self._save(trainer, pl_module)

    def _save(self, trainer: L.Trainer, module: Any) -> None:
        if trainer.is_global_zero and (kept := module.last_further.kept) is not None:
            pictures.save(kept, self.folder.pictures)


class KeepBestPictures(Checkpoint):
    """The same in training, of the validation that best.ckpt belongs to. A `Checkpoint`, because Lightning calls these last and
    in their order: when it looks, best.ckpt has been written, after the validation or at the end of its epoch."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self._newest: Any = None  # the scores of the last validation
        self._best: int | None = None  # when best.ckpt was written

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        self._best = self._time()

    def on_validation_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        if not trainer.sanity_checking:
            self._newest = pl_module.last_further
            self._save(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        self._save(trainer)

    def _save(self, trainer: L.Trainer) -> None:
        if trainer.is_global_zero and self._newest is not None and self._time() != self._best:
            if (kept := self._newest.kept) is not None:
                pictures.save(kept, self.folder.pictures)
            self._newest, self._best = None, self._time()

    def _time(self) -> int | None:
        file = self.folder.checkpoint("best")
        return file.stat().st_mtime_ns if file.is_file() else None


class LearningRates(Callback):
    """Logs lr/<group> whenever the trainer logs."""

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        step = trainer.fit_loop.epoch_loop._batches_that_stepped  # what Lightning numbers its logged rows by
        if (step + 1) % trainer.log_every_n_steps:
            return
        rates = {f"lr/{group['name']}": group["lr"] for group in trainer.optimizers[0].param_groups}
        for logger in trainer.loggers:
            logger.log_metrics(rates, step=step)


def _batch(trainer: Any) -> str:
    """The pictures of a step, and how they are divided."""
    total, devices, parts = trainer.datamodule.batch_size, trainer.world_size, trainer.accumulate_grad_batches
    if devices * parts == 1:
        return f"{total} pictures"
    return f"{total} pictures ({devices} devices x {parts} accumulated batches x {total // (devices * parts)})"


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
        self._last: tuple[Any, Any] | None = None  # the scores, and what is measured beside them

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        network, data = pl_module.network, trainer.datamodule
        millions = sum(parameter.numel() for parameter in network.parameters()) / 1e6
        log.info(
            f"{type(network).__name__} with {millions:.2f} M parameters, {len(data.split('train'))} pictures to train and "
            f"{len(data.split('val'))} to validate, {int(trainer.estimated_stepping_batches)} steps of {_batch(trainer)} -> "
            f"{self.folder.path}"
        )

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        self._epoch_started = time.perf_counter()

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        if trainer.sanity_checking:
            return
        self._last = pl_module.last_scores, pl_module.last_further
        if trainer.state.fn == "fit":
            values = trainer.callback_metrics
            headline = [
                f"{key} {values[key]:.4f}" for key in ("train/loss", f"val/{pl_module.headline}") if key in values
            ]
            seconds = time.perf_counter() - self._epoch_started
            log.info(f"epoch {trainer.current_epoch}: {'  '.join(headline)}  ({seconds:.0f} s)")

    def on_test_end(self, trainer: Any, pl_module: Any) -> None:
        self._last = pl_module.last_scores, pl_module.last_further

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """An interrupted run says where it can be continued; of an error, log.txt keeps the whole story."""
        last = self.folder.checkpoint("last")
        if isinstance(exception, KeyboardInterrupt | SIGTERMException):
            what = "interrupted" if isinstance(exception, KeyboardInterrupt) else "ended as a signal asked for"
            held = f"{last} continues it (--ckpt_path {last})" if last.is_file() else "no checkpoint was written yet"
            log.info(f"{what} at step {trainer.global_step}; {held}" if trainer.state.fn == "fit" else what)
            return
        with suppress(OSError), self.folder.log.open("a") as handle:  # the disk may be full
            traceback.print_exception(exception, file=handle)

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        if self._last is None or not trainer.is_global_zero or trainer.interrupted:
            return
        scores, further = self._last
        tables = [pl_module.score_table(scores), *further.tables()]
        self.console.print(*tables)
        with self.folder.log.open("a") as handle:
            Console(file=handle, width=120, force_jupyter=False).print(*tables)
        log.info(f"{self.folder.path}  ({time.perf_counter() - self._started:.0f} s)")
