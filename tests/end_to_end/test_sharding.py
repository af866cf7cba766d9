"""A network that is divided over two processes is the network that one process trains: losses, scores, checkpoints.

A vision transformer with everything that a recipe for large ones has: layer-wise rates, AdamW, clipped gradients, averaged
weights. No dropout: its draws differ from process to process.
"""

import csv
import json
import os
import shutil
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
SHARDED = ["--with", "trainer/fsdp"]
STATES = ("state_dict", "current_model_state", "averaging_state", "optimizer_states", "lr_schedulers", "global_step")


def forked(*commands, ends=0, **environment):
    """Runs commands, each with its number of processes."""
    environment = {**os.environ, "WANDB_MODE": "disabled", "PYTHONPATH": str(PARTS), **environment}
    command = [sys.executable, str(PARTS / "forked.py"), json.dumps(commands)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == ends, done.stdout + done.stderr


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
    """The same training on one process, on two that hold everything, on two that share it, and on two that are killed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("sharding"))
        names = ("alone", "copies", "shares", "killed")
        for name in names:
            Path(f"{name}.yaml").write_text(yaml.safe_dump(CASE))
        fit = {name: ["fit", "--exp", f"{name}.yaml"] for name in names}
        forked((1, fit["alone"]), (2, fit["copies"]), (2, [*fit["shares"], *SHARDED]))
        forked((2, [*fit["killed"], *SHARDED]), ends=9, END_BEFORE="4")
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


@pytest.mark.parametrize("name", ["copies", "shares"])
def test_losses_and_scores_agree(runs, name):
    assert len(rows(runs["alone"])) == 6
    for one, other in zip(rows(runs["alone"]), rows(runs[name]), strict=True):
        assert {key for key in one if one[key]} == {key for key in other if other[key]}
        for key in filter(one.get, one):
            close = {"rel": 1e-5} if key.startswith(("train", "lr")) else {"abs": 1e-3, "nan_ok": True}
            assert float(other[key]) == pytest.approx(float(one[key]), **close), (one["step"], key)


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
    files = [sorted(path.relative_to(run) for path in run.rglob("*") if path.is_file()) for run in runs.values()]
    assert files[0] == files[2]


def test_a_killed_run_goes_on_to_the_last_digit(runs):
    kept = Path("kept")
    shutil.copytree(runs["killed"], kept)
    forked((2, ["fit", "--ckpt_path", f"{runs['killed']}/checkpoints/last.ckpt"]))
    assert rows(runs["killed"]) == rows(runs["shares"])
    continued = states(runs["killed"])
    for place, value in states(runs["shares"]).items():
        equal = torch.equal(value, continued[place]) if isinstance(value, torch.Tensor) else value == continued[place]
        assert equal, place


def test_a_run_goes_on_without_sharding_and_the_other_way_round(runs):
    """Both behind the first epoch."""
    shutil.copytree("kept", "runs/again/unsharded")
    forked((1, ["fit", "--ckpt_path", "runs/again/unsharded/checkpoints/last.ckpt", "--trainer.strategy=auto"]))
    forked((1, ["fit", "--exp", "killed.yaml", "--as", "once/more"]), ends=9, END_BEFORE="4")
    unsharded = only("runs/once/more")
    forked((2, ["fit", "--ckpt_path", f"{unsharded}/checkpoints/last.ckpt", *SHARDED]))
    for run in (Path("runs/again/unsharded"), unsharded):
        for one, other in zip(rows(runs["shares"]), rows(run), strict=True):
            assert float(other["train/loss"]) == pytest.approx(float(one["train/loss"]), rel=1e-5), run


def test_one_process_reads_it(runs):
    forked(
        (1, ["validate", "--ckpt_path", f"{runs['shares']}/checkpoints/last.ckpt", "--trainer.strategy=auto"]),
        (2, ["validate", "--ckpt_path", f"{runs['shares']}/checkpoints/last.ckpt"]),
    )
    one, two = (rows(run)[0] for run in sorted((runs["shares"] / "validate").iterdir()))
    assert one == two
    trained = rows(runs["shares"])[-1]
    assert {key: trained[key] for key in one if key.startswith("val/")} == {
        key: one[key] for key in one if key.startswith("val/")
    }
    picture = np.random.default_rng(0).integers(0, 255, (40, 50, 3), np.uint8)
    Image.fromarray(picture).save("picture.png")
    forked((1, ["predict", "--run", str(runs["shares"]), "picture.png", "--out", "out"]))
    assert list(Path("out").rglob("*.png"))
    [ours] = trimask.load(runs["shares"]).answers([picture])
    [theirs] = trimask.load(runs["alone"]).answers([picture])
    assert (ours.labels == theirs.labels).float().mean() > 0.99
