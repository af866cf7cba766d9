"""The same run on one process and on two: the same pictures a step, the same scores to the pixel, one folder."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.slow

# No norm and no dropout, so that what a process computes does not depend on which pictures it shares a batch with.
# plain.py and the rest of the case lie in the working folder.
PLAIN = """
import torch
from torch import nn
from trimask.outputs import DenseOutput

class Plain(nn.Module):
    output = DenseOutput

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3, 4, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, num_classes, 1)
        )

    def forward(self, images):
        return DenseOutput(self.layers(images.float() / 255))
"""
SEEN = '''
import os
import lightning as L

class Seen(L.Callback):
    """Writes which pictures this process was given."""

    def write(self, stage, trainer, batch):
        with open(f"seen_{trainer.world_size}_{trainer.global_rank}.txt", "a") as handle:
            handle.write(f"{stage} {trainer.global_step} {' '.join(batch.names)}\\n")

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.write("train", trainer, batch)

    def on_validation_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0):
        self.write("val", trainer, batch)
'''
CASE = {
    "data": {
        "dataset": {
            "class_path": "trimask.data.Shapes",
            "init_args": {"length": 13, "eval_length": 5, "size": [64, 64]},
        },
        "batch_size": 4,
        "eval_batch_size": 2,
        "num_workers": 0,
        "augment": [
            {
                "class_path": "trimask.data.transforms.Warp",
                "init_args": {"size": [48, 48], "scale": [1.0, 2.0], "flip": 0.5},
            },
            {"class_path": "albumentations.GaussNoise", "init_args": {"p": 0.5}},
        ],
    },
    "model": {
        "class_path": "trimask.tasks.SemanticModule",
        "init_args": {
            "network": {"class_path": "plain.Plain"},
            "criterion": {
                "class_path": "trimask.losses.DenseCriterion",
                "init_args": {"terms": [{"class_path": "trimask.losses.CrossEntropy"}]},
            },
            "optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1, "momentum": 0.9}},
        },
    },
    "trainer": {
        "accelerator": "cpu",
        "devices": 1,
        "max_epochs": 2,
        "log_every_n_steps": 1,
        "num_sanity_val_steps": 0,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "callbacks": [{"class_path": "seen.Seen"}],
    },
    "run": {"panels": 2},
}
TWO = ["--trainer.devices=2", "--trainer.strategy=ddp"]


def trimask(*arguments, launcher=("-m", "trimask")):
    environment = {**os.environ, "WANDB_MODE": "disabled", "PYTHONPATH": "."}
    command = [sys.executable, *launcher, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr


def rows(run):
    with (run / "metrics.csv").open(newline="") as handle:
        return list(csv.DictReader(handle))


def seen(num_processes):
    """(stage, step) -> the pictures of all processes, sorted."""
    pictures = {}
    for rank in range(num_processes):
        for line in Path(f"seen_{num_processes}_{rank}.txt").read_text().splitlines():
            stage, step, *names = line.split(" ")
            pictures.setdefault((stage, step), []).extend(names)
    return {key: sorted(names) for key, names in pictures.items()}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The folders of a run on one process, on two that Lightning starts, and on two that torchrun starts."""
    folder = tmp_path_factory.mktemp("processes")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        Path("plain.py").write_text(PLAIN)
        Path("seen.py").write_text(SEEN)
        for name in ("one", "two", "torchrun"):
            Path(f"{name}.yaml").write_text(yaml.safe_dump(CASE))
        trimask("fit", "--exp", "one.yaml")
        trimask("fit", "--exp", "two.yaml", *TWO)
        torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "trimask"]
        for file in Path().glob("seen_2*"):
            file.rename(file.name.replace("seen", "lightning"))
        trimask("fit", "--exp", "torchrun.yaml", *TWO, launcher=torchrun)
        yield {name: list(Path("runs", name).iterdir()) for name in ("one", "two", "torchrun")}


def test_a_run_has_one_folder_however_its_processes_are_started(runs):
    for name, folders in runs.items():
        assert len(folders) == 1, name
        [folder] = folders
        assert [row["step"] for row in rows(folder)] == [str(step) for step in range(6)]
        assert sorted(path.name for path in folder.iterdir()) == sorted(path.name for path in runs["one"][0].iterdir())
        assert (folder / "log.txt").read_text().count("pictures to train") == 1


def test_a_step_sees_the_same_pictures_and_a_validation_sees_each_once(runs):
    alone, together = seen(1), seen(2)
    assert len(alone) == 8
    for (stage, step), names in alone.items():
        if stage == "train":
            assert together[stage, step] == names
        else:
            assert len(set(names)) == 5
            assert together[stage, step] == names


@pytest.mark.parametrize("name", ["two", "torchrun"])
def test_losses_and_scores_agree(runs, name):
    """Every pixel is labelled here, so that the mean of the processes' means is the mean; sums run in another order."""
    for one, other in zip(rows(runs["one"][0]), rows(runs[name][0]), strict=True):
        assert {key for key in one if one[key]} == {key for key in other if other[key]}
        for key in filter(one.get, one):
            close = {"rel": 1e-5} if key.startswith(("train", "lr")) else {"abs": 1e-3, "nan_ok": True}
            assert float(other[key]) == pytest.approx(float(one[key]), **close), (one["step"], key)


def test_a_checkpoint_scores_the_same_to_the_pixel(runs):
    checkpoint = str(runs["one"][0] / "checkpoints" / "last.ckpt")
    trimask("validate", "--ckpt_path", checkpoint)
    trimask("validate", "--ckpt_path", checkpoint, *TWO)
    first, second = sorted((runs["one"][0] / "validate").iterdir())
    assert rows(first) == rows(second)
    assert (first / "pictures.csv").read_text() == (second / "pictures.csv").read_text()
    tables = [(folder / "log.txt").read_text() for folder in (first, second)]
    assert [line for line in tables[0].splitlines() if "│" in line] == [
        line for line in tables[1].splitlines() if "│" in line
    ]
