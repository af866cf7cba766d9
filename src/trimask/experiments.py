"""An experiment is one YAML file: `defaults:` names shared fragments of configs/, the rest says what is its own.

    defaults: [data/human, model/unet, trainer/cpu]
    model:
      init_args: {network: {init_args: {backbone: resnet50}}}
    baseline: {metric: val/miou, value: 0.87, tolerance: 0.01, source: ...}

Fragments, which may have `defaults:` of their own, and experiment are merged in order into plain arguments of the command
line, later wins: mappings are merged key by key, everything else is replaced, and a new `class_path` drops the arguments of
the old class.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml


@dataclass(frozen=True)
class Baseline:
    """The published number that an experiment is to reproduce, or the reason why there is none.

    Attributes:
        metric: a logged key, e.g. "val/miou".
        value: as published, in the unit in which trimask logs the metric (ratios in 0..1).
        tolerance: how far a reproduction may lie off.
        source: where it was published.
        none: why there is no published number; instead of all others.
    """

    metric: str | None = None
    value: float | None = None
    tolerance: float | None = None
    source: str | None = None
    none: str | None = None

    def __post_init__(self) -> None:
        stated = [fact is not None for fact in (self.metric, self.value, self.tolerance, self.source)]
        if not all(stated) if self.none is None else any(stated):
            raise ValueError(
                "`baseline:` needs metric, value, tolerance and source, or else only `none:` with the reason why no "
                f"number was published; got {self!r}."
            )

    @property
    def published(self) -> str:
        """The number as a person reads it; empty where there is none."""
        return "" if self.none else f"{self.metric} {self.value:g} ± {self.tolerance:g}"


@dataclass(frozen=True)
class Experiment:
    """Attributes: name: as given to `--exp`; path: its file; config: the merged mapping."""

    name: str
    path: Path
    config: dict[str, Any]

    @property
    def baseline(self) -> Baseline:
        return Baseline(**self.config.get("baseline", {}))


def home() -> Path:
    """The folder that holds experiments/ and configs/: the working directory, or else the checkout of this package."""
    checkout = Path(__file__).resolve().parents[2]
    return Path.cwd() if Path("experiments").is_dir() else checkout


def names() -> list[str]:
    """All experiments, as `--exp` takes them."""
    root = home() / "experiments"
    return sorted(path.relative_to(root).with_suffix("").as_posix() for path in root.rglob("*.yaml"))


def find(name: str) -> Experiment:
    """The experiment of a name (below experiments/) or a path to a YAML file.

    Raises:
        ValueError: no such experiment, with the nearest names; or a file that is not an experiment.
    """
    is_file = name.endswith((".yaml", ".yml"))
    path = Path(name) if is_file else home() / "experiments" / f"{name}.yaml"
    if not path.is_file():
        near = difflib.get_close_matches(name, names(), n=3, cutoff=0.4)
        hint = f"Did you mean {' or '.join(near)}?" if near else "`trimask list` shows all."
        raise ValueError(f"There is no experiment {name!r} ({path} does not exist). {hint}")
    return Experiment(path.stem if is_file else name, path, load(path))


def load(path: Path) -> dict[str, Any]:
    """One YAML file with its `defaults:` merged in.

    Raises:
        ValueError: a file that does not parse, is not a mapping, or names a fragment that does not exist.
    """
    try:
        body = yaml.safe_load(path.read_text()) or {}
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(body, dict):
        raise ValueError(
            f"{path} must hold a mapping (data:, model:, trainer:, ...); it holds a {type(body).__name__}."
        )
    merged: dict[str, Any] = {}
    for fragment in body.pop("defaults", None) or []:
        merged = merge(merged, load(find_fragment(fragment, path)))
    return merge(merged, body)


def find_fragment(name: str, asked_by: Path | str) -> Path:
    path = home() / "configs" / f"{name}.yaml"
    if not path.is_file():
        root = home() / "configs"
        known = [entry.relative_to(root).with_suffix("").as_posix() for entry in root.rglob("*.yaml")]
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.4) or sorted(known)
        raise ValueError(f"{asked_by} names the fragment {name!r}, but {path} does not exist. Near: {', '.join(near)}.")
    return path


def merge(base: Mapping[str, Any], over: Mapping[str, Any], *, keep_arguments: bool = False) -> dict[str, Any]:
    """`base` changed by `over`; neither is modified. Another class begins without the arguments of the one before, unless they
    are to be kept: those of `model`, a task, which all tasks share."""
    result = dict(base)
    other = "class_path" in base and over.get("class_path", base["class_path"]) != base["class_path"]
    if other and not keep_arguments:
        result.pop("init_args", None)
    for key, value in over.items():
        old = result.get(key)
        if isinstance(old, Mapping) and isinstance(value, Mapping):
            value = merge(old, value, keep_arguments=key == "model")
        result[key] = value
    return result
