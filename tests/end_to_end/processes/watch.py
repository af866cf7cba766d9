"""Callbacks that look on, or end a run."""

import os

import lightning as L


class Seen(L.Callback):
    """Writes which pictures this process was given."""

    def write(self, stage, trainer, batch):
        with open(f"seen_{trainer.world_size}_{trainer.global_rank}.txt", "a") as handle:
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
