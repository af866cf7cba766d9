"""From the command line: a run that is judged by its worst slice, what it tells of slices, and the temperature of its scores."""

import csv
import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import trimask
from trimask.cli import main
from trimask.metrics import bootstrap_intervals
from trimask.metrics.pictures import load

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
# Every third picture is dim. tagged.py lies in the working folder.
TAGGED = """
from dataclasses import replace
from trimask.data import Shapes

class Tagged(Shapes):
    def __getitem__(self, index):
        sample = super().__getitem__(index)
        dim = index % 3 == 0
        return replace(sample, image=sample.image // 3 if dim else sample.image, meta={"light": "dim" if dim else "bright"})
"""
EXPERIMENT = """
defaults: [trainer/default, model/fcn, optim/adamw_cosine]
data:
  dataset: {class_path: tagged.Tagged, init_args: {length: 24, eval_length: 9, size: [64, 64]}}
  augment:
    - class_path: trimask.data.transforms.Warp
      init_args: {size: [48, 48], fit: native, flip: 0.5}
  batch_size: 4
  eval_batch_size: 2
  num_workers: 0
model:
  class_path: trimask.tasks.SemanticModule
  init_args:
    network: {init_args: {backbone: test_resnet, pretrained: false, channels: 16, aux_channels: 16}}
    criterion:
      class_path: trimask.losses.DenseCriterion
      init_args: {terms: [{class_path: trimask.losses.CrossEntropy}]}
    optimizer: {init_args: {lr: 0.02}}
    measures:
      - trimask.metrics.Calibration
      - {class_path: trimask.metrics.TrimapIoU, init_args: {widths: [2]}}
      - trimask.metrics.ObjectSize
      - trimask.metrics.OverUnderSegmentation
    slices: {tags: [light], min_pictures: 3}
trainer: {accelerator: cpu, max_epochs: 4, log_every_n_steps: 1}
run: {panels: 1, monitor: val/miou_worst_slice}
baseline: {none: a test}
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("home")
    shutil.copytree(ROOT / "configs", folder / "configs")
    (folder / "experiments").mkdir()
    (folder / "experiments" / "tagged.yaml").write_text(EXPERIMENT)
    (folder / "tagged.py").write_text(TAGGED)
    return folder


@pytest.fixture(autouse=True)
def at_home(home, monkeypatch):
    go_home(home, monkeypatch)


def go_home(home, patch):
    patch.chdir(home)
    patch.syspath_prepend(str(home))
    patch.setenv("WANDB_MODE", "disabled")
    patch.setattr(logging, "raiseExceptions", False)


@pytest.fixture(scope="module")
def run(home):
    with pytest.MonkeyPatch.context() as patch:
        go_home(home, patch)
        assert main(["fit", "--exp", "tagged"]) == 0
    [folder] = (home / "runs" / "tagged").iterdir()
    return folder


def rows(file):
    with file.open(newline="") as handle:
        return list(csv.DictReader(handle))


def test_the_best_checkpoint_is_that_of_the_best_worst_slice(run):
    logged = [row for row in rows(run / "metrics.csv") if row["val/miou"]]
    worst = [float(row["val/miou_worst_slice"]) for row in logged]
    assert len(worst) == 4
    for row, value in zip(logged, worst, strict=True):
        assert value == min(float(row["val/miou_light_bright"]), float(row["val/miou_light_dim"]))
    best = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    assert best["global_step"] == 6 * (1 + int(np.argmax(worst)))


def test_what_is_told_of_slices_and_measures(run):
    last = rows(run / "metrics.csv")[-1]
    table = {row["value"]: row for row in rows(run / "slices.csv")}
    assert {value: row["pictures"] for value, row in table.items()} == {"bright": "6", "dim": "3"}
    for value, row in table.items():
        assert float(row["miou"]) == pytest.approx(float(last[f"val/miou_light_{value}"]), rel=1e-6)
        assert 0 <= float(row["ece"]) <= 1
    text, page = (run / "log.txt").read_text(), (run / "report.html").read_text()
    for told in ("light", "worst", "ece", "miou_band_2px", "recall_small", "rum"):
        assert told in text
        assert told in page
    assert Image.open(run / "reliability.png").size[0] > 300


def test_what_is_kept_of_pictures_has_the_measures(run):
    kept = load(run / "pictures.npz")
    best = max(
        (row for row in rows(run / "metrics.csv") if row["val/miou"]), key=lambda r: float(r["val/miou_worst_slice"])
    )
    for name in ("miou", "ece", "nll", "miou_band_2px", "rom"):
        assert kept.scores()[name] == pytest.approx(float(best[f"val/{name}"]), rel=1e-5)
    low, high = bootstrap_intervals(kept)["ece"]
    assert low <= high


def test_a_temperature_is_found_told_and_used(run, home, capsys):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)).save(home / "a.png")
    plain = next(trimask.load(run).answers(["a.png"], scores=True))
    assert main(["calibrate", "tagged"]) == 0
    assert "predict and trimask.load use it" in " ".join(capsys.readouterr().out.split())
    told = json.loads((run / "calibration.json").read_text())
    assert told["after"] != told["before"]
    assert told["before"]["ece"] == pytest.approx(load(run / "pictures.npz").scores()["ece"], abs=1e-4)
    assert len(told["halves"]) == 2
    assert (run / "calibration.png").is_file()
    pipeline = trimask.load(run)
    assert pipeline.module.temperature == told["temperature"] != 1
    tempered = next(pipeline.answers(["a.png"], scores=True))
    assert torch.equal(tempered.labels, plain.labels)
    torch.testing.assert_close(tempered.scores, (plain.scores.log() / told["temperature"]).softmax(0))
    assert trimask.load(run, temperature=1.0).module.temperature == 1
    assert main(["predict", "--run", "tagged", "a.png", "--out", "out"]) == 0
    assert json.loads((home / "out" / "predictions.json").read_text())["temperature"] == told["temperature"]
    again = (run / "calibration.json").read_text()
    assert main(["calibrate", str(run / "checkpoints" / "best.ckpt")]) == 0
    assert (run / "calibration.json").read_text() == again, "to the last digit"
    (run / "calibration.json").write_text(json.dumps(told | {"step": told["step"] + 1}))
    assert trimask.load(run).module.temperature == 1, "of another checkpoint"


def test_measuring_with_the_temperature(run):
    assert main(["calibrate", "tagged"]) == 0
    told = json.loads((run / "calibration.json").read_text())
    best = str(run / "checkpoints" / "best.ckpt")
    assert main(["validate", "--ckpt_path", best, f"--model.temperature={told['temperature']}"]) == 0
    [folder] = (run / "validate").iterdir()
    [logged] = rows(folder / "metrics.csv")
    assert float(logged["val/nll"]) < told["before"]["nll"]
    assert float(logged["val/miou"]) == pytest.approx(load(run / "pictures.npz").scores()["miou"], abs=1e-4)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            ["fit", "--exp", "tagged", "--model.slices.tags=[weather]"],
            "asks for the tag 'weather', which none of the pictures",
        ),
        (
            ["fit", "--exp", "tagged", "--model.measures=[trimask.metrics.InstanceCalibration]"],
            "measures answers to instances",
        ),
        (["fit", "--exp", "tagged", "--model.measures=[trimask.metrics.Calibratoin]"], "'Calibratoin'"),
        (["calibrate", "nothing"], "No run of nothing has a best.ckpt"),
        (["calibrate", "tagged", "--data.lenght=3"], "did you mean"),
        (["calibrate", "tagged", "--device", "cud"], "There is no device 'cud' here"),
    ],
)
def test_mistakes_end_in_a_sentence(run, options, sentence, capsys):
    assert main(options) == 2
    assert sentence in " ".join(capsys.readouterr().out.split())
