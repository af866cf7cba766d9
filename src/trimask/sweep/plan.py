"""What a sweep is to do: a file of configs/sweeps, read and checked for what needs no search engine."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from trimask import experiments
from trimask.errors import UsageError, nearest

METHODS = ("grid", "random", "bayes")
GOALS = ("maximize", "minimize")
_KEYS = (
    "name",
    "description",
    "program",
    "method",
    "metric",
    "parameters",
    "early_terminate",
    "run_cap",
    "project",
    "entity",
)


@dataclass(frozen=True)
class SweepPlan:
    """Attributes:
    name: of its file; results lie in runs/sweeps/<name>.
    config: the mapping of the file, in W&B's schema.
    experiment: what --exp takes.
    metric: the logged number that is searched for.
    maximize: whether more of it is better.
    """

    name: str
    config: dict[str, Any]
    experiment: str
    metric: str
    maximize: bool

    @property
    def parameters(self) -> dict[str, dict[str, Any]]:
        """{key of the configuration: what it may be}."""
        return dict(self.config["parameters"])

    @property
    def varied(self) -> list[str]:
        """The keys that have more than one value."""
        return [key for key, given in self.parameters.items() if len(trial_values(given)) > 1]

    @property
    def place(self) -> Path:
        return Path("runs") / "sweeps" / self.name

    @property
    def filed_under(self) -> str:
        """What --as takes: apart from the experiment's own runs, of which the newest is measured and continued."""
        return f"sweeps/{self.name}"

    def better(self, one: float, other: float) -> bool:
        return one > other if self.maximize else one < other


def names() -> list[str]:
    return sorted(path.stem for path in (experiments.home() / "configs" / "sweeps").glob("*.yaml"))


def read(name: str) -> SweepPlan:
    """Args: name: of a file of configs/sweeps, or a path.

    Raises:
        UsageError: there is no such file, or it is not a sweep.
    """
    path = (
        Path(name) if name.endswith((".yaml", ".yml")) else experiments.home() / "configs" / "sweeps" / f"{name}.yaml"
    )
    if not path.is_file():
        raise UsageError(f"There is no sweep {name!r} ({path} does not exist){nearest(name, names())}")
    try:
        config = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise UsageError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(config, dict):
        raise UsageError(f"{path} must hold a mapping (program:, method:, metric:, parameters:).")
    return _plan(path, config)


def _plan(path: Path, config: dict[str, Any]) -> SweepPlan:
    if unknown := [key for key in config if key not in _KEYS]:
        raise UsageError(f"{path}: there is no key {unknown[0]!r} of a sweep{nearest(str(unknown[0]), _KEYS)}")
    if missing := [key for key in ("program", "method", "metric", "parameters") if not config.get(key)]:
        raise UsageError(f"{path} lacks `{missing[0]}:`, which every sweep has.")
    if config["method"] not in METHODS:
        raise UsageError(f"{path}: method is {config['method']!r}; there are {', '.join(METHODS)}.")
    metric = config["metric"]
    if not isinstance(metric, Mapping) or not metric.get("name") or metric.get("goal") not in GOALS:
        raise UsageError(
            f"{path}: `metric:` has a name, a logged number, and a goal, maximize or minimize; it is {metric}."
        )
    if not isinstance(config["parameters"], Mapping):
        raise UsageError(f"{path}: `parameters:` maps keys of the configuration to what they may be.")
    for key, given in config["parameters"].items():
        _require_parameter(path, key, given)
    experiment = str(config["program"]).removeprefix("experiments/").removesuffix(".yaml")
    if experiment not in experiments.names():
        experiment = str(config["program"])
    experiments.find(experiment)
    return SweepPlan(path.stem, config, experiment, metric["name"], metric["goal"] == "maximize")


def _require_parameter(path: Path, key: str, given: Any) -> None:
    if isinstance(given, Mapping) and "parameters" in given:
        raise UsageError(f"{path}: {key} nests `parameters:`; write one dotted key for each, e.g. {key}.<name>.")
    if not isinstance(given, Mapping) or not ("value" in given or _is_list(given) or _is_distribution(given)):
        raise UsageError(
            f"{path}: {key} needs value, a list of values, or a distribution (the numbers min and max, or mu and sigma); it "
            f"is {given!r}."
        )


def _is_list(given: Mapping[str, Any]) -> bool:
    return isinstance(given.get("values"), list) and bool(given["values"])


def _is_distribution(given: Mapping[str, Any]) -> bool:
    return any(all(type(given.get(end)) in (int, float) for end in ends) for ends in (("min", "max"), ("mu", "sigma")))


def trial_values(given: Mapping[str, Any]) -> list[Any]:
    """All values of a parameter where they are listed; the ends or the middle of a distribution."""
    if "value" in given:
        return [given["value"]]
    if "values" in given:
        return list(given["values"])
    distribution = given.get("distribution", "")
    ends = [given["min"], given["max"]] if "min" in given else [given["mu"]]
    if distribution.endswith(("log_uniform", "log_normal")):  # W&B states these by exponents of e
        ends = [math.exp(end) for end in ends]
    return (
        [1 / end for end in ends] if distribution.startswith("inv_") and not distribution.endswith("_values") else ends
    )


def first_values(plan: SweepPlan) -> dict[str, Any]:
    """One trial of the sweep, with the first value of each parameter."""
    return {key: trial_values(given)[0] for key, given in plan.parameters.items()}
