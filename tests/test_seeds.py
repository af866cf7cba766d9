"""Several seeds as a group; the runs are written by hand."""

import json
from pathlib import Path

import pytest
import yaml

from trimask import seeds as command
from trimask.cli import main
from trimask.run.folder import RunFolder

# (what a seed comes to: the values of its validations); seed 4 dies
RUNS = {1: [0.5, 0.7, 0.6], 2: [0.8, 0.7], 3: [float("nan"), 0.9]}


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("experiments").mkdir()
    config = {"model": {"class_path": "trimask.tasks.SemanticModule"}, "baseline": {"none": "a test"}}
    Path("experiments/x.yaml").write_text(yaml.safe_dump(config))
    monkeypatch.setattr(command, "run_to_its_end", lambda arguments: train(arguments, config))


STARTED = []


def train(arguments, config):
    STARTED.append(arguments)
    seed = int(arguments[-1].partition("=")[2])
    if seed not in RUNS:
        return 2, None
    folder = RunFolder(Path("runs", "x", f"seed {seed}"))
    folder.path.mkdir(parents=True)
    folder.config.write_text(yaml.safe_dump({**config, "run": {"monitor": None, "mode": "max"}}))
    lines = [f"{step},{value},{1 - value},\n" for step, value in enumerate(RUNS[seed])]
    folder.metrics.write_text("step,val/miou,val/iou_sky,train/loss\n" + "".join(lines) + "9,,,0.1\n")
    return 0, folder


def test_mean_and_spread_of_the_best_validations(capsys):
    STARTED.clear()
    assert main(["seeds", "--exp", "x", "--seeds", "1,2", "--trainer.max_epochs=3"]) == 0
    assert [
        [
            "fit",
            "--exp",
            "x",
            "--trainer.max_epochs=3",
            f"--seed_everything={n}",
            f"--data.seed={n}",
            f"--model.seed={n}",
        ]
        for n in (1, 2)
    ] == STARTED
    [file] = Path("runs/x/seeds").glob("*.json")
    told = json.loads(file.read_text())
    assert [run["seed"] for run in told["runs"]] == [1, 2]
    assert told["summary"]["val/miou"] == pytest.approx(
        {"mean": 0.75, "deviation": 0.05 * 2**0.5, "lowest": 0.7, "highest": 0.8, "runs": 2}
    )
    assert told["summary"]["val/iou_sky"]["mean"] == pytest.approx(0.25), "of the same validations"
    assert "0.7500" in capsys.readouterr().out


def test_a_seed_that_fails_does_not_take_the_others_along(capsys):
    assert main(["seeds", "--exp", "x", "--seeds", "1 4 2"]) == 1
    printed = " ".join(capsys.readouterr().out.split())
    assert "no result with seed 4" in printed
    assert "x, 2 seeds" in printed


def test_no_value_wins_no_validation():
    folder = train(["--model.seed=3"], {"model": {"class_path": "trimask.tasks.SemanticModule"}})[1]
    assert command.best_scores(folder)["val/miou"] == 0.9


def test_a_group_goes_on_with_no_run(capsys):
    """Or all seeds would write into one folder."""
    STARTED.clear()
    assert main(["seeds", "--exp", "x", "--seeds", "1,2", "--ckpt_path", "last"]) == 2
    assert "Each run of a group begins anew" in " ".join(capsys.readouterr().out.split())
    assert STARTED == []


def test_a_run_that_logged_nothing_has_no_result():
    folder = train(["--model.seed=1"], {"model": {"class_path": "trimask.tasks.SemanticModule"}})[1]
    folder.metrics.unlink()
    assert command.best_scores(folder) == {}


@pytest.mark.parametrize("given", ["", "1,1", "1,x", "-1"])
def test_what_is_no_list_of_seeds(given, capsys):
    assert main(["seeds", "--exp", "x", f"--seeds={given}"]) == 2
    assert "different whole numbers" in " ".join(capsys.readouterr().out.split())
