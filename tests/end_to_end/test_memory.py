"""Want of memory ends in the settings of the run, with its traceback in log.txt."""

import os
import sys
from pathlib import Path

import pytest
import yaml

from trimask.cli import main

pytestmark = pytest.mark.slow

HUNGRY = """
import torch
from torch import nn
from trimask.outputs import DenseOutput

class Hungry(nn.Module):
    output = DenseOutput

    def __init__(self, num_classes: int, when: bool) -> None:
        super().__init__()
        self.layer, self.when = nn.Conv2d(3, num_classes, 3, 4, 1), when

    def forward(self, images):
        if self.training == self.when:
            torch.empty(10**15, dtype=torch.uint8)
        return DenseOutput(self.layer(images.float() / 255))
"""
CASE = {
    "data": {
        "dataset": {
            "class_path": "trimask.data.Shapes",
            "init_args": {"length": 4, "eval_length": 2, "size": [32, 32]},
        },
        "batch_size": 4,
        "num_workers": 0,
    },
    "model": {
        "class_path": "trimask.tasks.SemanticModule",
        "init_args": {
            "network": {"class_path": "hungry.Hungry"},
            "criterion": {
                "class_path": "trimask.losses.DenseCriterion",
                "init_args": {"terms": [{"class_path": "trimask.losses.CrossEntropy"}]},
            },
        },
    },
    "trainer": {"accelerator": "cpu", "devices": 1, "max_epochs": 1, "num_sanity_val_steps": 0},
    "run": {"panels": 0},
}


@pytest.mark.parametrize(
    ("training", "where", "helps"),
    [
        (True, "a training step", "--trainer.accumulate_grad_batches=2 "),
        (False, "evaluation", "--data.eval_batch_size=1 "),
    ],
)
def test_advice(training, where, helps, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.syspath_prepend(str(tmp_path))
    Path("hungry.py").write_text(HUNGRY)
    Path("case.yaml").write_text(yaml.safe_dump(CASE))
    assert main(["fit", "--exp", "case.yaml", f"--model.network.when={training}"]) == 2
    sys.modules.pop("hungry")
    said = capsys.readouterr().out
    assert f"The machine's memory does not suffice for {where} (1e+06 GB more were asked for): data." in said
    assert helps in said
    [run] = os.scandir("runs/case")
    assert "torch.empty(10**15, dtype=torch.uint8)" in Path(run.path, "log.txt").read_text()
