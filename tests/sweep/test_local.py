"""A sweep without a server, with trials that take no time: a program that writes what a training would."""

import csv
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from trimask.cli import main
from trimask.errors import UsageError
from trimask.run.child import Child
from trimask.sweep import engine, trial
from trimask.sweep.local import LocalSweep, share_of_devices
from trimask.sweep.plan import read
from trimask.sweep.report import best_line, best_trial, page
from trimask.sweep.trial import State, Trial

try:
    engine.load()
except UsageError as error:
    missing = str(error)
else:
    missing = ""
needs_engine = pytest.mark.skipif(bool(missing), reason=missing)

# What a trial does, by its overrides: `lr` makes the score, best at 0.01; `crash` dies; `hang` waits to be ended after its
# first validation; `meet` waits until so many trials have begun. A continued trial goes on after what it has.
PROGRAM = """
import json, math, os, sys, time
from pathlib import Path

options = dict(zip(sys.argv[2::2], sys.argv[3::2]))
given = json.loads(Path(options["--overrides"]).read_text())
continued = [word for word in sys.argv if word.startswith("--ckpt_path=")]
if continued:
    folder = Path(continued[0].partition("=")[2]).parents[1]
else:
    folder = Path("made", Path(options["--overrides"]).stem).resolve()
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "metrics.csv").write_text("step,val/miou,train/loss\\n")
Path(os.environ["TRIMASK_TELL_FOLDER"]).write_text(str(folder))
with (folder / "starts").open("a") as file:
    file.write(" ".join(sys.argv[1:]) + "\\n")
if given.get("crash"):
    print("error: the data are nowhere")
    sys.exit(2)
until = time.monotonic() + 60
while len(list(Path("made").iterdir())) < given.get("meet", 1):
    if time.monotonic() > until:
        sys.exit("nobody came")
    time.sleep(0.02)
score = 1 - abs(math.log10(given["lr"]) + 2) / 4
metrics = folder / "metrics.csv"
for epoch in range(len(metrics.read_text().splitlines()) - 1, given.get("epochs", 3)):
    with metrics.open("a") as file:
        file.write(f"{epoch},{score * (epoch + 1) / 3},1.0\\n")
    (folder / "checkpoints" / "last.ckpt").touch()
    while (given.get("hang") or given["lr"] < given.get("hang_below", 0)) and not Path("go").exists():
        time.sleep(0.02)
"""


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "x.yaml").write_text("baseline: {none: a test}\n")
    (tmp_path / "program.py").write_text(PROGRAM)
    monkeypatch.setattr(Child, "program", (sys.executable, str(tmp_path / "program.py")))
    monkeypatch.setattr("trimask.sweep.local.POLL", 0.02)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    return tmp_path


def plan(method="grid", parameters=None, **changes):
    parameters = parameters or {"lr": {"values": [0.1, 0.01, 0.001]}}
    metric = {"name": "val/miou", "goal": "maximize"}
    config = {"program": "x", "method": method, "metric": metric, "parameters": parameters, **changes}
    Path("mine.yaml").write_text(yaml.safe_dump(config))
    return read("mine.yaml")


def searched(given, count=None, jobs=1):
    given.place.mkdir(parents=True, exist_ok=True)
    search = LocalSweep(given, count=count, jobs=jobs)
    search.run()
    return search.trials


def rows(given):
    with (given.place / "results.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@needs_engine
def test_a_grid_is_searched_whole_and_the_best_is_told(capsys):
    given = plan(parameters={"lr": {"values": [0.1, 0.01, 0.001]}, "clip": {"values": [None, [1, {"a": True}]]}})
    trials = searched(given)
    assert [one.state for one in trials] == [State.FINISHED] * 6
    assert len({json.dumps(one.overrides) for one in trials}) == 6
    best = best_trial(given, trials)
    assert best.overrides == {"lr": 0.01, "clip": None}
    assert best_line(given, trials).startswith(f"best trial: {best.number}, val/miou 1.0000 with ")
    table = rows(given)
    assert [row["trial"] for row in table] == [str(number) for number in range(1, 7)]
    assert {row["clip"] for row in table} == {"null", '[1, {"a": true}]'}
    assert max(float(row["val/miou"]) for row in table) == 1.0
    page = (given.place / "index.html").read_text()
    assert page.count("<svg") == 2, "a plot for each parameter"
    assert page.count("<circle") == 12
    assert "trial 6" in capsys.readouterr().out


@needs_engine
def test_what_a_trial_is_told():
    searched(plan(), count=1)
    [started] = Path("made/0001.overrides/starts").read_text().splitlines()
    assert started == "fit --exp x --as sweeps/mine --overrides runs/sweeps/mine/trials/0001.overrides.json"
    assert json.loads(Path("runs/sweeps/mine/trials/0001.overrides.json").read_text()) == {"lr": 0.1}


@needs_engine
def test_a_crashed_trial_does_not_stop_the_sweep():
    given = plan(parameters={"lr": {"values": [0.1, 0.01]}, "crash": {"values": [True, False]}})
    trials = searched(given)
    assert sorted(one.state for one in trials) == ["failed"] * 2 + ["finished"] * 2
    assert {one.why for one in trials} == {"", "error: the data are nowhere"}
    assert [row["why"] for row in rows(given) if row["state"] == "failed"] == ["error: the data are nowhere"] * 2


@pytest.mark.slow
@needs_engine
@pytest.mark.parametrize("method", ["random", "bayes"])
def test_six_trials_of_a_search_near_the_optimum(method):
    given = plan(method, {"lr": {"distribution": "log_uniform_values", "min": 1e-5, "max": 1.0}})
    trials = searched(given, count=6)
    values = [one.overrides["lr"] for one in trials]
    assert len(set(values)) == 6
    assert all(isinstance(value, float) and 1e-5 <= value <= 1 for value in values)
    if method == "bayes":
        guessed = [one.value(given) for one in searched(given, count=14)[8:]]
        assert max(guessed) > 0.9, "it goes where trials were good"


@needs_engine
def test_a_crash_does_not_stop_a_bayes_search():
    given = plan(
        "bayes",
        {"lr": {"distribution": "log_uniform_values", "min": 1e-5, "max": 1.0}, "crash": {"values": [True, False]}},
    )
    assert {one.state for one in searched(given, count=8)} == {State.FAILED, State.FINISHED}


@needs_engine
@pytest.mark.parametrize("method", ["grid", "random", "bayes"])
def test_a_continued_search_is_the_uninterrupted_one(method):
    parameters = {"lr": {"values": [0.1, 0.03, 0.01, 0.003, 0.001]}}
    if method != "grid":
        parameters = {"lr": {"distribution": "log_uniform_values", "min": 1e-5, "max": 1.0}}
    whole = [one.overrides for one in searched(plan(method, parameters), count=5)]
    os.rename("runs", "first")
    os.rename("made", "first_made")
    searched(plan(method, parameters), count=2)
    assert [one.overrides for one in searched(plan(method, parameters), count=5)] == whole
    assert len(list(Path("made").iterdir())) == 5


@needs_engine
def test_two_at_a_time():
    """Each waits until the other has begun."""
    given = plan(parameters={"lr": {"values": [0.1, 0.01]}, "meet": {"value": 2}})
    assert [one.state for one in searched(given, jobs=2)] == [State.FINISHED] * 2


@needs_engine
@pytest.mark.slow
def test_an_interrupted_trial_goes_on_from_its_checkpoint():
    """Killed without a chance to tidy up: the sweep and, later, what it left running."""
    given = plan(parameters={"lr": {"values": [0.1, 0.01]}, "hang": {"value": True}})
    given.place.mkdir(parents=True)
    code = (
        "import sys; from trimask.run.child import Child; from trimask.sweep.local import LocalSweep; "
        "from trimask.sweep.plan import read; Child.program = (sys.executable, 'program.py'); "
        "LocalSweep(read('mine.yaml'), count=None, jobs=1).run()"
    )
    sweep = subprocess.Popen([sys.executable, "-c", code])
    deadline = time.monotonic() + 120
    while not has_begun(given) and time.monotonic() < deadline:
        time.sleep(0.05)
    sweep.send_signal(signal.SIGKILL)
    sweep.wait()
    [one] = trial.load(given.place)
    assert one.state is State.RUNNING
    assert is_alive(one.pid)
    Path("go").touch()
    trials = searched(given)
    assert not is_alive(one.pid)
    assert [one.state for one in trials] == [State.FINISHED] * 2
    first, second = Path("made/0001.overrides/starts").read_text().splitlines()
    assert "--ckpt_path" not in first
    assert second.endswith(f"--ckpt_path={Path('made/0001.overrides').resolve()}/checkpoints/last.ckpt")
    assert len(trials[0].history("val/miou")) == 3, "it did not begin anew"


def has_begun(given):
    """Its first trial has a checkpoint, and the sweep has noted its process."""
    trials = trial.load(given.place)
    return bool(trials) and trials[0].pid and Path("made/0001.overrides/checkpoints/last.ckpt").is_file()


def is_alive(pid):
    """A zombie, whose parent is gone, is not."""
    file = Path(f"/proc/{pid}/stat")
    return file.is_file() and file.read_text().rpartition(") ")[2][0] != "Z"


@needs_engine
def test_a_polite_end_takes_its_trials_along(monkeypatch):
    given = plan(parameters={"lr": {"values": [0.1]}, "hang": {"value": True}})
    given.place.mkdir(parents=True)
    search = LocalSweep(given, count=None, jobs=1)

    def terminate(*_):
        if Path("made/0001.overrides/checkpoints/last.ckpt").is_file():
            os.kill(os.getpid(), signal.SIGTERM)
        return []

    monkeypatch.setattr(engine, "hopeless", terminate)
    with pytest.raises(KeyboardInterrupt):
        search.run()
    [one] = trial.load(given.place)
    assert one.state is State.RUNNING, "so that it goes on next time"
    assert not is_alive(one.pid)


@needs_engine
def test_a_hopeless_trial_is_stopped_early():
    """Good trials have passed the first validation; a bad one that hangs there is ended."""
    early = {"type": "hyperband", "min_iter": 1, "eta": 2}
    rates = {"lr": {"values": [0.01, 0.011, 0.0001]}, "hang_below": {"value": 0.001}}
    given = plan(early_terminate=early, parameters=rates)
    good, other, bad = searched(given)
    assert [good.state, other.state, bad.state] == [State.FINISHED, State.FINISHED, State.STOPPED]
    assert bad.history("val/miou") == [pytest.approx(0.5 / 3)]
    assert rows(given)[2]["state"] == "stopped"


def test_gpus_are_shared_out():
    assert share_of_devices(0, 1, ["0", "1"]) == {}
    assert [share_of_devices(slot, 2, ["0", "1", "2"]) for slot in (0, 1)] == [
        {"CUDA_VISIBLE_DEVICES": "0,2"},
        {"CUDA_VISIBLE_DEVICES": "1"},
    ]
    assert share_of_devices(1, 3, ["0", "1"]) == {}, "fewer than trials"


def test_the_page_draws_any_kind_of_value():
    given = plan(parameters={"lr": {"values": [1e-4, 1.0]}, "name": {"values": [None, "<a>"]}})
    given.place.mkdir(parents=True)
    trials = []
    for number, (lr, name, score) in enumerate([(1e-4, None, 0.2), (1.0, "<a>", 0.7)], 1):
        one = Trial(given.place, number, {"lr": lr, "name": name}, State.FINISHED)
        folder = Path(f"made/{number}")
        folder.mkdir(parents=True)
        (folder / "metrics.csv").write_text(f"step,val/miou\n0,{score}\n1,nan\n2,\n")
        one.file("folder").parent.mkdir(parents=True, exist_ok=True)
        one.file("folder").write_text(str(folder.resolve()))
        trials.append(one)
    text = page(given, trials)
    assert "<a>" not in text
    assert "&lt;a&gt;" in text
    assert "best trial: 2, val/miou 0.7000" in text


def test_a_changed_sweep_is_not_mixed_with_the_old_one(capsys):
    given = plan()
    given.place.mkdir(parents=True)
    (given.place / "sweep.yaml").write_text(yaml.safe_dump({**given.config, "method": "random"}))
    assert main(["sweep", "mine.yaml"]) == 2
    assert "has changed since its first trials" in " ".join(capsys.readouterr().out.split())


@needs_engine
def test_the_command(capsys):
    plan("random", {"lr": {"min": 0.001, "max": 0.1}})
    assert main(["sweep", "mine.yaml"]) == 2
    assert "give COUNT=" in " ".join(capsys.readouterr().out.split())
    assert main(["sweep", "mine.yaml", "--count", "2"]) == 0
    assert "best trial: " in capsys.readouterr().out
    assert main(["sweep", "mine.yaml", "--count", "0"]) == 2
    os.rename("made", "made_before")
    assert main(["sweep", "mine.yaml", "--count", "1", "--new"]) == 0
    assert len(list(Path("runs/sweeps").iterdir())) == 2, "the old one is set aside"


@needs_engine
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"parameters": {"lr": {"min": 0.1, "max": 0.01}}}, "min 0.1 is not less than max 0.01"),
        ({"parameters": {"lr": {"distribution": "loguniform", "min": 1, "max": 2}}}, "is not valid"),
        ({"early_terminate": "soon"}, "'soon' is not valid"),
        ({"run_cap": "x"}, "'x' is not of type 'integer'"),
    ],
)
def test_a_check_tells_what_the_schema_refuses(changes, said, monkeypatch, capsys):
    monkeypatch.setattr("trimask.sweep.command.check", lambda plan: [])
    plan(**changes)
    assert main(["sweep", "mine.yaml", "--check"]) == 1
    assert said in " ".join(capsys.readouterr().out.split())


@needs_engine
def test_a_distribution_by_its_exponents_is_no_mistake():
    given = plan("random", {"lr": {"distribution": "log_uniform", "min": -5, "max": -2}})
    assert engine.violations(given) == []
    assert math.exp(-5) <= engine.propose(given, [])["lr"] <= math.exp(-2)


def test_without_the_engine_the_way_to_it_is_said(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "sweeps", None)
    plan()
    assert main(["sweep", "mine.yaml"]) == 2
    said = " ".join(capsys.readouterr().out.split())
    assert "pip install --no-deps -r requirements-sweeps.txt" in said
    monkeypatch.setattr("trimask.sweep.command.check", lambda plan: [])
    assert main(["sweep", "mine.yaml", "--check"]) == 0
    assert "W&B's schema is left out" in " ".join(capsys.readouterr().out.split())
