"""W&B's search engine on this machine: which trial comes next, and which one is hopeless.

`sweeps` 0.3.0 (https://github.com/wandb/sweeps, MIT) is what W&B's server runs. It states numpy < 2 and runs on numpy 2, so that
pip takes it with --no-deps alone; requirements-sweeps.txt has it with what it needs.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from trimask.errors import UsageError
from trimask.sweep.plan import SweepPlan
from trimask.sweep.trial import State, Trial

INSTALL = "pip install --no-deps -r requirements-sweeps.txt"
# what the engine calls a trial in each state
_STATES = {State.RUNNING: "running", State.FINISHED: "finished", State.STOPPED: "killed", State.FAILED: "failed"}
_SEARCH = ("method", "metric", "parameters", "early_terminate", "run_cap")


def load() -> Any:
    """The package. Raises: UsageError: it is not installed."""
    try:
        with warnings.catch_warnings():
            # sweeps/run.py 0.3.0 names a setting as pydantic 1 did
            warnings.filterwarnings("ignore", "Valid config keys have changed in V2", UserWarning)
            import sweeps
    except ModuleNotFoundError as error:
        raise UsageError(
            f"Without a W&B server a sweep is searched by W&B's engine, the package `sweeps`; {error.name} is not installed. "
            f"`make sweep` installs it, or `{INSTALL}`."
        ) from error
    return sweeps


def violations(plan: SweepPlan) -> list[str]:
    """What W&B's schema refuses. That an older distribution is given by exponents is mere advice, which it tells likewise."""
    found = map(str, load().schema_violations_from_proposed_config(_search(plan)))
    return [text for text in dict.fromkeys(found) if "specify base-e exponents" not in text]


def propose(plan: SweepPlan, trials: Sequence[Trial]) -> dict[str, Any] | None:
    """The values of the next trial; None when a grid is done. They depend on the trials so far and their number alone, so that a
    continued sweep goes the way of an uninterrupted one."""
    sweeps = load()
    random.seed(len(trials))
    np.random.seed(len(trials))  # noqa: NPY002 - the engine draws from the global generators
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="sklearn")  # the Gaussian process at the bounds of its kernel
        found = sweeps.next_run(_search(plan), [_run(sweeps, plan, trial) for trial in trials])
    return None if found is None else {key: _plain(entry["value"]) for key, entry in found.config.items()}


def hopeless(plan: SweepPlan, trials: Sequence[Trial]) -> list[int]:
    """The numbers of running trials that `early_terminate` ends."""
    if "early_terminate" not in plan.config:
        return []
    sweeps = load()
    stopped = sweeps.stop_runs(_search(plan), [_run(sweeps, plan, trial) for trial in trials])
    return [int(run.name) for run in stopped]


def _search(plan: SweepPlan) -> dict[str, Any]:
    return {key: value for key, value in plan.config.items() if key in _SEARCH}


def _run(sweeps: Any, plan: SweepPlan, trial: Trial) -> Any:
    values = trial.history(plan.metric)
    best = trial.value(plan)
    return sweeps.SweepRun(
        name=str(trial.number),
        state=_STATES[trial.state],
        config={key: {"value": value} for key, value in trial.overrides.items()},
        history=[{plan.metric: value} for value in values],
        summary_metrics={} if best is None else {plan.metric: best},
    )


def _plain(value: Any) -> Any:
    """Without numpy's scalars, which JSON does not know."""
    return value.item() if isinstance(value, np.generic) else value
