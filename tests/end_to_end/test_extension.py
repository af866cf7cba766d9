"""Adding a loss, a dataset, a network and an experiment: one new file each, none of them inside the package."""

import csv
import sys

import pytest
import torch

import trimask
from trimask.cli import main

pytestmark = pytest.mark.slow

LOSS = '''
"""Brier score: the squared distance between probabilities and truth."""

from trimask.losses.dense import DenseTerm


class Brier(DenseTerm):
    def __init__(self, *, weight: float = 1.0, name: str = "brier") -> None:
        super().__init__(weight=weight, name=name)

    def measure(self, strip, focus):
        return (strip.probabilities - strip.truth).square().sum(dim=1, keepdim=True)
'''

DATASET = '''
"""Halves: pictures that are dark on one side."""

import numpy as np

from torch.utils.data import Dataset

from trimask.data.label_map import semantic_sample
from trimask.types import ClassSpec


class Halves(Dataset):
    offers = frozenset({"semantic"})

    def __init__(self, split: str, *, length: int = 4, side: int = 32) -> None:
        self.classes = ClassSpec(["bright side", "dark"])
        self.length, self.side = length, side

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index):
        labels = np.zeros((self.side, self.side), np.int64)
        labels[:, : 4 + index] = 1
        image = np.repeat(np.where(labels, 40, 200)[:, :, None], 3, axis=2).astype(np.uint8)
        return semantic_sample(image, labels, f"halves{index}", ignore_index=self.classes.ignore_index)
'''

NETWORK = '''
"""A network of two convolutions."""

from torch import nn

from trimask.outputs import DenseOutput


class TwoConvolutions(nn.Module):
    output = DenseOutput

    def __init__(self, num_classes: int, *, width: int = 8) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, width, 3, 2, 1), nn.ReLU(), nn.Conv2d(width, num_classes, 1))

    def forward(self, images) -> DenseOutput:
        return DenseOutput(self.layers(images.float() / 255 - 0.5))
'''

EXPERIMENT = """
defaults: [trainer/default, optim/sgd_poly]
data:
  dataset: {class_path: outside_dataset.Halves, init_args: {length: 4}}
  batch_size: 2
  num_workers: 0
model:
  class_path: trimask.tasks.SemanticModule
  init_args:
    network: {class_path: outside_network.TwoConvolutions, init_args: {width: 4}}
    criterion:
      class_path: trimask.losses.DenseCriterion
      init_args:
        terms:
          - {class_path: trimask.losses.CrossEntropy}
          - {class_path: outside_loss.Brier, init_args: {weight: 0.5}}
trainer: {accelerator: cpu, max_epochs: 1, log_every_n_steps: 1}
baseline: {none: a test}
"""


@pytest.fixture
def outside(tmp_path, monkeypatch):
    for name, text in {"loss": LOSS, "dataset": DATASET, "network": NETWORK}.items():
        (tmp_path / f"outside_{name}.py").write_text(text)
    (tmp_path / "mine.yaml").write_text(EXPERIMENT)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    yield tmp_path
    for name in ("loss", "dataset", "network"):
        sys.modules.pop(f"outside_{name}", None)


def test_four_new_files_train_validate_and_predict(outside, capsys):
    assert main(["fit", "--exp", "mine.yaml"]) == 0
    [run] = (outside / "runs" / "mine").iterdir()
    with (run / "metrics.csv").open(newline="") as handle:
        table = list(csv.DictReader(handle))
    steps = [row for row in table if row["train/loss"]]
    assert len(steps) == 2
    for row in steps:
        parts = float(row["train/cross_entropy"]) + float(row["train/brier"])
        assert float(row["train/loss"]) == pytest.approx(parts)
    assert "val/iou_bright_side" in table[0]
    assert main(["validate", "--exp", "mine.yaml"]) == 0
    pipeline = trimask.load(run)
    assert {entry["label"] for entry in pipeline(torch.zeros(3, 20, 31, dtype=torch.uint8))} <= {"bright side", "dark"}
    capsys.readouterr()
    assert main(["fit", "--exp", "mine.yaml", "--model.network.wdth=3"]) == 2
    assert "did you mean 'width'?" in capsys.readouterr().out
