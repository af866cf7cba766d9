"""The strategy of `--with trainer/fsdp`: everything that a network trains is divided over the processes.

Lightning's `ModelParallelStrategy` (2.6.6); the task's `configure_model` does the dividing, see `tasks.sharding`.
Deviations from it:
- A checkpoint is one file as of any other run, and is read as one: a run may go on with another number of processes, or
  without sharding. Lightning numbers the states of an optimizer by the order of the weights in the network, torch by that in
  the optimizer's groups, and both read what the other has written without a word.
- `sync_batchnorm` is done; Lightning leaves it out here.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.strategies.strategy import Strategy
from torch.optim import Optimizer

from trimask.tasks.sharding import share_like, shares, whole


class FullySharded(ModelParallelStrategy):
    """Args: timeout: seconds after which a process that waits for the others gives up."""

    def __init__(self, timeout: float = 1800) -> None:
        super().__init__(save_distributed_checkpoint=False, timeout=timedelta(seconds=timeout))

    @property
    def lightning_restore_optimizer(self) -> bool:
        return True

    def setup_environment(self) -> None:
        super().setup_environment()
        if self._layer_sync is not None and self.lightning_module is not None:  # before the network is divided
            self._layer_sync.apply(self.lightning_module)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        return Strategy.load_checkpoint(self, checkpoint_path, weights_only)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        module = self.lightning_module
        assert module is not None
        module.load_state_dict(shares(checkpoint["state_dict"], module), strict=strict)

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        return whole(optimizer.state_dict())

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        for optimizer, saved in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            numbers = [number for group in saved["param_groups"] for number in group["params"]]
            weights = [weight for group in optimizer.param_groups for weight in group["params"]]
            like = dict(zip(numbers, weights, strict=True))
            state = {
                number: {name: share_like(value, like[number]) for name, value in values.items()}
                for number, values in saved["state"].items()
            }
            kernels = [group.get("fused") for group in optimizer.param_groups]
            optimizer.load_state_dict({**saved, "state": state})
            for group, fused in zip(optimizer.param_groups, kernels, strict=True):
                group["fused"] = fused  # not every fused step can do with sharded weights
