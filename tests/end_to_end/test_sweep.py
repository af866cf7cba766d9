"""A sweep of real trainings without a server: values arrive whole, W&B keeps each trial for a later upload."""

import csv
import json
from pathlib import Path

import pytest
import yaml

from trimask.cli import main
from trimask.errors import UsageError
from trimask.sweep import engine

pytestmark = pytest.mark.slow

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


def test_a_grid_with_a_trial_that_cannot_run(workplace, monkeypatch, capfd):
    try:
        engine.load()
    except UsageError as error:
        pytest.skip(str(error))
    workplace.write("small", trainer={"max_epochs": 2}, data={"dataset": {"init_args": {"eval_length": 3}}})
    (workplace.folder / "configs" / "sweeps" / "first.yaml").write_text(yaml.safe_dump(SWEEP))
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert main(["sweep", "first", "--jobs", "2"]) == 0
    assert "best trial: 1, val/miou" in capfd.readouterr().out
    with Path("runs/sweeps/first/results.csv").open(newline="") as file:
        good, bad = csv.DictReader(file)
    assert (good["state"], good["validations"], bad["state"]) == ("finished", "2", "failed")
    assert "fewer than one batch of 100" in bad["why"]
    run = Path(good["run"])
    assert run.parent == workplace.folder / "runs" / "sweeps" / "first"
    config = yaml.safe_load((run / "config.yaml").read_text())
    [term] = config["model"]["init_args"]["criterion"]["init_args"]["terms"]
    assert term["class_path"] == "trimask.losses.Dice"
    assert config["trainer"]["gradient_clip_val"] is None
    assert list(run.glob("wandb/offline-run-*/*.wandb")), "for `wandb sync`"
    assert json.loads(good["model.criterion"]) == DICE
    assert not (workplace.folder / "runs" / "small").exists(), "the experiment's own runs are apart"
