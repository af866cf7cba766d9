"""What a run on these devices cannot do, said before it starts; and which learning rate goes with how many pictures a step.

A published learning rate belongs to the batch that it was published with. Goyal et al. 2017 (arXiv 1706.02677) scale that of
SGD in proportion; for Adam the square root is often better (Malladi et al. 2022, arXiv 2205.10287). A run never does so by
itself: it says what the numbers would be.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping
from typing import Any

from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.callbacks import Callback, Timer
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from trimask.data.datamodule import SegmentationDataModule

log = logging.getLogger("trimask")


def require_possible(trainer: Any, network: nn.Module, batch_size: int) -> None:
    """Of a training, before anything is read or written.

    Args: batch_size: pictures a step in all.

    Raises:
        ValueError: the run has no end, the batch cannot be divided, or batch norms cannot be synchronized.
    """
    timed = any(isinstance(callback, Timer) for callback in trainer.callbacks)  # what Lightning makes of `max_time`
    if trainer.max_steps == -1 and (trainer.max_epochs == -1 or (trainer.max_epochs is None and timed)):
        raise ValueError(
            "the learning rate follows the whole run, and this one has no end: give --trainer.max_epochs or --trainer.max_steps; "
            "trainer.max_time may end it earlier."
        )
    processes, parts = trainer.num_devices * trainer.num_nodes, trainer.accumulate_grad_batches
    if batch_size % (processes * parts):
        raise ValueError(
            f"data.batch_size is the total of a step: {batch_size} pictures cannot be divided over {processes} devices x "
            f"{parts} accumulated batches. Choose a multiple of {processes * parts}, or other devices or accumulation."
        )
    norms = any(isinstance(module, _BatchNorm) for module in network.modules())
    synchronized = getattr(trainer.strategy, "_layer_sync", None) is not None
    if norms and synchronized and processes > 1 and isinstance(trainer.accelerator, CPUAccelerator):
        raise ValueError(
            f"trainer.sync_batchnorm: torch synchronizes batch norms on GPUs alone, and this run has {processes} processes on "
            "the CPU. Set --trainer.sync_batchnorm=false: each process then has the statistics of its own pictures, and the "
            "results are others."
        )


class Scale(Callback):
    """Logs the learning rate beside the pictures a step, and what a change of the latter means for the former.

    Args: recipe: the experiment as its file has it.
    """

    def __init__(self, recipe: Mapping[str, Any]) -> None:
        self.published = rate_and_batch(recipe)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        optimizer = trainer.optimizers[0]
        rate, batch_size = float(optimizer.defaults["lr"]), trainer.datamodule.batch_size
        log.info(f"{type(optimizer).__name__} with the learning rate {rate:g} at {batch_size} pictures a step")
        if sentence := advice(self.published, (rate, batch_size)):
            log.warning(sentence)


def rate_and_batch(config: Mapping[str, Any]) -> tuple[float | None, int | None]:
    """An experiment's learning rate and pictures a step; these have a default. None where it says nothing."""
    if not config:
        return None, None
    rate: Any = config
    for key in ("model", "init_args", "optimizer", "init_args", "lr"):
        rate = rate.get(key) if isinstance(rate, Mapping) else None
    default = inspect.signature(SegmentationDataModule).parameters["batch_size"].default
    return rate, config.get("data", {}).get("batch_size", default)


def advice(published: tuple[float | None, int | None], used: tuple[float, int]) -> str | None:
    """A sentence where a run has the published learning rate and not the published pictures a step."""
    (rate, batch_size), (own_rate, own_batch_size) = published, used
    if rate is None or batch_size is None or own_batch_size == batch_size or own_rate != rate:
        return None
    factor = own_batch_size / batch_size
    return (
        f"The experiment's learning rate {rate:g} belongs to {batch_size} pictures a step, and this run has {own_batch_size}. In "
        f"proportion, as is usual with SGD, it would be {rate * factor:.3g}, by the square root, as often with AdamW, "
        f"{rate * factor**0.5:.3g}; --model.optimizer.lr sets it."
    )
