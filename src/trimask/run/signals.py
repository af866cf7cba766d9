"""SIGTERM and SLURM's SIGUSR1 ask a training run to end: it saves last.ckpt at the next step and ends with exit code 143.

Lightning's own way (2.6.6, `_SignalConnector`, `SIGTERMException`) ends the run, too, and is used for that. Three things are
not: it ends at the next batch, which may lie between accumulated ones, whose gradients are in no checkpoint; its handler
broadcasts inside the signal, where other processes may be in another collective; and at SIGUSR1 it saves in mid-step, into the
run's folder under a name that is found only by a run that starts in the same folder. So the handlers here only take note, all
processes agree at the end of a step, save, and then tell Lightning.

A second signal of the same kind ends the process at once. Own work.
"""

from __future__ import annotations

import os
import signal
import threading
from typing import Any

from lightning.pytorch.callbacks import Checkpoint

from trimask.run.callbacks import Last, validation_follows

_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class EndWhenAsked(Checkpoint):
    """A `Checkpoint`, because Lightning calls these last and in their order: it comes after `last`, which saves where it is
    due."""

    def __init__(self, last: Last) -> None:
        self.last = last
        self._received: set[int] = set()

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        if trainer.received_sigterm:  # between the start of the run and now
            self._received.add(signal.SIGTERM)
            trainer._signal_connector.received_sigterm = False
        if threading.current_thread() is threading.main_thread():  # Python takes handlers there alone
            for number in _SIGNALS:
                signal.signal(number, self._take_note)  # Lightning puts back what was there before the run

    def _take_note(self, number: int, frame: Any) -> None:
        if number in self._received:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self._received.add(number)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if not trainer.fit_loop._should_accumulate() and not validation_follows(trainer, batch_idx):
            self._end_if_asked(trainer)

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking and not trainer.is_last_batch:
            self._end_if_asked(trainer)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self._end_if_asked(trainer)

    def _end_if_asked(self, trainer: Any) -> None:
        """On all processes, if one of them was asked. On several, Lightning reads such a flag at every batch anyway."""
        if trainer.strategy.reduce_boolean_decision(bool(self._received), all=False):
            self.last.save(trainer)
            trainer._signal_connector.received_sigterm = True  # Lightning ends the run once it has logged this step
