"""A run's folder is made once, found again, and never taken by another run."""

import socket
from concurrent.futures import ThreadPoolExecutor

import pytest

from trimask.run.folder import RunFolder, agreed, bequeath, inherited


@pytest.fixture
def root(tmp_path):
    return tmp_path / "runs"


def test_runs_of_the_same_second_get_folders_of_their_own(root):
    with ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(lambda _: RunFolder.create("a/b", root).path, range(8)))
    assert len(set(folders)) == 8
    assert all(folder.parent == root / "a" / "b" for folder in folders)


def test_the_newest_run_is_the_one_with_the_checkpoint(root):
    for time, names in {"2026-01-01": ["best", "last"], "2026-01-02": ["last"], "2026-01-03": []}.items():
        (root / "x" / time / "checkpoints").mkdir(parents=True)
        for name in names:
            (root / "x" / time / "checkpoints" / f"{name}.ckpt").touch()
    assert RunFolder.newest("x", "best", root).path.name == "2026-01-01"
    assert RunFolder.newest("x", "last", root).path.name == "2026-01-02"
    with pytest.raises(ValueError, match=r"No run of y has a last.ckpt below .*make train EXP=y"):
        RunFolder.newest("y", "last", root)


def test_runs_of_one_second_are_in_the_order_of_their_numbers(root):
    for _ in range(12):
        folder = RunFolder.create("x", root)
        folder.checkpoints.mkdir()
        folder.checkpoint("last").touch()
        assert RunFolder.newest("x", "last", root) == folder


def test_the_run_of_a_checkpoint(root):
    folder = RunFolder.create("x", root)
    folder.checkpoints.mkdir()
    file = folder.checkpoint("last")
    file.touch()
    assert RunFolder.of_checkpoint(file) is None, "without a configuration it cannot be continued"
    folder.config.touch()
    assert RunFolder.of_checkpoint(file) == folder
    assert RunFolder.of_checkpoint(root / "moved.ckpt") is None


def test_the_wandb_id_is_fixed_once(root):
    folder = RunFolder.create("x", root)
    assert folder.wandb_id() == folder.wandb_id()
    assert folder.wandb_id() != RunFolder.create("x", root).wandb_id()


def test_free_paths_do_not_exist(root):
    folder = RunFolder.create("x", root)
    for expected in ("config.yaml", "config-2.yaml", "config-3.yaml"):
        path = folder.free_path("config.yaml")
        assert path.name == expected
        path.touch()


def test_further_processes_of_a_run_find_its_folder(root, monkeypatch):
    monkeypatch.delenv("TRIMASK_RUN_FOLDER", raising=False)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.setenv("TRIMASK_RUN_FOLDER", "elsewhere")
    folder = bequeath(RunFolder.create("x", root))
    assert inherited() is None, "the first process makes its own"
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert inherited() == folder


def test_the_id_at_wandb_is_kept_and_an_agents_is_taken(root, monkeypatch):
    monkeypatch.delenv("WANDB_RUN_ID", raising=False)
    own = RunFolder.create("x", root)
    assert own.wandb_id() == own.wandb_id()
    monkeypatch.setenv("WANDB_RUN_ID", "a1b2c3")
    assert own.wandb_id() != "a1b2c3", "a continued run stays the run that it was"
    assert RunFolder.create("x", root).wandb_id() == "a1b2c3"


SLURM = {"SLURM_NTASKS": "1", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_JOB_NAME": "job", "SLURM_JOB_ID": "1"}


@pytest.mark.parametrize("told", [{}, SLURM])
def test_one_process_agrees_with_itself(told, root, monkeypatch):
    for key, value in told.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setenv("TRIMASK_RUN_FOLDER", "")  # put back afterwards
    assert agreed(lambda: RunFolder(root)).path == root


def test_tasks_of_slurm_agree_on_the_folder_of_the_first(root, monkeypatch):
    """Threads instead of processes, each with a view of its own of where it is."""
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        port = place.getsockname()[1]
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(port))

    class Task:
        main_address, main_port = "127.0.0.1", port

        def __init__(self, rank):
            self.global_rank, self.world_size = (lambda: rank), (lambda: 3)

    tasks = [Task(rank) for rank in (2, 1, 0)]
    monkeypatch.setattr("trimask.run.folder._started_at_once", tasks.pop)
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda _: agreed(lambda: RunFolder.create("x", root)).path, range(3)))
    assert len(set(found)) == 1
    assert list((root / "x").iterdir()) == found[:1]
