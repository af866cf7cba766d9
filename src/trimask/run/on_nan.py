"""What a run does when a loss or a gradient is no number: it stops or leaves the step out, and keeps what led to it.

The look is taken once an optimizer step, after the backward pass: one pass over the gradients (their norm, in which nan and inf
stay) and one pair of numbers that the host reads. A GPU idles meanwhile for as long as the optimizer's kernels take
to be launched, which is what torch's own GradScaler costs; that Lightning reads a flag at every batch of a distributed run
comes to the same. The largest value over all processes decides, so that they all do the same and none waits for another.
Under fp16, gradients of inf belong to the scaler, which leaves such steps out by itself: there the losses alone count.

A step is left out by taking the gradients away: an optimizer does nothing to parameters without. Buffers (the running
statistics of batch norms) become what they were before the step. The schedule goes on, so that a run ends when it was meant
to. Own work.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from trimask.errors import UsageError
from trimask.run.disk import DiskFull, whole_file
from trimask.run.folder import RunFolder
from trimask.tasks.sharding import own_parts
from trimask.types import Batch

log = logging.getLogger("trimask")
KEPT = 3  # steps whose batches are kept, the first ones; each holds the weights of the network
FOLDER = "nonfinite"

OnNan = Literal["stop", "skip"]


class NotFinite(UsageError):
    """A step whose loss or gradient is nan or inf."""


@dataclass
class _Part:
    """One of the batches that make up a step."""

    batch: Batch
    count: int  # of the run's batches
    is_finite: Tensor | None = None
    losses: Mapping[str, Tensor] = field(default_factory=dict)


class WatchForNan(L.Callback):
    """Args:
    folder: of the run.
    action: "stop", or "skip": leave the step out and go on.
    limit: so many steps are left out in a row; then the run stops.
    """

    def __init__(self, folder: RunFolder, action: OnNan, limit: int) -> None:
        if limit < 1:
            raise UsageError(f"run.skip_limit counts steps, so it is at least 1; got {limit}.")
        self.folder, self.action, self.limit = folder, action, limit
        self._in_a_row = self._skipped = self._saved = 0
        self._parts: list[_Part] = []
        self._before: list[tuple[Tensor, Tensor]] = []  # every buffer, and what it was before the step

    # -- while a step is made ----------------------------------------------------------------------------------------

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self._before = [(buffer, buffer.clone()) for buffer in own_parts(pl_module.buffers())]

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Batch, batch_idx: int) -> None:
        if batch_idx % trainer.accumulate_grad_batches == 0:  # where Lightning forgets the gradients
            self._parts.clear()
            _copy([(copy, buffer) for buffer, copy in self._before])
        self._parts.append(_Part(batch, trainer.fit_loop.epoch_loop.batch_progress.total.ready))

    def on_before_backward(self, trainer: Any, pl_module: Any, loss: Tensor) -> None:
        part = self._parts[-1]
        part.is_finite, part.losses = torch.isfinite(loss.detach()), pl_module.last_losses

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        is_scaled = getattr(trainer.precision_plugin, "scaler", None) is not None
        gradients = [] if is_scaled else own_parts(p.grad for p in pl_module.parameters() if p.grad is not None)
        gradients = [part for part in gradients if part.numel()]  # of a sharded weight a process may hold nothing
        losses = torch.stack([part.is_finite for part in self._parts if part.is_finite is not None]).all()
        norm = get_total_norm(gradients) if gradients else torch.zeros((), device=losses.device)
        loss_is_bad, gradient_is_bad = _agreed(trainer, ~losses, ~norm.isfinite())
        if gradient_is_bad and not loss_is_bad:  # unless squares were too large for a number that is finite itself
            each = [gradient.isfinite().all() for gradient in gradients] or [losses]
            [gradient_is_bad] = _agreed(trainer, ~torch.stack(each).all())
        if not (loss_is_bad or gradient_is_bad):
            self._in_a_row = 0
            self._parts.clear()
            return
        _copy(self._before)
        self._in_a_row += 1
        file = self._keep(trainer, pl_module, loss_is_bad)
        if self.action == "stop" or self._in_a_row > self.limit:
            raise NotFinite(self._sentence(trainer, pl_module, loss_is_bad, file))
        self._skipped += 1
        if trainer.is_global_zero:
            log.warning(f"step {trainer.global_step} is left out ({self._skipped} so far): {self._told(loss_is_bad)}")
        for parameter in pl_module.parameters():
            parameter.grad = None

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        if self._skipped and trainer.is_global_zero:
            log.warning(f"{self._skipped} of {trainer.global_step} steps were left out, because they were not finite")

    # -- in a checkpoint -----------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, int]:
        return {"in_a_row": self._in_a_row, "skipped": self._skipped, "saved": self._saved}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self._in_a_row, self._skipped, self._saved = (state_dict[key] for key in ("in_a_row", "skipped", "saved"))

    # -- what is kept and said ---------------------------------------------------------------------------------------

    def _keep(self, trainer: Any, module: Any, loss_is_bad: bool) -> Path | None:
        """The step as it was, for `trimask replay`: of the first process with the weights, of others where their own loss is bad,
        or where it is a gradient that all of them share."""
        if self._saved >= KEPT:
            return None
        self._saved += 1
        weights = trainer.strategy.lightning_module_state_dict()  # on every process: it may lie in parts
        rank, step = trainer.global_rank, trainer.global_step
        path = self.folder.path / FOLDER / file_name(step, rank)
        if rank and loss_is_bad and all(part.is_finite for part in self._parts):
            return path
        content: dict[str, Any] = {}
        module.on_save_checkpoint(content)
        content |= {
            "step": step,
            "progress": step / max(int(trainer.estimated_stepping_batches), 1),
            "rank": rank,
            "world_size": trainer.world_size,
            "accumulate": trainer.accumulate_grad_batches,
            "precision": str(trainer.precision),
            "device": module.device.type,
            "parts": [_plain(part, module) for part in self._parts],
            "bad_gradients": _bad_names(module),
            "evaluating": [name for name, part in module.named_modules() if not part.training],
            "optimizer_in": str(self.folder.checkpoint("last")),
        }
        if rank == 0:
            content["state_dict"] = weights
        try:
            with whole_file(path) as fresh:
                torch.save(content, fresh)
        except DiskFull as error:
            log.warning(str(error))
        return path

    def _sentence(self, trainer: Any, module: Any, loss_is_bad: bool, file: Path | None) -> str:
        if not trainer.is_global_zero:
            return f"Step {trainer.global_step} is not finite; process 0 says more."
        last = self.folder.checkpoint("last")
        times = f", like the {self._in_a_row - 1} before it," if self._in_a_row > 1 else ""
        kept = file or self.folder.path / FOLDER
        go_on = (
            f"run.skip_limit={self.limit} in a row is the limit."
            if self.action == "skip"
            else f"--run.on_nan=skip leaves up to {self.limit} such steps in a row out."
        )
        return (
            f"Step {trainer.global_step}{times} is not finite: {self._told(loss_is_bad)}. The step was not taken. "
            f"`python -m trimask replay {kept}` runs it again and shows where it begins. {go_on} "
            f"{f'{last} continues the run' if last.is_file() else 'No checkpoint was written yet'}."
        )

    def _told(self, loss_is_bad: bool) -> str:
        parts = [part for part in self._parts if not part.is_finite] or self._parts
        losses = ", ".join(f"{name} {float(value):.4g}" for name, value in parts[0].losses.items())
        names = [name for part in parts for name in part.batch.names]
        shown = f"pictures {', '.join(names[:8])}{' ...' if len(names) > 8 else ''}"
        return f"losses {losses}; {shown}" if loss_is_bad else f"gradients, at losses {losses}; {shown}"


def _agreed(trainer: Any, *flags: Tensor) -> list[bool]:
    """Whether each holds on any process. The host waits for it."""
    return [bool(flag) for flag in trainer.strategy.reduce(torch.stack(flags).float(), reduce_op="max").tolist()]


def file_name(step: int, rank: int) -> str:
    """Of a kept step. The first process has the weights."""
    return f"step-{step:08}.pt" if rank == 0 else f"step-{step:08}-rank-{rank}.pt"


def _plain(part: _Part, module: Any) -> dict[str, Any]:
    """One batch and the state of the generators at its begin, as tensors and plain data."""
    cuda = [module.device] if module.device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        module.seed_draws(part.count)
        states = {"cpu": torch.get_rng_state()}
        if cuda:
            states["cuda"] = torch.cuda.get_rng_state(module.device)
    batch = vars(part.batch.to("cpu"))
    losses = {name: float(value) for name, value in part.losses.items()}
    return {
        "batch": batch,
        "count": part.count,
        "generators": states,
        "losses": losses,
        "is_finite": bool(part.is_finite),
    }


def _bad_names(module: nn.Module) -> list[str]:
    """Parameters whose gradient is not finite."""
    return [
        name
        for name, parameter in module.named_parameters()
        if parameter.grad is not None and not own_parts([parameter.grad])[0].isfinite().all()
    ]


@torch.no_grad()
def _copy(pairs: list[tuple[Tensor, Tensor]]) -> None:
    """Each pair: into, from."""
    if pairs:
        into, sources = zip(*pairs, strict=True)
        torch._foreach_copy_(list(into), list(sources))
