"""What a run leaves behind, and where: runs/<experiment>/<time>/.

config.yaml      the resolved configuration, written before the first step
metrics.csv      every logged number
pictures.npz     what the scores are made of, picture by picture; in training of the validation of best.ckpt
log.txt          what was printed
checkpoints/     best.ckpt, last.ckpt (everything needed to go on)
best.safetensors the network's weights alone
calibration.json the temperature of its scores, by `trimask calibrate`
panels/          picture, truth, prediction and errors of a few
pictures.csv     every picture of the last evaluation, the worst first, with the scores of its classes and its tags
slices.csv       every slice that was asked for, with all scores
reliability.png  how often answers are right, against how certain they are; where a measure tells
report.html      the same as a page, with panels and the confusion matrix
nonfinite/       steps whose loss or gradient was no number, for `trimask replay`
profile/         where a step's time goes, of `--with trainer/profile`
wandb/           the W&B run, and wandb_id, under which it is continued

A folder is made once and never reused by another run.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

_INHERITED = "TRIMASK_RUN_FOLDER"
TOLD_TO = "TRIMASK_TELL_FOLDER"  # the file in which a run says where its folder is, to the process that started it


@dataclass(frozen=True)
class RunFolder:
    path: Path

    @classmethod
    def create(cls, experiment: str, root: Path = Path("runs")) -> RunFolder:
        """A new folder named by the time, see `names_of_a_moment`."""
        parent = root / experiment
        parent.mkdir(parents=True, exist_ok=True)
        for name in names_of_a_moment(datetime.now()):
            try:
                (parent / name).mkdir()
            except FileExistsError:
                continue
            return cls(parent / name)
        raise RuntimeError(f"A thousand runs were started in {parent} within one second.")

    @classmethod
    def newest(cls, experiment: str, checkpoint: str, root: Path = Path("runs")) -> RunFolder:
        """The newest run of an experiment that has the checkpoint "best" or "last".

        Raises:
            ValueError: there is none.
        """
        candidates = sorted((root / experiment).glob(f"*/checkpoints/{checkpoint}.ckpt"))
        if not candidates:
            raise ValueError(
                f"No run of {experiment} has a {checkpoint}.ckpt below {(root / experiment).resolve()}; "
                f"train it first: make train EXP={experiment}"
            )
        return cls(candidates[-1].parents[1])

    @classmethod
    def of_checkpoint(cls, checkpoint: Path) -> RunFolder | None:
        """The run that wrote a checkpoint, if it lies in a run's folder."""
        folder = checkpoint.resolve().parent.parent
        return cls(folder) if checkpoint.parent.name == "checkpoints" and (folder / "config.yaml").is_file() else None

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.csv"

    @property
    def pictures(self) -> Path:
        return self.path / "pictures.npz"

    @property
    def log(self) -> Path:
        return self.path / "log.txt"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def checkpoint(self, name: str) -> Path:
        return self.checkpoints / f"{name}.ckpt"

    @property
    def best_weights(self) -> Path:
        return self.path / "best.safetensors"

    @property
    def panels(self) -> Path:
        return self.path / "panels"

    @property
    def picture_table(self) -> Path:
        return self.path / "pictures.csv"

    @property
    def slice_table(self) -> Path:
        return self.path / "slices.csv"

    @property
    def reliability(self) -> Path:
        return self.path / "reliability.png"

    @property
    def calibration(self) -> Path:
        return self.path / "calibration.json"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    def wandb_id(self) -> str:
        """The id of this run at W&B, fixed before the first step so that a continued run continues there too.

        A trial that W&B's agent has started gets the id that the agent waits for.
        """
        file = self.path / "wandb_id"
        try:
            with file.open("x") as handle:
                handle.write(os.environ.get("WANDB_RUN_ID") or uuid.uuid4().hex[:12])
        except FileExistsError:
            pass  # the run is being continued, or another process of it was faster
        return file.read_text()

    def discard(self) -> None:
        """Removes the folder of a run that could not start."""
        shutil.rmtree(self.path)

    def free_path(self, name: str) -> Path:
        """`name` inside the folder, with a number in front of its suffix where that exists already."""
        path = self.path / name
        for number in range(2, 10_000):
            if not path.exists():
                return path
            path = self.path / f"{Path(name).stem}-{number}{Path(name).suffix}"
        raise RuntimeError(f"{self.path} is full of {name} files.")


def inherited() -> RunFolder | None:
    """The folder of this run, in a further process that Lightning has started for it."""
    path = os.environ.get(_INHERITED)
    return RunFolder(Path(path)) if path and os.environ.get("LOCAL_RANK", "0") != "0" else None


def names_of_a_moment(moment: datetime) -> Iterator[str]:
    """What runs and measurements are called: by the second, with a suffix for a further one of it. Names sort by age."""
    stamp = moment.strftime("%Y-%m-%d_%H-%M-%S")
    yield stamp
    yield from (f"{stamp}-{number:03}" for number in range(2, 1000))


def bequeath(folder: RunFolder) -> RunFolder:
    """Lets further processes of this run find its folder."""
    os.environ[_INHERITED] = str(folder.path)
    return folder


def agreed(choose: Callable[[], RunFolder]) -> RunFolder:
    """One folder for all processes of a run. Lightning starts the others later, with the environment of the first; torchrun and
    SLURM start all at once, and the first tells the others through a store at the place where all of them meet anyway."""
    environment = _started_at_once()
    if environment is None or environment.world_size() == 1:
        return inherited() or bequeath(choose())
    rank, world = environment.global_rank(), environment.world_size()
    os.environ.update(MASTER_ADDR=environment.main_address, MASTER_PORT=str(environment.main_port))
    store, *_ = next(torch.distributed.rendezvous("env://", rank, world))
    key = f"{_INHERITED}/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}"
    if rank == 0:
        store.set(key, str(choose().path))
        store.wait(
            [f"{key}/{other}" for other in range(1, world)]
        )  # the store may end with the first process's use of it
    path = store.get(key).decode()
    store.set(f"{key}/{rank}", "")
    return RunFolder(Path(path))


def _started_at_once() -> Any:
    """What tells the processes of this run apart, where something else than Lightning has started them."""
    from lightning.fabric.plugins.environments import SLURMEnvironment, TorchElasticEnvironment

    return next((kind() for kind in (TorchElasticEnvironment, SLURMEnvironment) if kind.detect()), None)
