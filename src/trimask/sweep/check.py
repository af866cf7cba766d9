"""Whether a sweep can run, before any training: every parameter is a key of the experiment and takes each of its values, and
the metric is a number that is logged."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trimask.errors import UsageError, nearest, one_sentence
from trimask.pipeline import without_pretrained
from trimask.run.build import build
from trimask.run.launch import in_short, resolve
from trimask.run.logged import is_among, logged_numbers
from trimask.sweep.plan import SweepPlan, first_values, trial_values
from trimask.types import DataError

UNSEEN = "whether the metric is logged cannot be seen"  # without the data, which say what the classes are


def check(plan: SweepPlan) -> list[str]:
    """What is wrong, one sentence each; nothing, if the sweep can run. Trials are parsed by the command line that runs them: one
    with all first values, and one for each further value."""
    first = first_values(plan)
    complaints = []
    for key, given in plan.parameters.items():
        refused = {said: value for value in trial_values(given)[::-1] if (said := _refused(plan, {key: value}))}
        complaints += [f"{key} = {json.dumps(value)}: {said}" for said, value in refused.items()]
    if complaints:
        return complaints
    try:
        config = parsed(plan, first)
    except UsageError as error:
        return [f"the values do not go together ({in_short(first)}): {error}"]
    try:
        # the task is made with random weights, and scores nothing
        module, _ = build({"model": without_pretrained(config["model"]), "data": config["data"]})
        logged = logged_numbers(module)
    except DataError as error:
        return [f"{UNSEEN}: {error}"]
    return (
        []
        if is_among(plan.metric, logged)
        else [f"{plan.metric!r} is not a number that is logged{nearest(plan.metric, logged)}"]
    )


def _refused(plan: SweepPlan, overrides: Mapping[str, Any]) -> str:
    try:
        parsed(plan, overrides)
    except Exception as error:
        if (sentence := one_sentence(error)) is None:
            raise
        return sentence
    return ""


def parsed(plan: SweepPlan, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration that a trial would have."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "overrides.json")
        file.write_text(json.dumps(dict(overrides)))
        return resolve("fit", ["--exp", plan.experiment, "--overrides", str(file)])
