"""Callbacks that look on, or end a run."""

import json
import os
import signal

import lightning as L
import torch


def experiment(trainer):
    return os.path.basename(os.path.dirname(trainer.default_root_dir))


class Seen(L.Callback):
    """Writes which pictures this process was given, in seen_<experiment>_<rank>.txt."""

    def write(self, stage, trainer, batch):
        with open(f"seen_{experiment(trainer)}_{trainer.global_rank}.txt", "a") as handle:
            handle.write(f"{stage} {trainer.global_step} {' '.join(batch.names)}\n")

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.write("train", trainer, batch)

    def on_validation_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0):
        self.write("val", trainer, batch)


class Killed(L.Callback):
    """Ends the process before a step, where the environment has END_BEFORE=<step>; nothing is tidied up."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if os.environ.get("END_BEFORE") == str(trainer.global_step):
            os._exit(9)


class Held(L.Callback):
    """Writes how many numbers this process holds when training ends, in held_<experiment>_<rank>.json."""

    def on_train_end(self, trainer, pl_module):
        held = {"weights": pl_module.network.parameters(), "states": list(states(trainer.optimizers[0]))}
        for callback in trainer.callbacks:
            if (average := getattr(callback, "_average_model", None)) is not None:
                held["average"] = average.module.network.parameters()
        counts = {key: sum(local(value).numel() for value in values) for key, values in held.items()}
        with open(f"held_{experiment(trainer)}_{trainer.global_rank}.json", "w") as handle:
            json.dump(counts, handle)


def states(optimizer):
    for values in optimizer.state.values():
        yield from (value for value in values.values() if isinstance(value, torch.Tensor) and value.ndim)


def local(tensor):
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


class TimeIsUp(L.Callback):
    """Sends the process the signal by which SLURM says so, before the step that the environment names."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if os.environ.get("TIME_IS_UP_AT") == str(trainer.global_step):
            os.kill(os.getpid(), signal.SIGUSR1)
