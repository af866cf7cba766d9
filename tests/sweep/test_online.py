"""A sweep with a W&B server, up to the call that would go over the network."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from trimask.cli import main
from trimask.sweep import online
from trimask.sweep.online import agent_command, is_online, run_online, shares, sweep_config
from trimask.sweep.plan import read

METRIC = {"name": "val/miou", "goal": "maximize"}
PARAMETERS = {"model.optimizer.lr": {"min": 0.001, "max": 0.1}, "trainer.gradient_clip_val": {"values": [None, 1.0]}}


@pytest.fixture
def plan(tmp_path, monkeypatch):
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "x.yaml").write_text("baseline: {none: a test}\n")
    config = {"program": "experiments/x.yaml", "method": "bayes", "metric": METRIC, "parameters": PARAMETERS}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({**config, "project": "mine"}))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_MODE", "online")
    return read("mine.yaml")


def test_what_the_server_is_told(plan):
    assert sweep_config(plan) == {
        "name": "mine",
        "program": "experiments/x.yaml",
        "project": "mine",
        "method": "bayes",
        "metric": METRIC,
        "parameters": PARAMETERS,
        "command": [
            *("${env}", sys.executable, "-m", "trimask", "fit", "--exp", "x", "--as", "sweeps/mine"),
            *("--overrides", "${args_json_file}"),
        ],
    }


def test_the_agents_command(plan):
    assert agent_command(plan, "abc", "mine", 5) == [
        *(sys.executable, "-m", "wandb", "agent", "--forward-signals"),
        *("--project", "mine", "--count", "5", "abc"),
    ]
    assert "--count" not in agent_command(plan, "abc", "mine", None)


def test_when_there_is_a_server(plan, monkeypatch, tmp_path):
    assert is_online()
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert not is_online()
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.delenv("WANDB_API_KEY")
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    assert not is_online()


def test_trials_are_divided_over_agents():
    assert shares(5, 2) == [3, 2]
    assert shares(1, 3) == [1]


def test_a_sweep_is_made_once_and_gone_on_with(plan, monkeypatch):
    """Up to the network: what `wandb.sweep` is given, and what is started with which environment."""
    made, started = [], []

    class Agent:
        def __init__(self, command, env):
            started.append((command, env))

        def wait(self):
            return 0

        def poll(self):
            return 0

    monkeypatch.setattr(
        online.wandb, "sweep", lambda config, entity, project: made.append((config, entity, project)) or "abc"
    )
    monkeypatch.setattr(subprocess, "Popen", Agent)
    for _ in range(2):
        assert main(["sweep", "mine.yaml", "--count", "3", "--jobs", "2"]) == 0
    assert made == [(sweep_config(plan), None, "mine")]
    assert [command for command, _ in started] == [agent_command(plan, "abc", "mine", count) for count in (2, 1, 2, 1)]
    for _, environment in started:
        assert environment["WANDB_AGENT_DISABLE_FLAPPING"] == "true"
        assert environment["PATH"] == os.environ["PATH"]


def test_it_does_not_leave_agents_behind(plan, monkeypatch):
    (plan.place / "wandb_sweep").parent.mkdir(parents=True)
    (plan.place / "wandb_sweep").write_text("abc")
    waits = "import time; time.sleep(600)"
    asks = f"import os, time; time.sleep(1); os.kill(os.getppid(), 15); {waits}"  # once: a second signal would end the tests
    monkeypatch.setattr(
        online,
        "agent_command",
        lambda plan, sweep_id, project, share: [sys.executable, "-c", asks if share == 1 else waits],
    )
    started = []
    start = subprocess.Popen
    monkeypatch.setattr(
        subprocess, "Popen", lambda *given, **more: started.append(start(*given, **more)) or started[-1]
    )
    with pytest.raises(KeyboardInterrupt):
        run_online(plan, "mine", count=3, jobs=2)
    assert len(started) == 2
    assert {agent.poll() for agent in started} == {-signal.SIGTERM}


def test_the_agent_knows_the_options_that_it_is_given():
    """W&B's own, of the version that is installed."""
    from wandb.cli.cli import agent

    known = {option for parameter in agent.params for option in parameter.opts}
    assert {"--forward-signals", "--project", "--entity", "--count"} <= known


def test_the_agent_fills_in_what_a_trial_needs(plan):
    """By W&B's own code: its file of values, and the command that it starts."""
    from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

    assert create_sweep_command(sweep_config(plan)["command"])[-2:] == ["--overrides", "${args_json_file}"]
    values = {
        "model.optimizer.lr": {"value": 0.01},
        "trainer.gradient_clip_val": {"value": None},
        "model.criterion": {"value": {"class_path": "a.B", "init_args": {"terms": [True, None]}}},
    }
    [text] = create_sweep_command_args({"args": values})["args_json"]
    Path("agent.json").write_text(text)
    from trimask.run.launch import compose

    arguments = compose("fit", ["--exp", "x", "--overrides", "agent.json"]).arguments
    assert arguments[-3:] == [
        "--model.optimizer.lr=0.01",
        "--trainer.gradient_clip_val=null",
        '--model.criterion={"class_path": "a.B", "init_args": {"terms": [true, null]}}',
    ]
