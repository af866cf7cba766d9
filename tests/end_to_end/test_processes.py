"""The same run on one process, two and three: the same pictures a step, the same scores to the pixel, one folder.

Where nothing is trained, every number and every picture's record is equal to the last bit. In training, sums over pictures run
in another order, and the losses agree to rounding.
"""

import csv
import json
import os
import re
import socket
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
LAUNCH = Path(__file__).parents[2] / "configs" / "launch"
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
MEASURES = {
    "SemanticModule": ("Calibration", "TrimapIoU", "ObjectSize", "OverUnderSegmentation"),
    "InstanceModule": ("InstanceCalibration",),
}
TWO = ["--trainer.devices=2", "--trainer.strategy=ddp"]
# As a trial of a sweep is told: a file of values, plain ones and whole blocks.
VALUES = {
    "data.seed": 0,
    "model.optimizer.lr": 0.1,
    "model.criterion": CASE["model"]["init_args"]["criterion"],
    "trainer.gradient_clip_val": None,
}


def told(task, num_pictures):
    """A case whose network answers from memory, and is not trained. Further measures are asked for, too."""
    dataset = {"class_path": "trimask.data.Shapes", "init_args": {"eval_length": num_pictures, "size": [64, 64]}}
    network = {"class_path": "told.Told", "init_args": {"length": num_pictures}}
    return {
        "data": {"dataset": dataset, "eval_batch_size": 2, "num_workers": 0},
        "model": {
            "class_path": f"trimask.tasks.{task}",
            "init_args": {
                "network": network,
                "criterion": {"class_path": "trimask.losses.QueryCriterion"},
                "measures": [{"class_path": f"trimask.metrics.{name}"} for name in MEASURES.get(task, ())],
            },
        },
        "trainer": {"accelerator": "cpu", "devices": 1},
        "run": {"panels": 2},
    }


def otherwise():
    """The training case with other values, which become the same again by `VALUES`: on all processes, or losses differ."""
    case = yaml.safe_load(yaml.safe_dump(CASE))
    case["model"]["init_args"]["optimizer"]["init_args"]["lr"] = 0.3
    case["model"]["init_args"]["criterion"]["init_args"]["terms"] = [{"class_path": "trimask.losses.Dice"}]
    case["data"]["seed"] = 5
    return case


def with_norm():
    """The training case with running statistics, and with a process of three for whom no picture is left in validation."""
    case = yaml.safe_load(yaml.safe_dump(CASE))
    case["model"]["init_args"]["network"]["init_args"] = {"norm": True}
    case["data"]["dataset"]["init_args"]["eval_length"] = 2
    return case


def python(*arguments):
    # One thread: on more of them a network itself rounds otherwise where pictures share a batch, and scores are compared to the
    # last digit.
    environment = {**os.environ, "WANDB_MODE": "disabled", "PYTHONPATH": str(PARTS), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr


def on_two_machines(experiment):
    told = {"NODES": "2", "PROCESSES": "1", "HEAD": f"127.0.0.1:{free_port()}", "ADDRESS": "127.0.0.1"}
    told |= {"PYTHON": sys.executable, "WANDB_MODE": "disabled", "PYTHONPATH": str(PARTS)}
    command = ["bash", str(LAUNCH / "torchrun.sh"), experiment]
    output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    machines = [subprocess.Popen(command, env={**os.environ, **told}, **output) for _ in range(2)]
    said = [machine.communicate(timeout=500)[0] for machine in machines]
    assert [machine.returncode for machine in machines] == [0, 0], "\n".join(said)


def free_port():
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        return place.getsockname()[1]


def rows(run):
    with (run / "metrics.csv").open(newline="") as handle:
        return list(csv.DictReader(handle))


def only(parent):
    [folder] = parent.iterdir()
    return folder


def contents(run):
    """The names in a run's folder, but for that of its later evaluations."""
    return {path.name for path in run.iterdir()} - {"validate"}


def seen(experiment, num_processes):
    """(stage, step) -> the pictures of all processes, sorted."""
    pictures = {}
    for rank in range(num_processes):
        for line in Path(f"seen_{experiment}_{rank}.txt").read_text().splitlines():
            stage, step, *names = line.split(" ")
            pictures.setdefault((stage, step), []).extend(names)
    return {key: sorted(names) for key, names in pictures.items()}


# 7 pictures in batches of 2: 4 batches; 2 and 2; 2, 1 and 1. Of 2 pictures, one process of three gets none.
TASKS = {"SemanticModule": "miou", "InstanceModule": "map", "PanopticModule": "pq"}
WORLDS = {7: (1, 2, 3), 2: (1, 3)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The working folder, in which everything has run that can do with processes forked from one."""
    folder = tmp_path_factory.mktemp("processes")
    commands = [
        (1, ["fit", "--exp", "one.yaml"]),
        (3, ["fit", "--exp", "three.yaml"]),
        *((world, ["validate", "--exp", "one.yaml", "--ckpt_path", "last"]) for world in (1, 2, 3)),
        (3, ["fit", "--exp", "accumulated.yaml", "--trainer.accumulate_grad_batches=2"]),
        (1, ["fit", "--exp", "smaller.yaml", "--data.batch_size=3", "--trainer.max_steps=1"]),
        (3, ["fit", "--exp", "norm.yaml"]),
        (1, ["validate", "--exp", "norm.yaml", "--ckpt_path", "last"]),
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name in ("one", "two", "three", "torchrun", "accumulated", "smaller"):
            Path(f"{name}.yaml").write_text(yaml.safe_dump(CASE))
        Path("two.yaml").write_text(yaml.safe_dump(otherwise()))
        Path("two.json").write_text(json.dumps(VALUES))
        Path("norm.yaml").write_text(yaml.safe_dump(with_norm()))
        save_file({"sharpness": torch.tensor(4.0)}, "told.safetensors")
        for task in TASKS:
            for number, worlds in WORLDS.items():
                name = f"{task}-{number}"
                Path(f"{name}.yaml").write_text(yaml.safe_dump(told(task, number)))
                options = ["validate", "--exp", f"{name}.yaml", "--weights", "told.safetensors", "--as"]
                commands += [(world, [*options, f"{name}/{world}"]) for world in worlds]
        python(str(PARTS / "forked.py"), json.dumps([(*command, {}, 0) for command in commands]))
        yield folder


@pytest.fixture(scope="module")
def runs(folder):
    """The folders of a run on one and three processes, on two that Lightning starts, and on two machines of one process each
    (this one twice) by configs/launch/torchrun.sh."""
    python("-m", "trimask", "fit", "--exp", "two.yaml", "--overrides", "two.json", *TWO)
    on_two_machines("torchrun.yaml")
    return {name: list(Path("runs", name).iterdir()) for name in ("one", "three", "two", "torchrun")}


def test_a_run_has_one_folder_however_its_processes_are_started(runs):
    for name, folders in runs.items():
        assert len(folders) == 1, name
        [folder] = folders
        assert [row["step"] for row in rows(folder)] == [str(step) for step in range(6)]
        assert contents(folder) == contents(runs["one"][0])
        said = (folder / "log.txt").read_text()
        assert said.count("pictures to train") == 1
        assert "SGD with the learning rate 0.1 at 6 pictures a step" in said
        assert "belongs to" not in said


@pytest.mark.parametrize(("name", "world"), [("two", 2), ("torchrun", 2), ("three", 3)])
def test_a_step_sees_the_same_pictures_and_a_validation_sees_each_once(runs, name, world):
    alone, together = seen("one", 1), seen(name, world)
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


def test_accumulated_batches_of_three_processes_train_the_same_network(folder):
    """One picture at a time in each."""
    alone, run = only(Path("runs/one")), only(Path("runs/accumulated"))
    assert "6 pictures (3 devices x 2 accumulated batches x 1)" in (run / "log.txt").read_text()
    expected, found = (torch.load(one / "checkpoints" / "last.ckpt", weights_only=True) for one in (alone, run))
    assert found["global_step"] == expected["global_step"] == 6
    for name, weight in expected["state_dict"].items():
        assert torch.allclose(found["state_dict"][name], weight, atol=1e-6), name


def test_another_batch_than_the_experiments_is_told_what_it_means_for_the_rate(folder):
    said = (only(Path("runs/smaller")) / "log.txt").read_text()
    assert "learning rate 0.1 belongs to 6 pictures a step, and this run has 3." in said


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


def test_a_checkpoint_scores_the_same_to_the_last_digit(folder):
    run = only(Path("runs/one"))
    first, *others = sorted((run / "validate").iterdir())
    assert len(others) == 2
    for other in others:
        assert_same_evaluation(first, other)
    trained = [row["val/miou"] for row in rows(run) if row["val/miou"]]
    assert rows(first)[0]["val/miou"] == trained[-1]


@pytest.mark.parametrize("number", WORLDS)
@pytest.mark.parametrize("task", TASKS)
def test_confusion_ap_and_pq_are_those_of_one_process(folder, task, number):
    alone, *others = (only(Path(f"runs/{task}-{number}/{world}/validate")) for world in WORLDS[number])
    [row] = rows(alone)
    assert 0.1 < float(row[f"val/{TASKS[task]}"]) < 0.9
    assert len(np.load(alone / "pictures.npz")["names"]) == number
    for other in others:
        assert_same_evaluation(alone, other)


def test_validation_in_training_measures_what_the_checkpoint_holds(folder):
    """Running statistics differ from process to process until all are told the first one's."""
    run = only(Path("runs/norm"))
    trained, [measured] = rows(run)[-1], rows(only(run / "validate"))
    scores = [key for key in measured if key.startswith("val/")]
    assert len(scores) > 5
    assert {key: trained[key] for key in scores} == {key: measured[key] for key in scores}
