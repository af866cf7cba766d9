"""The same run on one process, two and three: the same pictures a step, the same scores to the pixel, one folder.

Where nothing is trained, every number and every picture's record is equal to the last bit. In training, sums over pictures run
in another order, and the losses agree to rounding.
"""

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file

pytestmark = pytest.mark.slow

PARTS = Path(__file__).with_name("processes")
CASE = {
    "data": {
        "dataset": {
            "class_path": "trimask.data.Shapes",
            "init_args": {"length": 19, "eval_length": 7, "size": [64, 64]},
        },
        "batch_size": 6,
        "eval_batch_size": 2,
        "num_workers": 0,
        "augment": [
            {
                "class_path": "trimask.data.transforms.Warp",
                "init_args": {"size": [48, 48], "scale": [1.0, 2.0], "flip": 0.5},
            },
            {"class_path": "albumentations.GaussNoise", "init_args": {"p": 0.5}},
        ],
    },
    "model": {
        "class_path": "trimask.tasks.SemanticModule",
        "init_args": {
            "network": {"class_path": "plain.Plain"},
            "criterion": {
                "class_path": "trimask.losses.DenseCriterion",
                "init_args": {"terms": [{"class_path": "trimask.losses.CrossEntropy"}]},
            },
            "optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1, "momentum": 0.9}},
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
        "callbacks": [{"class_path": "watch.Seen"}],
    },
    "run": {"panels": 2},
}
TWO = ["--trainer.devices=2", "--trainer.strategy=ddp"]


def told(task, num_pictures):
    """A case whose network answers from memory, and is not trained."""
    dataset = {"class_path": "trimask.data.Shapes", "init_args": {"eval_length": num_pictures, "size": [64, 64]}}
    network = {"class_path": "told.Told", "init_args": {"length": num_pictures}}
    return {
        "data": {"dataset": dataset, "eval_batch_size": 2, "num_workers": 0},
        "model": {
            "class_path": f"trimask.tasks.{task}",
            "init_args": {"network": network, "criterion": {"class_path": "trimask.losses.QueryCriterion"}},
        },
        "trainer": {"accelerator": "cpu", "devices": 1},
        "run": {"panels": 2},
    }


def python(*arguments):
    environment = {**os.environ, "WANDB_MODE": "disabled", "PYTHONPATH": str(PARTS)}
    done = subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr


def forked(*commands):
    """Runs commands, each with its number of processes."""
    python(str(PARTS / "forked.py"), json.dumps(commands))


def rows(run):
    with (run / "metrics.csv").open(newline="") as handle:
        return list(csv.DictReader(handle))


def only(parent):
    [folder] = parent.iterdir()
    return folder


def seen(pattern, num_processes):
    """(stage, step) -> the pictures of all processes, sorted."""
    pictures = {}
    for rank in range(num_processes):
        for line in Path(pattern.format(rank)).read_text().splitlines():
            stage, step, *names = line.split(" ")
            pictures.setdefault((stage, step), []).extend(names)
    return {key: sorted(names) for key, names in pictures.items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The working folder of all of these tests."""
    folder = tmp_path_factory.mktemp("processes")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield folder


@pytest.fixture(scope="module")
def runs(folder):
    """The folders of a run on one and three processes, on two that Lightning starts, and on two that torchrun starts."""
    names = ("one", "three", "two", "torchrun")
    for name in names:
        Path(f"{name}.yaml").write_text(yaml.safe_dump(CASE))
    forked((1, ["fit", "--exp", "one.yaml"]), (3, ["fit", "--exp", "three.yaml"]))
    python("-m", "trimask", "fit", "--exp", "two.yaml", *TWO)
    for file in Path().glob("seen_2*"):
        file.rename(file.name.replace("seen", "lightning"))
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "trimask"]
    python(*launcher, "fit", "--exp", "torchrun.yaml", *TWO)
    return {name: list(Path("runs", name).iterdir()) for name in names}


def test_a_run_has_one_folder_however_its_processes_are_started(runs):
    for name, folders in runs.items():
        assert len(folders) == 1, name
        [folder] = folders
        assert [row["step"] for row in rows(folder)] == [str(step) for step in range(6)]
        assert sorted(path.name for path in folder.iterdir()) == sorted(path.name for path in runs["one"][0].iterdir())
        assert (folder / "log.txt").read_text().count("pictures to train") == 1


@pytest.mark.parametrize(("pattern", "world"), [("lightning_2_{}.txt", 2), ("seen_2_{}.txt", 2), ("seen_3_{}.txt", 3)])
def test_a_step_sees_the_same_pictures_and_a_validation_sees_each_once(runs, pattern, world):
    alone, together = seen("seen_1_{}.txt", 1), seen(pattern, world)
    assert len(alone) == 8
    assert together == alone
    for (stage, _), names in alone.items():
        assert len(set(names)) == len(names) == (6 if stage == "train" else 7)


@pytest.mark.parametrize("name", ["two", "three", "torchrun"])
def test_losses_and_scores_agree(runs, name):
    """Every pixel is labelled here, so that the mean of the processes' means is the mean; sums run in another order."""
    for one, other in zip(rows(runs["one"][0]), rows(runs[name][0]), strict=True):
        assert {key for key in one if one[key]} == {key for key in other if other[key]}
        for key in filter(one.get, one):
            close = {"rel": 1e-5} if key.startswith(("train", "lr")) else {"abs": 1e-3, "nan_ok": True}
            assert float(other[key]) == pytest.approx(float(one[key]), **close), (one["step"], key)


def assert_same_evaluation(one, other):
    """Every number, digit for digit, and what is kept of each picture."""
    for name in ("metrics.csv", "pictures.csv"):
        assert (one / name).read_text() == (other / name).read_text(), name
    with np.load(one / "pictures.npz") as first, np.load(other / "pictures.npz") as second:
        assert set(first) == set(second)
        for key in first:
            np.testing.assert_array_equal(first[key], second[key], err_msg=key)
    assert texts(one) == texts(other)


def texts(run):
    """The report without its pictures, of which the first process shows some of its own, and the table of log.txt."""
    page = re.sub(r"<img[^>]*>", "", (run / "report.html").read_text()).replace(str(run), "")
    return page.count("<tr"), [line for line in (run / "log.txt").read_text().splitlines() if "│" in line]


def test_a_checkpoint_scores_the_same_to_the_last_digit(runs):
    last = runs["one"][0] / "checkpoints" / "last.ckpt"
    forked(*((world, ["validate", "--ckpt_path", str(last)]) for world in (1, 2, 3)))
    first, *others = sorted((runs["one"][0] / "validate").iterdir())
    assert len(others) == 2
    for other in others:
        assert_same_evaluation(first, other)
    trained = [row["val/miou"] for row in rows(runs["one"][0]) if row["val/miou"]]
    assert rows(first)[0]["val/miou"] == trained[-1]


# 7 pictures in batches of 2: 4 batches; 2 and 2; 2, 1 and 1. Of 2 pictures, one process of three gets none.
TASKS = {"SemanticModule": "miou", "InstanceModule": "map", "PanopticModule": "pq"}
WORLDS = {7: (1, 2, 3), 2: (1, 3)}


@pytest.fixture(scope="module")
def measured(folder):
    """(task, number of pictures) -> the evaluations of the same network, by the number of processes."""
    save_file({"sharpness": torch.tensor(4.0)}, "told.safetensors")
    commands = []
    for task in TASKS:
        for number, worlds in WORLDS.items():
            name = f"{task}-{number}"
            Path(f"{name}.yaml").write_text(yaml.safe_dump(told(task, number)))
            options = ["validate", "--exp", f"{name}.yaml", "--weights", "told.safetensors", "--as"]
            commands += [(world, [*options, f"{name}/{world}"]) for world in worlds]
    forked(*commands)
    return {
        (task, number): {world: only(Path(f"runs/{task}-{number}/{world}/validate")) for world in worlds}
        for task in TASKS
        for number, worlds in WORLDS.items()
    }


@pytest.mark.parametrize("number", WORLDS)
@pytest.mark.parametrize("task", TASKS)
def test_confusion_ap_and_pq_are_those_of_one_process(measured, task, number):
    alone, *others = measured[task, number].values()
    [row] = rows(alone)
    assert 0.1 < float(row[f"val/{TASKS[task]}"]) < 0.9
    assert len(np.load(alone / "pictures.npz")["names"]) == number
    for other in others:
        assert_same_evaluation(alone, other)


def test_validation_in_training_measures_what_the_checkpoint_holds(folder):
    """With running statistics, which differ from process to process until they are told the first one's, and with a process
    for whom no picture is left."""
    case = yaml.safe_load(yaml.safe_dump(CASE))
    case["model"]["init_args"]["network"]["init_args"] = {"norm": True}
    case["data"]["dataset"]["init_args"]["eval_length"] = 2
    Path("norm.yaml").write_text(yaml.safe_dump(case))
    forked((3, ["fit", "--exp", "norm.yaml"]))
    run = only(Path("runs/norm"))
    forked((1, ["validate", "--ckpt_path", f"{run}/checkpoints/last.ckpt"]))
    trained, [measured] = rows(run)[-1], rows(only(run / "validate"))
    scores = [key for key in measured if key.startswith("val/")]
    assert len(scores) > 5
    assert {key: trained[key] for key in scores} == {key: measured[key] for key in scores}
