"""A whole journey from the command line: train, look at what is there, measure, predict, train again."""

import csv
import json
import logging
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

import trimask
from trimask.cli import main

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
EXPERIMENT = """
defaults: [trainer/default, data/shapes, model/fcn, optim/adamw_cosine]
data:
  dataset: {init_args: {length: 9, eval_length: 3, size: [64, 64]}}
  augment:
    - class_path: trimask.data.transforms.Warp
      init_args: {size: [48, 48], fit: native, flip: 0.5}
  batch_size: 4
  eval_batch_size: 2
  num_workers: 0
model:
  init_args:
    network: {init_args: {backbone: test_resnet, pretrained: false, channels: 16, aux_channels: 16}}
    criterion:
      class_path: trimask.losses.DenseCriterion
      init_args: {terms: [{class_path: trimask.losses.CrossEntropy}, {class_path: trimask.losses.Dice}]}
trainer: {accelerator: cpu, max_epochs: 3, log_every_n_steps: 1}
run: {panels: 2}
baseline: {none: a test}
"""
FIT = ["fit", "--exp", "small/shapes"]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A working directory with experiments/ and configs/ of its own, which is where the whole journey takes place."""
    folder = tmp_path_factory.mktemp("home")
    shutil.copytree(ROOT / "configs", folder / "configs")
    (folder / "experiments" / "small").mkdir(parents=True)
    (folder / "experiments" / "small" / "shapes.yaml").write_text(EXPERIMENT)
    return folder


@pytest.fixture(scope="module")
def run(home):
    """The first run, with W&B offline."""
    with pytest.MonkeyPatch.context() as patch:
        go_home(home, patch)
        patch.delenv("WANDB_MODE", raising=False)
        patch.delenv("WANDB_API_KEY", raising=False)
        patch.setenv("NETRC", str(home / "no-netrc"))
        patch.setattr("builtins.input", lambda *_: pytest.fail("a prompt"))
        patch.setattr(logging, "raiseExceptions", False)
        assert main(FIT) == 0
    [folder] = (home / "runs" / "small" / "shapes").iterdir()
    return folder


def go_home(home, patch):
    patch.chdir(home)
    patch.setenv("WANDB_MODE", "disabled")


@pytest.fixture(autouse=True)
def at_home(home, run, monkeypatch):
    go_home(home, monkeypatch)


def rows(file):
    with file.open(newline="") as handle:
        return list(csv.DictReader(handle))


def newest(folder):
    return max(folder.iterdir(), key=lambda path: path.name)


# --- what a run leaves behind ---


def test_config_is_resolved_and_older_than_the_first_step(run):
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["model"]["init_args"]["network"]["class_path"] == "trimask.networks.fcn.FCN"
    assert config["model"]["init_args"]["optimizer"]["init_args"]["weight_decay"] == 0.01, "from configs/optim"
    assert config["trainer"]["max_epochs"] == 3
    assert config["data"]["check_first"] == 512, "a default that nobody named"
    assert (run / "config.yaml").stat().st_mtime < (run / "metrics.csv").stat().st_mtime


def test_metrics(run):
    table = rows(run / "metrics.csv")
    columns = set(table[0])
    assert {"step", "train/loss", "val/miou", "val/iou_stripes", "val/iou_star", "val/pixel_accuracy"} <= columns
    assert any(column.startswith("lr/") for column in columns)
    assert sum(row["train/loss"] != "" for row in table) == 6
    assert sum(row["val/miou"] != "" for row in table) == 3
    assert [int(row["step"]) for row in table] == sorted({int(row["step"]) for row in table})


def test_checkpoints_and_weights(run):
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    best = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    weights = load_file(run / "best.safetensors")
    assert {f"network.{key}" for key in weights} == {key for key in best["state_dict"] if key.startswith("network.")}
    assert all(torch.equal(value, best["state_dict"][f"network.{key}"]) for key, value in weights.items())
    assert best["trimask"]["classes"]["names"][0] == "stripes"
    assert torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 6


def test_panels(run):
    assert len(list((run / "panels").iterdir())) == 2
    for file in (run / "panels").iterdir():
        assert Image.open(file).size[1] >= 64


def test_log_has_what_was_printed(run):
    text = (run / "log.txt").read_text()
    assert "FCN with" in text
    assert text.count("val/miou") == 3, "one line a validation, each once"
    assert "IoU" in text
    assert "stripes" in text
    assert "Traceback" not in text


def test_wandb_is_offline_and_has_the_nested_configuration(run):
    [offline] = (run / "wandb").glob("offline-run-*")
    assert offline.name.endswith((run / "wandb_id").read_text())
    recorded = b"".join(file.read_bytes() for file in offline.glob("*.wandb"))
    assert b"val/iou_stripes" in recorded
    assert b'{"class_path"' in recorded or b'"network":{' in recorded or b'"network": {' in recorded
    assert b"model/init_args" not in recorded, "flattened"


# --- measuring ---


@pytest.mark.parametrize("reference", [[], ["--ckpt_path", "best"]])
def test_validation_repeats_the_best_number_exactly(run, reference):
    assert main(["validate", "--exp", "small/shapes", *reference]) == 0
    best = max((row for row in rows(run / "metrics.csv") if row["val/miou"]), key=lambda row: float(row["val/miou"]))
    [measured] = rows(newest(run / "validate") / "metrics.csv")
    for name in ("val/miou", "val/pixel_accuracy", "val/iou_stripes"):
        assert measured[name] == best[name]


def test_a_test_of_the_last_checkpoint(run):
    checkpoint = run / "checkpoints" / "last.ckpt"
    assert main(["test", "--exp", "small/shapes", "--ckpt_path", str(checkpoint)]) == 0
    [measured] = rows(newest(run / "test") / "metrics.csv")
    assert 0 <= float(measured["test/miou"]) <= 1
    assert "IoU" in (newest(run / "test") / "log.txt").read_text()


def test_a_file_of_weights_is_measured_without_a_run(run, home):
    """The backbone names weights that nobody finds: they are not looked for, as the file has all."""
    backbone = "--model.network.pretrained=nowhere.pth"
    file = str(run / "best.safetensors")
    assert main(["validate", "--exp", "experiments/small/shapes.yaml", "--weights", file, backbone]) == 0
    measured = newest(home / "runs" / "shapes" / "validate")
    best = max(float(row["val/miou"]) for row in rows(run / "metrics.csv") if row["val/miou"])
    assert float(rows(measured / "metrics.csv")[0]["val/miou"]) == best
    assert yaml.safe_load((measured / "config.yaml").read_text())["model"]["init_args"]["pretrained"] == file
    assert not (measured / "checkpoints").exists()


# --- predicting ---


@pytest.fixture
def pictures(home):
    folder = home / "pictures"
    folder.mkdir(exist_ok=True)
    random = np.random.default_rng(0)
    for name, size in {"a": (40, 70), "b": (64, 64), "c": (40, 70)}.items():
        Image.fromarray(random.integers(0, 256, (*size, 3), dtype=np.uint8)).save(folder / f"{name}.png")
    return folder


def test_predictions(run, pictures, tmp_path, capsys):
    out = tmp_path / "out"
    options = ["--out", str(out), "--scores", "--batch_size", "2", "--device", "cpu"]
    assert main(["predict", "--run", str(run), str(pictures), *options]) == 0
    names = [f"{name}_{kind}" for name in "abc" for kind in ("mask.png", "overlay.png", "scores.npz")]
    assert {file.name for file in out.iterdir()} == {"predictions.json", *names}
    summary = json.loads((out / "predictions.json").read_text())
    assert summary["classes"]["names"][0] == "stripes"
    pipeline = trimask.load(run, device="cpu")
    for row, answer in zip(summary["pictures"], pipeline.answers(sorted(pictures.iterdir()), scores=True), strict=True):
        mask = Image.open(out / row["mask"])
        assert mask.mode == "P"
        assert mask.getpalette()[:21] == pipeline.classes.colors.ravel().tolist()
        ids = np.asarray(mask)
        assert row["size"] == list(ids.shape)
        assert (ids == answer.labels.numpy()).all()
        assert sum(region["pixels"] for region in row["regions"]) == ids.size
        stem = row["mask"].removesuffix("_mask.png")
        scores = np.load(out / f"{stem}_scores.npz")["scores"]
        assert np.abs(scores / 255 - answer.scores.numpy()).max() <= 0.5 / 255 + 1e-3
        assert Image.open(out / f"{stem}_overlay.png").size == mask.size
    before = {file: file.stat().st_mtime_ns for file in out.iterdir()}
    assert main(["predict", "--run", str(run), str(pictures), *options]) == 2
    assert "exists" in capsys.readouterr().out
    assert before == {file: file.stat().st_mtime_ns for file in out.iterdir()}
    assert main(["predict", "--run", "small/shapes", str(pictures / "a.png"), *options, "--overwrite"]) == 0


def test_the_checkpoint_needs_nothing_else(run, pictures, tmp_path, monkeypatch):
    shutil.copy(run / "checkpoints" / "best.ckpt", tmp_path / "elsewhere.ckpt")
    expected = trimask.load(run)(pictures / "a.png")
    monkeypatch.chdir(tmp_path)
    found = trimask.load(tmp_path / "elsewhere.ckpt")(pictures / "a.png")
    assert [(entry["label"], entry["score"]) for entry in found] == [
        (entry["label"], entry["score"]) for entry in expected
    ]


# --- further runs ---


def state(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_a_second_run_touches_nothing_of_the_first(run):
    before = state(run)
    assert main([*FIT, "--with", "trainer/fast", "--model.optimizer.lr=0.5"]) == 0
    second = newest(run.parent)
    assert second != run
    assert state(run) == before
    config = yaml.safe_load((second / "config.yaml").read_text())
    assert config["trainer"]["limit_train_batches"] == 2, "from the fragment"
    assert config["model"]["init_args"]["optimizer"]["init_args"]["lr"] == 0.5, "an option wins over all files"
    assert not (second / "wandb").exists()
    shutil.rmtree(second)


def test_averaged_weights_are_validated_and_best(run):
    assert main([*FIT, "--with", "callbacks/ema", "--trainer.max_epochs=2"]) == 0
    averaged = newest(run.parent)
    best = torch.load(averaged / "checkpoints" / "best.ckpt", weights_only=True)
    weights = load_file(averaged / "best.safetensors")
    raw = best["current_model_state"]
    assert all(torch.equal(value, best["state_dict"][f"network.{key}"]) for key, value in weights.items())
    assert any(not torch.equal(value, raw[f"network.{key}"]) for key, value in weights.items())
    assert main(["validate", "--exp", "small/shapes"]) == 0
    [measured] = rows(newest(averaged / "validate") / "metrics.csv")
    scores = [float(row["val/miou"]) for row in rows(averaged / "metrics.csv") if row["val/miou"]]
    assert float(measured["val/miou"]) == max(scores)
    shutil.rmtree(averaged)


@pytest.mark.parametrize(
    "options",
    [
        ["--trainer.fast_dev_run=true"],
        ["--trainer.logger=false"],
        ["--trainer.limit_val_batches=0"],
        ["--trainer.logger=lightning.pytorch.loggers.CSVLogger", "--trainer.logger.save_dir=own"],
        ["--run.panels=0", "--trainer.enable_progress_bar=false"],
    ],
)
def test_settings_of_the_trainer(run, options):
    assert main([*FIT, "--with", "trainer/fast", *options]) == 0
    shutil.rmtree(newest(run.parent))


def test_an_interrupted_run_says_where_to_go_on(run, monkeypatch, capsys):
    def interrupt(self, trainer, module, outputs, batch, batch_idx):
        if trainer.global_step == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr("trimask.run.callbacks.LearningRates.on_train_batch_end", interrupt)
    monkeypatch.setattr("signal.signal", lambda *_: None)  # Lightning switches Ctrl-C off, here for all later tests
    assert main(FIT) == 130
    stopped = newest(run.parent)
    text = " ".join(capsys.readouterr().out.split())
    assert "interrupted at step 3" in text
    assert str(stopped.relative_to(run.parents[3]) / "checkpoints" / "last.ckpt") in text.replace(" ", "")
    shutil.rmtree(stopped)


# --- looking ---


def test_the_list(capsys):
    assert main(["list"]) == 0
    printed = capsys.readouterr().out
    for part in ("small/shapes", "published", "a test"):
        assert part in printed


def test_the_configuration_is_printed(capsys):
    with pytest.raises(SystemExit) as stop:
        main([*FIT, "--print_config"])
    assert stop.value.code == 0
    config = yaml.safe_load(capsys.readouterr().out)
    assert config["model"]["init_args"]["network"]["init_args"]["channels"] == 16
    assert config["trainer"]["max_epochs"] == 3


def test_help(capsys):
    assert main([]) == 0
    assert "fit       --exp NAME" in capsys.readouterr().out


def test_everything_stays_in_the_working_directory(home):
    assert {path.name for path in home.iterdir()} <= {"configs", "experiments", "runs", "pictures", "own"}
    assert os.getcwd() == str(home)
