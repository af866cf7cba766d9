"""Exponential moving average of the weights: validated, saved beside the raw ones, exact after a resume.

Source: Polyak & Juditsky 1992; decay warm-up min(decay, (1 + n) / (10 + n)) of TensorFlow's ExponentialMovingAverage.
A subclass of Lightning's `WeightAveraging` (2.6.6), which does the keeping, swapping and saving. In a checkpoint
`state_dict` is the average, `current_model_state` the raw weights and `averaging_state` the number of updates.
Deviations from `EMAWeightAveraging`, each of which has a test that it would fail:
- integer buffers are copied: blended and truncated, a constant k becomes k - 1 for some k and decays, 0.9999 among them
  (Swin's `relative_position_index`);
- constant buffers stay what they are: mean and std drift by rounding in decay * a + (1 - decay) * b (4e-3 of 124 after
  3000 steps at 0.9999), in a lerp they do not;
- a checkpoint written while the module shows the average (after the last step, or on an exception in validation) still
  holds the raw weights, so that a finished run can be continued;
- a network that is sharded is copied before it is divided, and its average divided likewise;
- the decay warms up, because short runs would otherwise be averaged with their first, random weights.
"""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from trimask.tasks.sharding import own_parts, release_weights, shard, shares, whole

_STATES = ("state_dict", "current_model_state")  # of a whole module each


class ExponentialMovingAverage(WeightAveraging):
    """After every step: average = decay * average + (1 - decay) * weights, floating point buffers included.

    Args:
        decay: in 0..1; 0.999 averages over the last thousand steps or so.
        warmup: start with a small decay that rises to `decay`; n updates in it is at most (1 + n) / (10 + n).
    """

    def __init__(self, decay: float = 0.999, *, warmup: bool = True) -> None:
        if not 0 <= decay <= 1:
            raise ValueError(f"The decay of an average must lie in 0..1; got {decay}.")
        super().__init__(use_buffers=True, multi_avg_fn=self._blend)
        self.decay = decay
        self.warmup = warmup
        self._average_is_shown = False

    @torch.no_grad()
    def _blend(self, averages: list[Tensor], currents: list[Tensor], num_averaged: Tensor) -> None:
        """In place; the tensors of one call have one device and type."""
        averages, currents = own_parts(averages), own_parts(currents)
        n = int(num_averaged)
        decay = min(self.decay, (1 + n) / (10 + n)) if self.warmup else self.decay
        if averages[0].is_floating_point():
            torch._foreach_lerp_(averages, currents, 1 - decay)
        else:
            torch._foreach_copy_(averages, currents)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage == "fit":
            self._average_is_shown = False
            # As the base, which would have a network divided before it is copied: that is refused.
            device = self._device or pl_module.device
            self._average_model = AveragedModel(pl_module, device, use_buffers=self._use_buffers, **self._kwargs)
            if pl_module.device_mesh is not None:
                average: Any = self._average_model.module
                shard(average.network, trainer.strategy.root_device)

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.state.fn == TrainerFn.FITTING:  # else the module holds the average already
            super().on_validation_epoch_start(trainer, pl_module)
            self._average_is_shown = True

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        release_weights(pl_module.network)
        if trainer.state.fn == TrainerFn.FITTING:
            super().on_validation_epoch_end(trainer, pl_module)
            self._average_is_shown = False

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leaves the average in the module, as the base does, but keeps the raw weights for a last checkpoint."""
        self.on_validation_epoch_start(trainer, pl_module)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        super().on_save_checkpoint(trainer, pl_module, checkpoint)
        checkpoint["state_dict"] = whole(checkpoint["state_dict"])
        if self._average_is_shown:  # the base took the module's weights for the raw ones
            average, raw = checkpoint["current_model_state"], checkpoint["state_dict"]
            checkpoint["state_dict"], checkpoint["current_model_state"] = average, raw

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        states = {key: shares(checkpoint[key], pl_module) for key in _STATES if key in checkpoint}
        super().on_load_checkpoint(trainer, pl_module, {**checkpoint, **states})
