"""Whether a few pictures could be learned by heart, said in one sentence at the end; see `data.overfit`. Own work."""

from __future__ import annotations

import logging
from typing import Any

import lightning as L

log = logging.getLogger("trimask")


class Overfit(L.Callback):
    """Ends the run as soon as the score is reached.

    Args: score: that the task's headline is to reach, in 0..1.
    """

    def __init__(self, score: float = 0.9) -> None:
        if not 0 < score <= 1:
            raise ValueError(f"Overfit: `score` lies in 0..1; got {score}.")
        self.score = score
        self._best = (float("nan"), 0)  # the score and its step

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        if trainer.sanity_checking:
            return
        value = float(trainer.callback_metrics[f"val/{pl_module.headline}"])
        if not value <= self._best[0]:
            self._best = (value, trainer.global_step)
        trainer.should_stop |= value >= self.score

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """After the table of results."""
        if stage != "fit" or trainer.interrupted or not trainer.is_global_zero:
            return
        count = len(trainer.datamodule.split("train"))
        value, step = self._best
        what = f"val/{pl_module.headline} {value:.4f} after {step} steps on the {count} pictures that were trained on"
        if value >= self.score:
            log.info(f"overfit: reached. {what}; {self.score:g} was asked for. Network, loss and data fit together.")
            return
        loss = float(trainer.callback_metrics.get("train/loss", float("nan")))
        log.info(
            f"overfit: NOT reached. {what}, at most; {self.score:g} was asked for. The loss is {loss:.4g} at the end. Is it low, "
            "then look at how outputs are decoded and at what evaluation does otherwise than training (norms of small "
            "batches, `model.inference`); is it high, at truth, criterion, learning rate and number of steps."
        )
