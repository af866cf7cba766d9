"""python -m trimask reproduce --exp NAME [--weights FILE | --ckpt_path RUN | --train] [--KEY=VALUE ...]: measure an experiment
by its own protocol, compare with its published number, and write that into the ledger.

Without an experiment it prints the table over all of them. Exit code 1: a number is outside its tolerance, or was not run to the
end; of the table, the newest number of any experiment is outside.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.box import SIMPLE
from rich.progress import track
from rich.table import Table

from trimask import experiments
from trimask.errors import OptionParser, UsageError, one_sentence
from trimask.experiments import Experiment
from trimask.ledger import Entry, Verdict, data_fingerprint, entry, judge, newest
from trimask.ledger.circumstances import code, differences, hardware, seed, sha256, versions
from trimask.metrics import bootstrap_intervals, pictures
from trimask.run.build import headline
from trimask.run.child import run_to_its_end
from trimask.run.console import console
from trimask.run.data_source import built
from trimask.run.folder import RunFolder
from trimask.run.launch import resolve

STAGES = {"val": "validate", "test": "test"}


def reproduce(arguments: list[str]) -> int:
    options, overrides = _parser().parse_known_args(arguments)
    if options.exp is None:
        if overrides or options.weights or options.ckpt_path or options.train:
            raise UsageError(
                "What to reproduce? Give --exp NAME; without it, the table over all experiments is printed."
            )
        measured = measurements()
        console.print(table(measured))
        return (
            1 if any(found and found.verdict is Verdict.MISSED for pair in measured.values() for found in pair) else 0
        )
    if sum(map(bool, (options.weights, options.ckpt_path, options.train))) > 1:
        raise UsageError("--weights, --ckpt_path and --train say where the weights come from; give one of them.")
    experiment = experiments.find(options.exp)
    told = _Measurement(experiment, options.exp, overrides).entry(_weights(experiment, options, overrides))
    path = entry.write(told)
    _say(told, path)
    return 1 if told.verdict in (Verdict.MISSED, Verdict.NOT_RUN) else 0


def _parser() -> argparse.ArgumentParser:
    parser = OptionParser(
        prog="trimask reproduce", description="Measure an experiment and compare with what is published."
    )
    parser.add_argument("--exp", help="the experiment; without it, the table over all of them is printed")
    parser.add_argument("--weights", type=Path, help="measure this released checkpoint of any library")
    parser.add_argument(
        "--ckpt_path", type=Path, help="measure this checkpoint of a run of trimask, or a run's best one"
    )
    parser.add_argument("--train", action="store_true", help="train first, though a run is there")
    return parser


# --- which weights ---


@dataclass(frozen=True)
class _Weights:
    """Attributes:
    options: that have them measured.
    file: theirs.
    run: that trained them here.
    seconds: the training took, if it was part of this command.
    trouble: why there are none.
    """

    options: tuple[str, ...] = ()
    file: Path | None = None
    run: RunFolder | None = None
    seconds: float | None = None
    trouble: str = ""


def _weights(experiment: Experiment, options: argparse.Namespace, overrides: list[str]) -> _Weights:
    """Those that are named; else of the newest run of the experiment; else of a run that is made now."""
    if options.weights:
        if not options.weights.is_file():
            raise UsageError(f"--weights {options.weights} does not exist.")
        return _Weights((f"--weights={options.weights}", *overrides), options.weights)
    if options.ckpt_path:
        return _of_run(_checkpoint(options.ckpt_path), overrides)
    if not options.train:
        try:
            run = RunFolder.newest(experiment.name, "best")
        except ValueError:
            console.print(f"No run of {experiment.name} has a best.ckpt, so it is trained first.", highlight=False)
        else:
            console.print(
                f"Measuring {run.checkpoint('best')}, of the newest run (--train makes a new one).", highlight=False
            )
            return _of_run(run.checkpoint("best"), overrides)
    return _trained(options.exp, overrides)


def _checkpoint(given: Path) -> Path:
    file = RunFolder(given).checkpoint("best") if given.is_dir() else given
    if not file.is_file():
        raise UsageError(f"--ckpt_path {given} is neither a .ckpt file nor the folder of a run with a best.ckpt.")
    return file


def _of_run(checkpoint: Path, overrides: list[str]) -> _Weights:
    run = RunFolder.of_checkpoint(checkpoint)
    if run is None:
        raise UsageError(f"{checkpoint} lies in no run's folder; measure such a file with --weights.")
    return _Weights((f"--ckpt_path={checkpoint}", *overrides), checkpoint, run)


def _trained(name: str, overrides: list[str]) -> _Weights:
    """Overrides are of the training here; what is measured afterwards is set as the run was."""
    started = time.monotonic()
    status, folder = run_to_its_end(["fit", f"--exp={name}", *overrides])
    if folder is None or status or not folder.checkpoint("best").is_file():
        return _Weights(trouble=f"the training ended with exit code {status}; its message is above")
    return replace(_of_run(folder.checkpoint("best"), []), seconds=round(time.monotonic() - started, 1))


# --- measuring ---


class _Measurement:
    """Of an experiment, by the protocol that its baseline names.

    Args:
        experiment: that is measured.
        given: as it was named on the command line.
        overrides: settings on top.
    """

    def __init__(self, experiment: Experiment, given: str, overrides: list[str]) -> None:
        self.experiment, self.given, self.overrides = experiment, given, overrides
        self.baseline = experiment.baseline
        self.metric = self.baseline.metric or f"val/{headline(experiment.config)}"
        split = self.metric.partition("/")[0]
        if split not in STAGES:
            raise UsageError(
                f"{experiment.path}: `baseline.metric` is {self.metric!r}; it begins with the split, one of {', '.join(STAGES)}."
            )
        self.split, self.stage = split, STAGES[split]

    def entry(self, weights: _Weights) -> Entry:
        told = Entry(
            experiment=self.experiment.name,
            time=_now(),
            verdict=Verdict.NOT_RUN,
            why=weights.trouble,
            metric=self.metric,
            published=self.baseline.value,
            tolerance=self.baseline.tolerance,
            source=self.baseline.source,
            code=code(),
            versions=versions(),
            hardware=hardware(),
        )
        if weights.file is None:
            return told
        command = [self.stage, f"--exp={self.given}", *weights.options]
        config = resolve(command[0], command[1:])
        told = replace(
            told,
            command=["trimask", *command],
            weights={"file": weights.file.name, "sha256": sha256(weights.file)},
            trained_here=_training(weights.run, weights.seconds) if weights.run else None,
            differs=differences(resolve("fit", [f"--exp={self.given}"]), config),
            seed=seed(config) if weights.run else None,
        )
        try:
            told = replace(told, data=self._data(config))
        except Exception as error:
            if (sentence := one_sentence(error)) is None:
                raise
            return replace(told, why=f"the data cannot be read: {sentence}", time=_now())
        return self._measured(told, command)

    def _data(self, config: dict[str, Any]) -> dict[str, Any]:
        dataset = built(self.experiment.name, config, ()).data.split(self.split)
        samples = (dataset[index] for index in range(len(dataset)))
        seen = track(samples, f"reading the {self.split} split", len(dataset), console=console, transient=True)
        return data_fingerprint(dataset, self.split, seen).to_config()

    def _measured(self, told: Entry, command: list[str]) -> Entry:
        started = time.monotonic()
        status, folder = run_to_its_end(command)
        seconds = round(time.monotonic() - started, 1)
        if status or folder is None:
            why = f"`trimask {self.stage}` ended with exit code {status}; its message is above"
            return replace(told, why=why, time=_now(), seconds=seconds)
        scores = _scores(folder)
        told = replace(told, run=_relative(folder.path), scores=scores, seconds=seconds, time=_now())
        if self.metric not in scores:
            known = ", ".join(sorted(scores)) or "none, because trainer.logger is false"
            return replace(told, why=f"{self.metric} is not among the numbers that were logged: {known}")
        verdict, why = judge(self.baseline, scores[self.metric])
        interval = _interval(folder, self.metric.partition("/")[2])
        return replace(told, value=scores[self.metric], interval=interval, verdict=verdict, why=why)


def _training(run: RunFolder, seconds: float | None) -> dict[str, Any]:
    """Of the run that made the weights."""
    steps = 0
    if run.metrics.is_file():
        with run.metrics.open(newline="") as file:
            steps = max((int(row["step"]) + 1 for row in csv.DictReader(file)), default=0)
    return {"run": _relative(run.path), "steps": steps, "config": sha256(run.config), "seconds": seconds}


def _scores(folder: RunFolder) -> dict[str, float]:
    """Nothing where nothing was logged."""
    if not folder.metrics.is_file():
        return {}
    with folder.metrics.open(newline="") as file:
        [row] = csv.DictReader(file)
    return {name: float(value) for name, value in row.items() if "/" in name and value}


def _interval(folder: RunFolder, short_name: str) -> list[float] | None:
    """None where the metric does not keep its pictures."""
    if not folder.pictures.is_file():
        return None
    ends = {name.replace(" ", "_"): ends for name, ends in bootstrap_intervals(pictures.load(folder.pictures)).items()}
    return list(ends[short_name]) if short_name in ends else None


def _relative(path: Path) -> str:
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


# --- telling ---

_STYLE = {Verdict.MET: "green", Verdict.MISSED: "bold red", Verdict.NOT_RUN: "yellow", Verdict.RECORDED: ""}


def _say(measured: Entry, path: Path) -> None:
    published = "" if measured.published is None else f", published {measured.published:g} ± {measured.tolerance:g}"
    whose = "no weights"
    if measured.weights:
        whose = "trained here" if measured.trained_here else f"released weights {measured.weights['file']}"
    console.print(
        f"{measured.experiment}: {measured.metric} {_value(measured)}{published} ({whose}): "
        f"[{_STYLE[measured.verdict] or 'bold'}]{measured.verdict}[/], {_escaped(measured.why)}",
        highlight=False,
    )
    for key, (stated, used) in measured.differs.items():
        console.print(_escaped(f"  other than the experiment: {key} = {used} instead of {stated}"), highlight=False)
    console.print(_escaped(_relative(path)), highlight=False, soft_wrap=True)


def _escaped(text: str) -> str:
    return text.replace("[", "\\[")


def _value(measured: Entry) -> str:
    if measured.value is None:
        return ""
    ends = f" ({measured.interval[0]:.4f} - {measured.interval[1]:.4f})" if measured.interval else ""
    return f"{measured.value:.4f}{ends}"


Pair = tuple[Entry | None, Entry | None]  # the newest measurement of weights from elsewhere and of weights trained here


def measurements() -> dict[str, Pair]:
    """Of all experiments, by their names."""
    return {name: (newest(name, trained_here=False), newest(name, trained_here=True)) for name in experiments.names()}


def table(measured: Mapping[str, Pair]) -> Table:
    """What is published and what was measured."""
    found = Table("experiment", "published", title="the ledger", box=SIMPLE)
    for heading in ("weights evaluated", "trained here"):
        found.add_column(heading, overflow="fold")
    for name, pair in measured.items():
        found.add_row(name, experiments.find(name).baseline.published or "none", *map(_cell, pair))
    return found


def _cell(measured: Entry | None) -> str:
    if measured is None:
        return "not run"
    parts = [f"[{_STYLE[measured.verdict]}]{measured.verdict}[/]" if _STYLE[measured.verdict] else measured.verdict]
    if measured.value is not None:
        parts = [_value(measured), *parts]
    if measured.differs:
        parts.append(f"{len(measured.differs)} settings differ")
    commit = measured.code.get("commit")
    return " ".join([*parts, f"[dim]{measured.time[:10]}{' ' + commit[:7] if commit else ''}[/]"])
