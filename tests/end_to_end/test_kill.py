"""A run that is killed ten times over, in every way, and continued each time is the run that was not: no loss, no weight differs.

Every leg is a process of its own that is really killed. Python's forkserver makes them: it has imported everything and run
nothing, so that a start costs a tenth of a second. A full disk is the kernel's: /dev/full says ENOSPC to whoever writes, and a
limit of file sizes cuts a file off in its middle.
"""

import csv
import multiprocessing
import os
import random
import resource
import signal
import socket
import sys
from pathlib import Path

import pytest
import torch
import yaml

from trimask.cli import main

pytestmark = pytest.mark.slow

# Norms and dropout, and a step in ten that is not finite on one process: what is left out must be left out again.
NETWORK = """
import torch
from torch import nn
from trimask.outputs import DenseOutput

class Small(nn.Module):
    output = DenseOutput

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3, 4, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.3), nn.Conv2d(8, num_classes, 1)
        )

    def forward(self, images):
        logits = self.layers(images.float() / 255)
        bad = self.training and torch.rand(()) < 0.05
        return DenseOutput(logits / 0 if bad else logits)
"""
CASE = {
    "data": {
        "dataset": {
            "class_path": "trimask.data.Shapes",
            "init_args": {"length": 14, "eval_length": 2, "size": [32, 32]},
        },
        "batch_size": 4,
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
            "network": {"class_path": "small.Small"},
            "criterion": {
                "class_path": "trimask.losses.DenseCriterion",
                "init_args": {"terms": [{"class_path": "trimask.losses.CrossEntropy"}]},
            },
            "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.01}},
            "schedule": {"class_path": "trimask.optim.Cosine", "init_args": {"warmup": 0.2}},
        },
    },
    "trainer": {
        "accelerator": "cpu",
        "devices": 1,
        "max_epochs": 14,
        "accumulate_grad_batches": 2,
        "log_every_n_steps": 1,
        "num_sanity_val_steps": 0,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "callbacks": [{"class_path": "trimask.run.ema.ExponentialMovingAverage", "init_args": {"decay": 0.9}}],
    },
    "run": {"save_every": 2, "panels": 0, "on_nan": "skip"},
}
NUM_BATCHES, NUM_STEPS = 14 * 7, 14 * 4  # an epoch's last step is of one batch


# --- what happens to a run: called in its own process, at some batch ---


def killed(folder):
    os.kill(os.getpid(), signal.SIGKILL)


def asked_to_end(folder):
    os.kill(os.getpid(), signal.SIGTERM)


def asked_twice(folder):
    asked_to_end(folder)
    asked_to_end(folder)


def disk_full(folder):
    """Every further write of last.ckpt finds no room."""
    (folder.checkpoints / "last.ckpt.new").symlink_to("/dev/full")


def quota_used_up(folder):
    """The next row of metrics.csv and the next checkpoint are cut off in the middle."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (folder.metrics.stat().st_size + 7, resource.RLIM_INFINITY))


HOOKS = ["on_train_batch_start", "on_before_backward", "on_before_optimizer_step", "on_validation_batch_start"]
EXIT = {killed: -signal.SIGKILL, asked_to_end: 143, disk_full: 2, quota_used_up: 2}
SAID = {
    asked_to_end: "ended as a signal asked for",
    disk_full: "could not be written",
    quota_used_up: "could not be written",
}


def train(out, arguments, what=None, after=0, hook="on_train_batch_start", environment=None):
    """In a process of its own: a run to which `what` happens once it is at its batch `after`."""
    for stream in (1, 2):
        os.dup2(out.fileno(), stream)
    os.environ |= environment or {}
    import lightning as L

    from trimask.cli import main
    from trimask.run import launch

    class Trouble(L.Callback):
        def __init__(self, folder):
            self.folder, self.what = folder, what

        def come(self, trainer, *rest):
            due = trainer.fit_loop.epoch_loop.batch_progress.total.ready >= after
            if self.what and due and (trainer.global_rank == 0 or what is killed):
                self.what(self.folder)
                self.what = None

    setattr(Trouble, hook, Trouble.come)
    own = launch.checkpoints
    launch.checkpoints = lambda folder, *rest: [*own(folder, *rest), Trouble(folder)]
    sys.path.insert(0, os.getcwd())
    sys.exit(main(["fit", "--exp", "case.yaml", *arguments]))


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """Starts `train` in a fresh process."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["trimask.cli", "trimask.run.launch", "trimask.losses", "trimask.visualise.report"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "disabled")
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.chdir(tmp_path_factory.mktemp("kill"))
        Path("small.py").write_text(NETWORK)
        Path("case.yaml").write_text(yaml.safe_dump(CASE))

        def run(*arguments, **settings):
            reader, writer = context.Pipe(duplex=False)  # what is printed, which no limit of file sizes concerns
            process = context.Process(target=train, args=(writer, *arguments), kwargs=settings)
            process.start()
            writer.close()
            return process, reader

        yield run


def run_folder(number=-1):
    return Path(sorted(entry.path for entry in os.scandir("runs/case"))[number])


def all_runs():
    return set(os.listdir("runs/case")) if os.path.isdir("runs/case") else set()


def rows(run):
    with (run / "metrics.csv").open(newline="") as handle:
        return list(csv.DictReader(handle))


def last(run):
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)


def assert_same_run(whole, continued):
    assert rows(whole) == rows(continued)
    one, other = last(whole), last(continued)
    assert one["global_step"] == other["global_step"]
    for key in ("state_dict", "current_model_state"):
        assert all(torch.equal(value, other[key][name]) for name, value in one[key].items()), key
    for state, later in zip(one["optimizer_states"], other["optimizer_states"], strict=True):
        for index, entry in state["state"].items():
            assert all(torch.equal(value, later["state"][index][name]) for name, value in entry.items())
    assert Path(whole, "best.safetensors").read_bytes() == Path(continued, "best.safetensors").read_bytes()


def finish(process, reader):
    """Its exit code and what it has printed."""
    with open(reader.fileno(), "rb", closefd=False) as file:
        text = file.read().decode()
    process.join(60)
    return process.exitcode, " ".join(text.split())


def test_ten_kills(start):
    code, text = finish(*start([]))
    assert code == 0, text
    whole = run_folder()
    losses = [float(row["train/loss"]) for row in rows(whole)]
    assert len(losses) == NUM_STEPS
    assert any(loss != loss for loss in losses), "a step is left out somewhere"

    generator = random.Random(11)
    ways = [killed] * 4 + [asked_to_end] * 3 + [disk_full] * 2 + [quota_used_up]
    generator.shuffle(ways)
    batches, arguments = 0, []
    signal_hooks = iter(["on_train_batch_start", "on_before_backward", "on_validation_batch_start"])
    for number, way in enumerate(ways):
        after, hook = batches + generator.randint(5 if number == 0 else 1, 7), generator.choice(HOOKS)
        if way is asked_to_end:
            after, hook = next(n for n in range(after, after + 7) if (n - 1) % 7 in (0, 2, 4)), next(signal_hooks)
        code, text = finish(*start(arguments, way, after, hook))
        assert code == EXIT[way], (number, way.__name__, text)
        assert SAID.get(way, "") in text
        run = run_folder()
        assert run != whole
        checkpoint = last(run)
        batches = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["total"]["ready"]
        if way is asked_to_end:
            assert batches % 7 in (2, 4, 6, 0), "never between accumulated batches"
            assert batches == (-(-after // 7) * 7 if "validation" in hook else after + 1), "at the end of its step"
        if way is not killed:
            assert not list(run.rglob("*.new"))
        arguments = ["--ckpt_path", str(run / "checkpoints" / "last.ckpt")]
    assert batches < NUM_BATCHES, "the run was over before it was killed ten times"
    code, text = finish(*start(arguments))
    assert code == 0, text
    assert len(os.listdir("runs/case")) == 2
    assert_same_run(whole, run_folder())


def test_a_second_signal_ends_at_once(start):
    before = all_runs()
    code, text = finish(*start(["--trainer.max_epochs=1"], asked_twice, 3))
    assert code == -signal.SIGTERM, text
    [run] = all_runs() - before
    assert len(rows(Path("runs/case", run))) == 1, "the step of the third batch was not made"


def on_two_processes(start, arguments, what=None, after=0):
    """The exit codes, and what the first has printed, of a run on two processes that find each other as torchrun's do."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "0", "MASTER_ADDR": "localhost"}
    shared |= {"MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "kill"}
    arguments = [*arguments, "--trainer.devices=2", "--trainer.strategy=ddp"]
    started = [
        start(arguments, what, after, environment={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(2)
    ]
    codes, texts = zip(*(finish(*one) for one in started), strict=True)
    return codes, texts[0]


def test_kills_on_two_processes(start):
    """A signal that one of two processes gets ends both at the same step; what is not finite on one is left out on both."""
    before = all_runs()
    short = ["--trainer.max_epochs=4"]
    codes, text = on_two_processes(start, short)
    assert codes == (0, 0), text
    whole = run_folder()
    bad = [row["step"] for row in rows(whole) if row["train/loss"] == "nan"]
    assert bad
    kept = {file.name for file in (whole / "nonfinite").iterdir()}
    assert any("rank-1" in name for name in kept), "a batch of the process whose loss was not finite is kept"

    codes, text = on_two_processes(start, short, asked_to_end, 8)
    assert codes == (143, 143), text
    assert SAID[asked_to_end] in text
    run = run_folder()
    assert last(run)["loops"]["fit_loop"]["epoch_loop.batch_progress"]["total"]["ready"] == 9, "not between two parts"
    arguments = ["--ckpt_path", str(run / "checkpoints" / "last.ckpt")]
    codes, text = on_two_processes(start, arguments, killed, 19)
    assert codes == (-signal.SIGKILL, -signal.SIGKILL), text
    codes, text = on_two_processes(start, arguments)
    assert codes == (0, 0), text
    assert len(all_runs() - before) == 2
    assert_same_run(whole, run)


def test_both_processes_stop_at_what_one_of_them_has_found(start, monkeypatch, capsys):
    codes, text = on_two_processes(start, ["--run.on_nan=stop", "--model.seed=3"])
    assert codes == (2, 2), text
    assert "is not finite: losses cross_entropy" in text
    run = run_folder()
    bad = [
        file for file in (run / "nonfinite").iterdir() if not all(part["is_finite"] for part in content(file)["parts"])
    ]
    assert [file.name[-10:] for file in bad] == ["-rank-1.pt"], "the seed is chosen so that it is not the first process"
    monkeypatch.syspath_prepend(os.getcwd())
    assert main(["replay", str(run)]) == 0, "with the weights that the first process has written"
    said = " ".join(capsys.readouterr().out.split())
    assert "process 1 of 2" in said
    assert "the output of network (Small)" in said, "which divides by itself"


def content(file):
    return torch.load(file, weights_only=True)
