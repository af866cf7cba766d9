"""A network that is divided over two processes is the network that one process trains: losses, scores, checkpoints.

A vision transformer with everything that a recipe for large ones has: layer-wise rates, AdamW, clipped gradients, averaged
weights. No dropout: its draws differ from process to process.
"""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import trimask

pytestmark = pytest.mark.slow

PARTS = Path(__file__).with_name("processes")
CASE = {
    "data": {
        "dataset": {
            "class_path": "trimask.data.Shapes",
            "init_args": {"length": 13, "eval_length": 3, "size": [64, 64]},
        },
        "batch_size": 4,
        "eval_batch_size": 1,
        "num_workers": 0,
    },
    "model": {
        "class_path": "trimask.tasks.SemanticModule",
        "init_args": {
            "network": {
                "class_path": "trimask.networks.segmenter.Segmenter",
                "init_args": {"backbone": "test_vit", "pretrained": False, "decoder": "linear", "drop_path": 0.0},
            },
            "criterion": {
                "class_path": "trimask.losses.DenseCriterion",
                "init_args": {"terms": [{"class_path": "trimask.losses.CrossEntropy"}]},
            },
            "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.003, "weight_decay": 0.05}},
            "groups": {"layer_decay": 0.8},
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
        "gradient_clip_val": 0.5,
        "callbacks": [
            {"class_path": "trimask.run.ema.ExponentialMovingAverage", "init_args": {"decay": 0.9}},
            {"class_path": "watch.Held"},
            {"class_path": "watch.Killed"},
        ],
    },
    "run": {"panels": 0},
}
PICTURE = np.random.default_rng(0).integers(0, 255, (40, 50, 3), np.uint8)
STATES = ("state_dict", "current_model_state", "averaging_state", "optimizer_states", "lr_schedulers", "global_step")


def only(parent):
    [folder] = Path(parent).iterdir()
    return folder


def rows(run):
    with (run / "metrics.csv").open(newline="") as handle:
        return list(csv.DictReader(handle))


def states(run):
    """What last.ckpt holds, by its place: {"state_dict/network...": tensor or plain value}."""

    def walk(value, place):
        pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
        if pairs is None:
            return {place: value}
        return {name: leaf for key, part in pairs for name, leaf in walk(part, f"{place}/{key}").items()}

    checkpoint = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    found = {key: checkpoint[key] for key in STATES}
    return {place: value for place, value in walk(found, "").items() if not place.endswith("/fused")}  # of the machine


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The same training on one process ("alone"), on two that hold everything ("copies"), and on two that share it ("shares").
    The others end in the second epoch and go on: divided, divided no more, divided from now on."""
    one, two = [1, 2]
    names = ("alone", "copies", "shares", "killed", "unsharded", "sharded")
    fit = {name: ["fit", "--exp", f"{name}.yaml"] for name in names}
    on, last, ends = ["--with", "trainer/fsdp"], ["--ckpt_path", "last"], ({"END_BEFORE": "4"}, 9)
    off = "--trainer.strategy=auto"
    validate = ["validate", "--exp", "shares.yaml", *last]
    commands = [
        (one, fit["alone"], {}, 0),
        (two, fit["copies"], {}, 0),
        (two, [*fit["shares"], *on], {}, 0),
        (two, [*fit["killed"], *on], *ends),
        (two, [*fit["killed"], *last], {}, 0),
        (two, [*fit["unsharded"], *on], *ends),
        (one, [*fit["unsharded"], *last, off], {}, 0),
        (one, fit["sharded"], *ends),
        (two, [*fit["sharded"], *last, *on], {}, 0),
        (one, [*validate, off], {}, 0),
        (two, validate, {}, 0),
        (one, ["predict", "--run", "shares", "picture.png", "--out", "out"], {}, 0),
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("sharding"))
        for name in names:
            Path(f"{name}.yaml").write_text(yaml.safe_dump(CASE))
        Image.fromarray(PICTURE).save("picture.png")
        environment = {**os.environ, "WANDB_MODE": "disabled", "PYTHONPATH": str(PARTS)}
        command = [sys.executable, str(PARTS / "forked.py"), json.dumps(commands)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, done.stdout + done.stderr
        yield {name: only(f"runs/{name}") for name in names}


def test_each_process_holds_its_share(runs):
    held = {
        name: [json.loads(Path(f"held_{name}_{rank}.json").read_text()) for rank in (0, 1)]
        for name in ("copies", "shares")
    }
    whole = held["copies"][0]["weights"]
    assert held["copies"][1]["weights"] == whole
    for key in ("weights", "states", "average"):
        assert sum(one[key] for one in held["shares"]) == held["copies"][0][key], key
        assert max(one[key] for one in held["shares"]) < 0.6 * held["copies"][0][key], key


def assert_agree(run, other_run):
    """Every number of metrics.csv, to rounding."""
    assert len(rows(run)) == 6
    for one, other in zip(rows(run), rows(other_run), strict=True):
        assert {key for key in one if one[key]} == {key for key in other if other[key]}
        for key in filter(one.get, one):
            close = {"rel": 1e-5} if key.startswith(("train", "lr")) else {"abs": 1e-3, "nan_ok": True}
            assert float(other[key]) == pytest.approx(float(one[key]), **close), (one["step"], key)


@pytest.mark.parametrize("name", ["copies", "shares"])
def test_losses_and_scores_agree(runs, name):
    assert_agree(runs["alone"], runs[name])


def test_a_checkpoint_is_that_of_any_other_run(runs):
    alone, shares = states(runs["alone"]), states(runs["shares"])
    assert alone.keys() == shares.keys()
    for place, value in alone.items():
        if isinstance(value, torch.Tensor):
            assert (type(value), value.dtype, value.shape) == (
                type(shares[place]),
                shares[place].dtype,
                shares[place].shape,
            ), place
            assert torch.allclose(value.double(), shares[place].double(), atol=1e-4), place
        else:
            assert value == pytest.approx(shares[place]), place
    files = [{path.name for path in run.iterdir() if path.is_file()} for run in (runs["alone"], runs["shares"])]
    assert files[0] == files[1]


def test_a_killed_run_goes_on_to_the_last_digit(runs):
    assert rows(runs["killed"]) == rows(runs["shares"])
    continued = states(runs["killed"])
    for place, value in states(runs["shares"]).items():
        equal = torch.equal(value, continued[place]) if isinstance(value, torch.Tensor) else value == continued[place]
        assert equal, place


@pytest.mark.parametrize("name", ["unsharded", "sharded"])
def test_a_run_goes_on_divided_or_not_whatever_it_was(runs, name):
    assert_agree(runs["alone"], runs[name])


def test_one_process_measures_and_predicts_with_it(runs):
    one, two = (rows(run)[0] for run in sorted((runs["shares"] / "validate").iterdir()))
    trained = rows(runs["shares"])[-1]
    assert one == two
    assert {key: one[key] for key in one if key.startswith("val/")} == {
        key: trained[key] for key in one if key.startswith("val/")
    }
    assert list(Path("out").rglob("*.png"))
    [ours] = trimask.load(runs["shares"]).answers([PICTURE])
    [theirs] = trimask.load(runs["alone"]).answers([PICTURE])
    assert (ours.labels == theirs.labels).float().mean() > 0.99
