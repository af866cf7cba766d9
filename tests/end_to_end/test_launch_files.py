"""The files of configs/launch, run as they are. torchrun's is used in test_processes.py; SLURM's is here, with `srun` and
`scontrol` replaced by programs that do on this machine what SLURM's would."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

LAUNCH = Path(__file__).parents[2] / "configs" / "launch"
PARTS = Path(__file__).with_name("processes")
FILES = sorted(LAUNCH.iterdir())
CASE = {
    "data": {
        "dataset": {
            "class_path": "trimask.data.Shapes",
            "init_args": {"length": 4, "eval_length": 3, "size": [32, 32]},
        },
        "batch_size": 2,
        "num_workers": 0,
    },
    "model": {
        "class_path": "trimask.tasks.SemanticModule",
        "init_args": {
            "network": {"class_path": "plain.Plain"},
            "criterion": {
                "class_path": "trimask.losses.DenseCriterion",
                "init_args": {"terms": [{"class_path": "trimask.losses.CrossEntropy"}]},
            },
        },
    },
    "trainer": {
        "accelerator": "cpu",
        "max_epochs": 3,
        "log_every_n_steps": 1,
        "callbacks": [{"class_path": "watch.TimeIsUp"}],
    },
}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_it_is_valid_bash_and_asks_for_an_experiment(file):
    assert subprocess.run(["bash", "-n", file]).returncode == 0
    done = subprocess.run(["bash", file], capture_output=True, text=True)
    assert done.returncode == 1
    assert "name an experiment" in done.stderr


def submit(job, folder, **told):
    """Runs the batch file as SLURM would: the options of #SBATCH become variables."""
    told |= {"SLURM_JOB_ID": job, "SLURM_NNODES": "1", "SLURM_NTASKS_PER_NODE": "2"}
    told |= {"PYTHON": sys.executable, "PYTHONPATH": str(PARTS), "WANDB_MODE": "disabled"}
    places = [folder / "bin", PARTS, Path(sys.executable).parent, os.environ["PATH"]]
    told["PATH"] = os.pathsep.join(map(str, places))
    command = ["bash", str(LAUNCH / "slurm.sbatch"), "case.yaml", "--model.optimizer.lr=0.01"]
    return subprocess.run(command, env={**os.environ, **told}, cwd=folder, capture_output=True, text=True, timeout=500)


@pytest.mark.slow
def test_a_job_of_slurm_is_queued_again_and_goes_on_in_its_folder(tmp_path):
    (tmp_path / "case.yaml").write_text(yaml.safe_dump(CASE))
    scontrol = tmp_path / "bin" / "scontrol"
    scontrol.parent.mkdir()
    scontrol.write_text('#!/bin/sh\necho "$@" >> asked\n')
    scontrol.chmod(0o755)

    first = submit("4711", tmp_path, TIME_IS_UP_AT="2")
    assert first.returncode == 143, first.stdout + first.stderr
    assert (tmp_path / "asked").read_text() == "requeue 4711\n"
    [run] = (tmp_path / "runs" / "case").iterdir()
    assert len(steps(run)) < 6

    second = submit("4711", tmp_path, SLURM_RESTART_COUNT="1")
    assert second.returncode == 0, second.stdout + second.stderr
    assert (tmp_path / "asked").read_text() == "requeue 4711\n"
    assert list((tmp_path / "runs" / "case").iterdir()) == [run]
    assert steps(run) == ["0", "1", "2", "3", "4", "5"]
    assert "2 devices" in (run / "log.txt").read_text()


def steps(run):
    with (run / "metrics.csv").open(newline="") as handle:
        return [row["step"] for row in csv.DictReader(handle)]
