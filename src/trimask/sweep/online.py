"""A sweep with a W&B server: the server searches, and W&B's own agents start the trials on this machine.

An agent runs outside the launcher: every trial is a process that reads its values from the file that the agent writes, so that
the processes of a distributed trial see the same ones.
"""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import wandb

from trimask.errors import UsageError
from trimask.run.child import politely_ended
from trimask.run.console import console
from trimask.run.launch import has_wandb_key
from trimask.sweep.local import share_of_devices
from trimask.sweep.plan import SweepPlan

# An agent gives up after a few failures in a row by default; a crashed trial must not stop a sweep.
AGENT_ENVIRONMENT = {"WANDB_AGENT_DISABLE_FLAPPING": "true", "WANDB_AGENT_MAX_INITIAL_FAILURES": "1000000"}


def is_online() -> bool:
    """Whether there is a server to ask, as a run decides it (`run/launch.py`)."""
    return os.environ.get("WANDB_MODE", "online") == "online" and has_wandb_key()


def sweep_config(plan: SweepPlan) -> dict[str, Any]:
    """What the server is told: the file, with the command that an agent runs. ${...} is filled in by the agent."""
    run = ["-m", "trimask", "fit", "--exp", plan.experiment, "--as", plan.filed_under]
    command = ["${env}", sys.executable, *run, "--overrides", "${args_json_file}"]
    return {"name": plan.name, **plan.config, "command": command}


def agent_command(plan: SweepPlan, sweep_id: str, project: str, count: int | None) -> list[str]:
    entity = ["--entity", plan.config["entity"]] if "entity" in plan.config else []
    limit = ["--count", str(count)] if count else []
    # Trials are in process groups of their own, where neither Ctrl-C nor the end of their agent would reach them.
    return [
        sys.executable,
        "-m",
        "wandb",
        "agent",
        "--forward-signals",
        "--project",
        project,
        *entity,
        *limit,
        sweep_id,
    ]


def run_online(plan: SweepPlan, project: str, *, count: int | None, jobs: int) -> int:
    """Creates the sweep, or goes on with the one of an earlier call, and runs `jobs` agents until they have had `count` trials in
    all. Returns the first exit code that is not 0."""
    sweep_id = _sweep_id(plan, project)
    counts = [None] * jobs if count is None else shares(count, jobs)
    agents: list[subprocess.Popen[bytes]] = []
    with politely_ended():
        try:
            for slot, share in enumerate(counts):
                environment = {**os.environ, **AGENT_ENVIRONMENT, **share_of_devices(slot, jobs)}
                agents.append(subprocess.Popen(agent_command(plan, sweep_id, project, share), env=environment))
            return next((status for status in [agent.wait() for agent in agents] if status), 0)
        finally:
            for agent in agents:
                if agent.poll() is None:
                    agent.terminate()
                    agent.wait()


def shares(count: int, jobs: int) -> list[int]:
    """Trials of each agent; agents without a trial are left out."""
    return [share for slot in range(jobs) if (share := (count + jobs - 1 - slot) // jobs)]


def _sweep_id(plan: SweepPlan, project: str) -> str:
    file = plan.place / "wandb_sweep"
    if file.is_file():
        return file.read_text()
    try:
        sweep_id = wandb.sweep(sweep_config(plan), entity=plan.config.get("entity"), project=project)
    except (wandb.errors.Error, OSError) as error:
        raise UsageError(
            f"W&B did not take the sweep: {error}. WANDB_MODE=offline searches on this machine."
        ) from error
    file.write_text(sweep_id)
    console.print(f"sweep {sweep_id} of the W&B project {project}", highlight=False)
    return sweep_id
