"""One measurement of an experiment, and what it says about the published number."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from trimask import experiments
from trimask.experiments import Baseline
from trimask.run.folder import names_of_a_moment


class Verdict(StrEnum):
    MET = "met"  # within the tolerance of the published number
    MISSED = "missed"  # outside, on either side
    NOT_RUN = "not run"
    RECORDED = "recorded"  # there is no published number


@dataclass(frozen=True)
class Entry:
    """Attributes:
    experiment: its name.
    time: when the measurement ended, ISO 8601 with the offset.
    verdict, why: and the reason, one sentence.
    metric: the logged number that was published, or the headline of the task.
    value, interval: as measured, 0..1, and the ends of its 95 % bootstrap interval over pictures.
    published, tolerance, source: of the baseline; None where there is none.
    weights: of the weights that were measured: file, sha256.
    trained_here: the run that trained them: folder, steps, hash of its config.yaml, and seconds if this command started it;
        None for weights from elsewhere.
    differs: settings other than the experiment's own: {key: [the experiment's, this one's]}.
    scores: every number of the measurement; what has no value is null in the file.
    data: see `DataFingerprint`.
    seed: of the run; a mapping where the parts have different ones.
    code, versions, hardware: see `circumstances`.
    seconds: the measurement took, without training.
    command: that measured.
    run: the folder of the measurement.
    """

    experiment: str
    time: str
    verdict: Verdict
    why: str
    metric: str
    value: float | None = None
    interval: list[float] | None = None
    published: float | None = None
    tolerance: float | None = None
    source: str | None = None
    weights: dict[str, str] | None = None
    trained_here: dict[str, Any] | None = None
    differs: dict[str, list[Any]] = field(default_factory=dict)
    scores: dict[str, float] = field(default_factory=dict)
    data: dict[str, Any] | None = None
    seed: Any = None
    code: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    hardware: dict[str, Any] = field(default_factory=dict)
    seconds: float | None = None
    command: list[str] = field(default_factory=list)
    run: str | None = None


def judge(baseline: Baseline, value: float) -> tuple[Verdict, str]:
    """Whether a value reproduces what was published, and a sentence that says by how much.

    Better than published is outside the tolerance, too: something else was measured then.
    """
    if baseline.none is not None:
        return Verdict.RECORDED, baseline.none
    assert baseline.value is not None
    assert baseline.tolerance is not None
    if math.isnan(value):
        return Verdict.MISSED, f"{baseline.metric} has no value: no picture showed anything to score"
    gap = value - baseline.value
    met = abs(gap) <= baseline.tolerance + 1e-9
    side = "above" if gap > 0 else "below"
    how = "within" if met else "outside"
    return (
        Verdict.MET if met else Verdict.MISSED,
        f"{abs(gap):.4f} {side} the published {baseline.value:g}, {how} the tolerance of {baseline.tolerance:g}",
    )


def folder(root: Path | None = None) -> Path:
    return (root or experiments.home()) / "experiments" / "ledger"


def write(entry: Entry, root: Path | None = None) -> Path:
    """Into a new file, see `names_of_a_moment`; none is ever replaced. Args: root: the folder that holds experiments/, by default
    `home()`."""
    place = folder(root) / entry.experiment
    place.mkdir(parents=True, exist_ok=True)
    text = json.dumps(_without_nan(asdict(entry)), indent=1, allow_nan=False) + "\n"
    for name in names_of_a_moment(datetime.fromisoformat(entry.time)):
        try:
            with (place / f"{name}.json").open("x") as file:
                file.write(text)
        except FileExistsError:
            continue
        return place / f"{name}.json"
    raise RuntimeError(f"A thousand measurements of {entry.experiment} ended in one second.")


def read(path: Path) -> Entry:
    """Raises: ValueError: a file that is no entry."""
    try:
        found = json.loads(path.read_text())
        known = {entry.name for entry in fields(Entry)}
        return Entry(**{**{key: found[key] for key in found if key in known}, "verdict": Verdict(found["verdict"])})
    except (json.JSONDecodeError, TypeError, KeyError, ValueError) as error:
        raise ValueError(f"{path} is no entry of the ledger ({error}); remove it or restore it from git.") from error


def newest(experiment: str, *, trained_here: bool, root: Path | None = None) -> Entry | None:
    """The last measurement of weights that were trained here, or of weights from elsewhere, if there is one."""
    paths = (folder(root) / experiment).glob("*.json")
    for path in sorted(paths, key=lambda path: path.stem, reverse=True):
        entry = read(path)
        if (entry.trained_here is not None) == trained_here:
            return entry
    return None


def _without_nan(value: Any) -> Any:
    """JSON has no nan: what has no value is null."""
    if isinstance(value, dict):
        return {key: _without_nan(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
