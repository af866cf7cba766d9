"""A sweep of real trainings without a server: values arrive whole, W&B keeps each trial for a later upload."""

import csv
import json
import shutil
from pathlib import Path

import pytest
import yaml

from trimask.cli import main
from trimask.errors import UsageError
from trimask.sweep import engine

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
EXPERIMENT = """
defaults: [trainer/default, data/shapes, model/fcn, optim/adamw_cosine]
data:
  dataset: {init_args: {length: 8, eval_length: 3, size: [32, 32]}}
  batch_size: 4
  num_workers: 0
model:
  init_args:
    network: {init_args: {backbone: test_resnet, pretrained: false, channels: 16, aux_channels: 16}}
    criterion:
      class_path: trimask.losses.DenseCriterion
      init_args: {terms: [{class_path: trimask.losses.CrossEntropy}]}
trainer: {accelerator: cpu, max_epochs: 2, enable_progress_bar: false}
run: {panels: 0}
baseline: {none: a test}
"""
DICE = {"class_path": "trimask.losses.DenseCriterion", "init_args": {"terms": [{"class_path": "trimask.losses.Dice"}]}}
SWEEP = {
    "program": "small",
    "method": "grid",
    "metric": {"name": "val/miou", "goal": "maximize"},
    "parameters": {
        "model.criterion": {"value": DICE},
        "trainer.gradient_clip_val": {"value": None},
        "data.batch_size": {"values": [4, 100]},
    },
}


def test_a_grid_with_a_trial_that_cannot_run(tmp_path, monkeypatch, capfd):
    try:
        engine.load()
    except UsageError as error:
        pytest.skip(str(error))
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "small.yaml").write_text(EXPERIMENT)
    (tmp_path / "configs" / "sweeps" / "first.yaml").write_text(yaml.safe_dump(SWEEP))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert main(["sweep", "first", "--jobs", "2"]) == 0
    assert "best trial: 1, val/miou" in capfd.readouterr().out
    with Path("runs/sweeps/first/results.csv").open(newline="") as file:
        good, bad = csv.DictReader(file)
    assert (good["state"], good["validations"], bad["state"]) == ("finished", "2", "failed")
    assert "fewer than one batch of 100" in bad["why"]
    run = Path(good["run"])
    assert run.parent == tmp_path / "runs" / "sweeps" / "first"
    config = yaml.safe_load((run / "config.yaml").read_text())
    [term] = config["model"]["init_args"]["criterion"]["init_args"]["terms"]
    assert term["class_path"] == "trimask.losses.Dice"
    assert config["trainer"]["gradient_clip_val"] is None
    assert list(run.glob("wandb/offline-run-*/*.wandb")), "for `wandb sync`"
    assert json.loads(good["model.criterion"]) == DICE
    assert not (tmp_path / "runs" / "small").exists(), "the experiment's own runs are apart"
