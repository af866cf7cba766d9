"""Tags of pictures that several processes have seen, and when the tables are written."""

import csv
import json
import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from trimask.run.folder import RunFolder
from trimask.run.picture_report import PictureReport, _of_all_processes
from trimask.tasks.tables import Breakdown
from trimask.types import ClassSpec

SCORES = Breakdown(
    "IoU", ("a", "b", "c"), np.array([0.7, 0.1, np.nan]), np.array([[0.7, np.nan], [0, 0.2], [np.nan] * 2])
)
MODULE = SimpleNamespace(classes=ClassSpec(["sky", "car"]), last_scores="scores", breakdown=lambda scores: SCORES)


def trainer(**changes):
    return SimpleNamespace(
        **{
            "is_global_zero": True,
            "interrupted": False,
            "sanity_checking": False,
            "loggers": [],
            "global_step": 3,
            **changes,
        }
    )


def evaluated(folder, of):
    callback = PictureReport(RunFolder(folder))
    batch = SimpleNamespace(names=("a", "b"), meta=({"weather": "rain"}, {"scene": "city, by night"}))
    callback.on_validation_batch_end(of, MODULE, None, batch, 0)
    callback.on_validation_end(of, MODULE)
    callback.teardown(of, MODULE, "fit")
    return callback


def test_the_table_is_the_worst_first_with_all_tags(tmp_path):
    callback = evaluated(tmp_path, trainer())
    with (tmp_path / "pictures.csv").open(newline="") as handle:
        rows = list(csv.reader(handle))
    assert rows == [
        ["picture", "mean IoU", "IoU sky", "IoU car", "scene", "weather"],
        ["b", "0.1", "0.0", "0.2", "city, by night", ""],
        ["a", "0.7", "0.7", "", "", "rain"],
    ]
    page = (tmp_path / "report.html").read_text()
    assert page.index("data-name='b'") < page.index("data-name='a'")
    (tmp_path / "pictures.csv").unlink()
    callback.teardown(trainer(), MODULE, "fit")
    assert not (tmp_path / "pictures.csv").exists(), "once"


@pytest.mark.parametrize("change", [{"is_global_zero": False}, {"interrupted": True}, {"sanity_checking": True}])
def test_nothing_is_written_where_there_is_nothing_to_say(tmp_path, change):
    evaluated(tmp_path, trainer(**change))
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_tags_of_two_processes_come_together(tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    commands = [[sys.executable, __file__, str(rank), str(tmp_path)] for rank in range(2)]
    processes = [subprocess.Popen(command, env=environment) for command in commands]
    try:
        assert [process.wait(timeout=300) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
    for rank in range(2):
        tags = json.loads((tmp_path / f"{rank}.json").read_text())
        assert tags == {"p0": {"rank": "0"}, "p1": {"rank": "1"}, "both": {"x": "y"}}


if __name__ == "__main__":
    rank, folder = int(sys.argv[1]), sys.argv[2]
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    found = _of_all_processes({f"p{rank}": {"rank": str(rank)}, "both": {"x": "y"}})
    with open(f"{folder}/{rank}.json", "w") as file:
        json.dump(found, file)
    torch.distributed.destroy_process_group()
