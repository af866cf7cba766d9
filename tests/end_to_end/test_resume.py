"""A run that is killed and continued is the run that was not: every later loss, rate, score and weight, to the last digit.

What a SIGKILL leaves behind is the run's folder as it is on disk at that moment. So one uninterrupted run copies its folder
at every moment of interest, and each copy is continued and compared with the rest of that run; one test kills a real process.
"""

import csv
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import lightning as L
import pytest
import torch
import yaml

from trimask.cli import main
from trimask.run import launch

pytestmark = pytest.mark.slow

# 3 epochs of 3 batches. Every source of chance is on: shuffling, warp, noise and dropout.
CASE = {
    "data": {
        "dataset": {
            "class_path": "trimask.data.Shapes",
            "init_args": {"length": 13, "eval_length": 3, "size": [64, 64]},
        },
        "batch_size": 4,
        "num_workers": 0,
        "augment": [
            {
                "class_path": "trimask.data.transforms.Warp",
                "init_args": {"size": [48, 48], "scale": [0.5, 2.0], "flip": 0.5},
            },
            {"class_path": "albumentations.GaussNoise", "init_args": {"p": 0.5}},
        ],
    },
    "model": {
        "class_path": "trimask.tasks.SemanticModule",
        "init_args": {
            "network": {
                "class_path": "trimask.networks.fcn.FCN",
                "init_args": {
                    "backbone": "test_resnet",
                    "pretrained": False,
                    "channels": 16,
                    "aux_channels": 16,
                    "dropout": 0.5,
                },
            },
            "criterion": {
                "class_path": "trimask.losses.DenseCriterion",
                "init_args": {
                    "terms": [{"class_path": "trimask.losses.CrossEntropy"}, {"class_path": "trimask.losses.Dice"}]
                },
            },
            "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.01}},
            "schedule": {"class_path": "trimask.optim.Cosine", "init_args": {"warmup": 0.2}},
        },
    },
    "trainer": {
        "accelerator": "cpu",
        "devices": 1,
        "max_epochs": 3,
        "log_every_n_steps": 1,
        "num_sanity_val_steps": 0,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "callbacks": [{"class_path": "trimask.run.ema.ExponentialMovingAverage", "init_args": {"decay": 0.9}}],
    },
    "run": {"save_every": 2, "panels": 0},
}


class Snapshots(L.Callback):
    """Copies the run's folder: what a kill at that moment would leave."""

    def __init__(self, folder, into):
        self.folder, self.into = folder, into

    def take(self, moment):
        shutil.copytree(self.folder.path, self.into / moment)

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.take(f"batch {trainer.fit_loop.epoch_loop.batch_progress.total.ready}")

    def on_validation_start(self, trainer, pl_module):
        self.take(f"validation {trainer.global_step}")

    def on_train_epoch_end(self, trainer, pl_module):
        self.take(f"end {trainer.global_step}")


def fit_with_snapshots(into, *options):
    with pytest.MonkeyPatch.context() as patch:
        own = launch.checkpoints
        patch.setattr(launch, "checkpoints", lambda folder, *rest: [*own(folder, *rest), Snapshots(folder, into)])
        assert main(["fit", "--exp", "case.yaml", *options]) == 0


def run_folder():
    [folder] = os.scandir("runs/case")
    return folder.path


def put_back(snapshot):
    """The run's folder at its place, as it was at that moment: what a continued run finds."""
    place = run_folder()
    shutil.rmtree(place)
    shutil.copytree(snapshot, place)


def resume(*options):
    assert main(["fit", "--exp", "case.yaml", "--ckpt_path", "last", *options]) == 0


def rows(run):
    with open(f"{run}/metrics.csv", newline="") as handle:
        return list(csv.DictReader(handle))


def assert_equal(one, other, where=""):
    assert type(one) is type(other), where
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_equal(one[key], other[key], f"{where}/{key}")
    elif isinstance(one, list | tuple):
        for index, pair in enumerate(zip(one, other, strict=True)):
            assert_equal(*pair, f"{where}/{index}")
    else:
        assert one == other, where


def assert_same_run(whole, continued):
    """Every row of metrics.csv, digit for digit, and all that the checkpoints hold but paths and loop counters."""
    assert rows(whole) == rows(continued)
    for name in ("last", "best"):
        one, other = (torch.load(f"{run}/checkpoints/{name}.ckpt", weights_only=True) for run in (whole, continued))
        for key in ("state_dict", "current_model_state", "averaging_state", "optimizer_states", "lr_schedulers"):
            assert_equal(one[key], other[key], f"{name}.ckpt/{key}")
        assert (one["epoch"], one["global_step"]) == (other["epoch"], other["global_step"])
    assert Path(whole, "best.safetensors").read_bytes() == Path(continued, "best.safetensors").read_bytes()


VARIANTS = {
    "plain": [],
    "accumulated": ["--trainer.accumulate_grad_batches=2", "--data.batch_size=8", "--run.save_every=1"],
    "validated often": ["--trainer.val_check_interval=1", "--run.save_every=1"],
}


@pytest.fixture(scope="module", params=VARIANTS)
def whole(request, tmp_path_factory):
    """An uninterrupted run with snapshots, in a folder of its own, which is the working directory meanwhile."""
    folder = tmp_path_factory.mktemp("resume")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "disabled")
        patch.chdir(folder)
        (folder / "case.yaml").write_text(yaml.safe_dump(CASE))
        fit_with_snapshots(folder / "snapshots", *VARIANTS[request.param])
        shutil.copytree(run_folder(), folder / "whole")
        yield folder


# In mid-epoch; in a validation, with one more step trained than the checkpoint has; between validation and the end of the
# epoch; in the next epoch.
@pytest.mark.parametrize("moment", ["batch 3", "validation 6", "end 6", "batch 7"])
@pytest.mark.parametrize("whole", ["plain"], indirect=True)
def test_a_continued_run_equals_an_uninterrupted_one(whole, moment):
    assert [row["step"] for row in rows(whole / "whole")] == [str(step) for step in range(9)]
    put_back(whole / "snapshots" / moment)
    resume()
    assert_same_run(whole / "whole", run_folder())


@pytest.mark.parametrize("whole", ["validated often"], indirect=True)
def test_a_validation_in_mid_epoch_is_neither_skipped_nor_repeated(whole):
    put_back(whole / "snapshots" / "validation 2")
    resume()
    assert_same_run(whole / "whole", run_folder())


@pytest.mark.parametrize("whole", ["accumulated"], indirect=True)
def test_accumulated_batches_survive_two_kills(whole, tmp_path):
    """The second one falls between two accumulated batches, the first of which is the first batch after a resume."""
    put_back(whole / "snapshots" / "batch 4")
    fit_with_snapshots(tmp_path, "--ckpt_path", "last")
    assert_same_run(whole / "whole", run_folder())
    put_back(tmp_path / "batch 5")
    resume()
    assert_same_run(whole / "whole", run_folder())


# A real process, killed by itself so that the moment is certain; it leaves its loader workers behind as well.
KILLED = """
import os, signal, sys
import lightning as L
from trimask.cli import main
from trimask.run import launch

class Kill(L.Callback):
    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.fit_loop.epoch_loop.batch_progress.total.ready == 6:
            os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    own = launch.checkpoints
    launch.checkpoints = lambda *given: [*own(*given), Kill()]
    sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("whole", ["plain"], indirect=True)
def test_a_killed_process_is_continued_with_other_workers_and_the_same_wandb_run(whole, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(whole / "case.yaml", tmp_path)
    (tmp_path / "killed.py").write_text(KILLED)
    # Without the W&B service that an earlier test may have started in this process: it would outlive the kill, and
    # still hold the killed run's id.
    environment = {key: value for key, value in os.environ.items() if key != "WANDB_SERVICE"} | {
        "WANDB_MODE": "offline"
    }
    command = ["fit", "--exp", "case.yaml", "--data.num_workers=2"]
    killed = subprocess.run([sys.executable, "killed.py", *command], env=environment, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert [row["step"] for row in rows(run_folder())] == ["0", "1", "2", "3", "4"]
    last = torch.load(f"{run_folder()}/checkpoints/last.ckpt", weights_only=True)
    assert last["global_step"] == 4

    command = ["fit", "--exp", "case.yaml", "--ckpt_path", "last", "--data.num_workers=0"]
    command = [sys.executable, "-m", "trimask", *command]
    continued = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert continued.returncode == 0, continued.stdout + continued.stderr
    assert_same_run(whole / "whole", run_folder())
    offline = [entry.name.rpartition("-")[2] for entry in os.scandir(f"{run_folder()}/wandb") if "-run-" in entry.name]
    assert len(offline) == 2
    assert set(offline) == {Path(run_folder(), "wandb_id").read_text()}


@pytest.mark.parametrize("whole", ["plain"], indirect=True)
@pytest.mark.parametrize("moment", ["batch 3", "batch 7"])  # Lightning itself asks the loader in mid-epoch only
@pytest.mark.parametrize("change", ["--data.batch_size=2", "--data.dataset.init_args.length=12"])
def test_other_data_are_refused(whole, moment, change, capsys):
    put_back(whole / "snapshots" / moment)
    assert main(["fit", "--exp", "case.yaml", "--ckpt_path", "last", change]) == 2
    assert "The run cannot be continued: it was trained with" in " ".join(capsys.readouterr().out.split())
