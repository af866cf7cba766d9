"""A loss or a gradient that is no number: the run stops or leaves the step out, and `replay` finds where it begins."""

import csv
import os
import shutil
import sys
from pathlib import Path

import pytest
import torch
import yaml

from trimask.cli import main
from trimask.run import launch

pytestmark = pytest.mark.slow

# Whether a step goes wrong is drawn in the network, so that only the right state of the generators repeats it.
TRAPPED = """
import torch
from torch import nn
from trimask.outputs import DenseOutput

class Trap(nn.Module):
    def __init__(self, kind: str, share: float) -> None:
        super().__init__()
        self.kind, self.share = kind, share

    def forward(self, x):
        if not self.training or torch.rand(()) >= self.share:
            return x
        if self.kind == "forward":
            return x / (x - x)
        return x + torch.sqrt(0 * x.abs())  # 0, with a slope of 0 * inf

class Trapped(nn.Module):
    output = DenseOutput

    def __init__(self, num_classes: int, kind: str = "forward", share: float = 0.15) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 4, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.trap = Trap(kind, share)
        self.head = nn.Sequential(nn.Conv2d(8, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.Conv2d(8, num_classes, 1))

    def forward(self, images):
        return DenseOutput(self.head(self.trap(self.stem(images.float() / 255))))
"""
CASE = {
    "data": {
        "dataset": {
            "class_path": "trimask.data.Shapes",
            "init_args": {"length": 12, "eval_length": 2, "size": [32, 32]},
        },
        "batch_size": 4,
        "num_workers": 0,
    },
    "model": {
        "class_path": "trimask.tasks.SemanticModule",
        "init_args": {
            "network": {"class_path": "trapped.Trapped"},
            "criterion": {
                "class_path": "trimask.losses.DenseCriterion",
                "init_args": {
                    "terms": [{"class_path": "trimask.losses.CrossEntropy"}, {"class_path": "trimask.losses.Dice"}]
                },
            },
            "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.01}},
        },
    },
    "trainer": {
        "accelerator": "cpu",
        "devices": 1,
        "max_epochs": 5,
        "log_every_n_steps": 1,
        "num_sanity_val_steps": 0,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    },
    "run": {"save_every": 1, "panels": 0},
}
NUM_STEPS = 15


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.syspath_prepend(str(tmp_path))
    Path("trapped.py").write_text(TRAPPED)
    Path("case.yaml").write_text(yaml.safe_dump(CASE))
    yield
    sys.modules.pop("trapped", None)


def fit(*options):
    return main(["fit", "--exp", "case.yaml", *options])


def run_folder():
    [folder] = os.scandir("runs/case")
    return Path(folder.path)


def losses():
    with (run_folder() / "metrics.csv").open(newline="") as handle:
        return {int(row["step"]): float(row["train/loss"]) for row in csv.DictReader(handle)}


def checkpoint(name="last"):
    return torch.load(run_folder() / "checkpoints" / f"{name}.ckpt", weights_only=True)


def said(capsys):
    return " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("kind", "options", "where", "line"),
    [
        ("forward", [], "the output of network.trap (Trap)", None),
        ("backward", [], "at the output of network.stem", "torch.sqrt(0 * x.abs())"),
        ("backward", ["--trainer.accumulate_grad_batches=2"], "at the output of network.stem", "torch.sqrt"),
        ("forward", ["--trainer.precision=bf16-mixed"], "the output of network.trap (Trap)", None),
    ],
)
def test_a_run_stops_and_its_step_is_found(kind, options, where, line, capsys):
    assert fit(f"--model.network.kind={kind}", *options) == 2
    message = said(capsys)
    [file] = (run_folder() / "nonfinite").iterdir()
    step = int(file.stem.removeprefix("step-"))
    assert f"Step {step} is not finite: {'losses' if kind == 'forward' else 'gradients'}" in message
    assert f"replay {file}" in message
    assert "--run.on_nan=skip leaves up to 10 such steps in a row out" in message
    if step:
        last = checkpoint()
        assert last["global_step"] == step, "the step was not taken, and the checkpoint is of just before"
        assert all(value.isfinite().all() for value in last["state_dict"].values())

    assert main(["replay", str(run_folder())]) == 0
    message = said(capsys)
    assert f"first value that is not finite: the {'output' if kind == 'forward' else 'gradient'}" in message
    assert where in message
    if line:
        assert line in message, "the anomaly mode's operation, and where it was made"
    for name, then in torch.load(file, weights_only=True)["parts"][0]["losses"].items():
        assert name in message
        assert message.count(repr(then)) >= 2, "the loss of then and of now are equal to the last digit"


def test_a_step_left_out_leaves_no_trace(capsys):
    """Weights, moments and running statistics of after the step are those of before; the schedule goes on."""
    states = {}

    class Keep(launch.WatchForNan):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            optimizer = trainer.optimizers[0].state_dict()["state"]
            states[trainer.global_step] = (
                {name: value.clone() for name, value in pl_module.state_dict().items()},
                {key: {name: value.clone() for name, value in entry.items()} for key, entry in optimizer.items()},
                self._skipped,
            )

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launch, "WatchForNan", Keep)
        assert fit("--run.on_nan=skip") == 0
    bad = [step for step, loss in losses().items() if loss != loss]
    assert 1 <= len(bad) < NUM_STEPS - 2
    assert said(capsys).count("is left out") == len(bad) == states[NUM_STEPS][2]
    assert sorted(path.name for path in (run_folder() / "nonfinite").iterdir()) == [
        f"step-{step:08}.pt" for step in bad[:3]
    ]
    for step in range(1, NUM_STEPS):
        (weights, moments, _), (later, later_moments, _) = states[step], states[step + 1]
        same = all(torch.equal(weights[name], later[name]) for name in weights)
        assert same == (step in bad), step
        if same:
            assert all(torch.equal(v, later_moments[k][n]) for k, entry in moments.items() for n, v in entry.items())
    rates = checkpoint()["lr_schedulers"][0]["last_epoch"]
    assert rates == NUM_STEPS


def test_a_run_that_has_left_a_step_out_is_continued_exactly():
    class Copy(launch.LearningRates):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
            if trainer.global_step in (7, 12):
                shutil.copytree(run_folder(), f"killed {trainer.global_step}")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launch, "LearningRates", Copy)
        assert fit("--run.on_nan=skip") == 0
    whole, state = losses(), checkpoint()
    assert any(loss != loss for step, loss in whole.items() if step < 7)
    assert any(loss != loss for step, loss in whole.items() if step >= 7)
    for step in (7, 12):
        place = run_folder()
        shutil.rmtree(place)
        shutil.copytree(f"killed {step}", place)
        assert fit("--ckpt_path", "last") == 0
        assert repr(losses()) == repr(whole)
        later = checkpoint()
        assert all(torch.equal(value, later["state_dict"][name]) for name, value in state["state_dict"].items())
        watch = next(key for key in state["callbacks"] if key.startswith("WatchForNan"))
        assert later["callbacks"][watch] == state["callbacks"][watch]


def test_too_many_in_a_row_stop_the_run(capsys):
    assert fit("--model.network.share=1.0", "--run.on_nan=skip", "--run.skip_limit=4") == 2
    message = said(capsys)
    assert "Step 4, like the 4 before it, is not finite" in message
    assert "run.skip_limit=4 in a row is the limit" in message
    assert len(os.listdir(run_folder() / "nonfinite")) == 3


def test_what_is_no_kept_step(capsys):
    Path("runs/case/x").mkdir(parents=True)
    Path("other.pt").write_bytes(b"nothing")
    for name, sentence in [("case", "no step of it was kept"), ("other.pt", "is no step that `run.on_nan` has kept")]:
        assert main(["replay", name]) == 2
        assert sentence in said(capsys)
    assert main(["replay", "case", "--device", "cud"]) == 2
    assert "choose from 'cpu', 'cuda'" in said(capsys)
