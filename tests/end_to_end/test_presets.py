"""`--with trainer/overfit` and `--with trainer/profile`, from the command line."""

import gzip
import json
import os
import re
from pathlib import Path

import pytest
import yaml

from trimask.cli import main

pytestmark = pytest.mark.slow

CASE = {
    "defaults": ["trainer/default"],
    "data": {
        "dataset": {
            "class_path": "trimask.data.Shapes",
            "init_args": {"length": 16, "eval_length": 2, "size": [32, 32]},
        },
        "batch_size": 2,
        "num_workers": 0,
        "augment": [
            {
                "class_path": "trimask.data.transforms.Warp",
                "init_args": {"size": [32, 32], "scale": [0.5, 2.0], "flip": 0.5},
            },
        ],
    },
    "model": {
        "class_path": "trimask.tasks.SemanticModule",
        "init_args": {
            "network": {
                "class_path": "trimask.networks.fcn.FCN",
                "init_args": {"backbone": "test_resnet", "pretrained": False, "channels": 16, "aux_channels": 16},
            },
            "criterion": {
                "class_path": "trimask.losses.DenseCriterion",
                "init_args": {"terms": [{"class_path": "trimask.losses.CrossEntropy"}]},
            },
            "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.01}},
        },
    },
    "trainer": {"accelerator": "cpu", "devices": 1, "max_epochs": 30},
    "run": {"panels": 0},
}


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    Path("case.yaml").write_text(yaml.safe_dump(CASE))

    def fit(*options):
        assert main(["fit", "--exp", "case.yaml", *options]) == 0
        [folder] = os.scandir("runs/case")
        return Path(folder.path)

    return fit


@pytest.mark.parametrize(
    ("score", "said"), [(0.22, "overfit: reached. val/miou"), (1.0, "overfit: NOT reached. val/miou")]
)
def test_overfit(run, score, said):
    fragment = yaml.safe_load((Path(__file__).parents[2] / "configs/trainer/overfit.yaml").read_text())
    callbacks = fragment["trainer"]["callbacks"]
    callbacks[0]["init_args"]["score"] = score
    options = [
        "--trainer.max_epochs=40",
        "--trainer.check_val_every_n_epoch=10",
        f"--trainer.callbacks={json.dumps(callbacks)}",
    ]
    folder = run("--with", "trainer/overfit", *options)
    log = (folder / "log.txt").read_text()
    assert said in log
    assert "4 pictures to train and 4 to validate" in log
    assert len((folder / "pictures.csv").read_text().splitlines()) == 5
    steps = int(re.search(r"overfit: .* after (\d+) steps on the 4 pictures", log)[1])
    assert steps in (10, 20, 30, 40)
    if score < 1:
        assert "train-00015" in (folder / "pictures.csv").read_text()


def test_profile(run):
    options = ["--trainer.limit_train_batches=8", "--trainer.profiler.init_args.steps=4"]
    folder = run("--with", "trainer/profile", *options, "--trainer.profiler.init_args.warmup=1")
    text = (folder / "profile" / "step.txt").read_text()
    rows = dict(re.findall(r"│ (\w[^│]*?) +│ +([\d.]+) │ +[\d.]+% │", text))
    assert list(rows) == [
        "wait for data",
        "move to the device",
        "forward",
        "loss",
        "backward",
        "optimizer",
        "rest: logging, checks, callbacks",
    ]
    total = float(re.search(r"pictures/s a device +│ +([\d.]+)", text)[1])
    assert sum(map(float, rows.values())) == pytest.approx(total, abs=0.5)
    assert min(float(rows[name]) for name in ("wait for data", "forward", "backward", "optimizer")) > 0
    assert text in (folder / "log.txt").read_text()
    assert "convolution" in (folder / "profile" / "operations.txt").read_text()
    events = json.loads(gzip.decompress((folder / "profile" / "trace.json.gz").read_bytes()))["traceEvents"]
    assert sum(event["name"].startswith("Optimizer.step") for event in events) == 3


def test_profile_of_a_run_that_is_too_short(run):
    folder = run("--with", "trainer/profile", "--trainer.limit_train_batches=2")
    assert "nothing was timed" in (folder / "log.txt").read_text()
