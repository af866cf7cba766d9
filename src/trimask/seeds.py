"""python -m trimask seeds --exp NAME --seeds 1,2,3 [--KEY=VALUE ...]: train an experiment with several seeds and say mean and
spread of what came out.

Each run is one of the experiment's own, in a process of its own, one after the other; W&B files them in one group. The summary
lies in runs/<experiment>/seeds/<time>.json. Exit code 1: a run came to no result.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from rich.table import Table

from trimask import experiments
from trimask.errors import OptionParser, UsageError
from trimask.run.build import headline
from trimask.run.child import run_to_its_end
from trimask.run.console import console
from trimask.run.folder import RunFolder

SETTINGS = ("seed_everything", "data.seed", "model.seed")  # initial weights; order and augmentation; dropout


def seeds(arguments: list[str]) -> int:
    options, overrides = _parser().parse_known_args(arguments)
    if any(override.startswith("--ckpt_path") for override in overrides):
        raise UsageError(
            "Each run of a group begins anew; of --ckpt_path (RESUME=1) all of them would be one run. To go on with one that was "
            f"killed: python -m trimask fit --exp {options.exp} --ckpt_path <its last.ckpt>."
        )
    experiment = experiments.find(options.exp)
    found: dict[int, RunFolder] = {}
    for number, seed in enumerate(options.seeds, 1):
        console.print(f"seed {seed} ({number} of {len(options.seeds)})", highlight=False)
        settings = [f"--{key}={seed}" for key in SETTINGS]
        status, folder = run_to_its_end(["fit", "--exp", options.exp, *overrides, *settings])
        if status == 0 and folder is not None:
            found[seed] = folder
    scores = {seed: best_scores(folder) for seed, folder in found.items()}
    summary = summarize(scores)
    if summary:
        console.print(table(experiment.name, scores, summary, f"val/{headline(experiment.config)}"))
        console.print(str(_write(experiment.name, found, scores, summary)), highlight=False, soft_wrap=True)
    if failed := [seed for seed in options.seeds if not scores.get(seed)]:
        console.print(f"no result with seed {', '.join(map(str, failed))}; the messages are above", highlight=False)
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = OptionParser(prog="trimask seeds", description="Train an experiment with several seeds.")
    parser.add_argument("--exp", required=True)
    parser.add_argument("--seeds", required=True, type=_seeds, help="whole numbers, e.g. 1,2,3")
    return parser


def _seeds(text: str) -> list[int]:
    parts = text.replace(",", " ").split()
    if not parts or not all(part.isdigit() for part in parts) or len(set(parts)) < len(parts):
        raise argparse.ArgumentTypeError(f"{text!r} is no list of different whole numbers, such as 1,2,3")
    return [int(part) for part in parts]


def best_scores(folder: RunFolder) -> dict[str, float]:
    """What the validation of best.ckpt logged; nothing where there was none."""
    config = yaml.safe_load(folder.config.read_text())
    monitor = config["run"]["monitor"] or f"val/{headline(config)}"
    if not folder.metrics.is_file():  # trainer.logger=false
        return {}
    with folder.metrics.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row.get(monitor) and not np.isnan(float(row[monitor]))]
    if not rows:
        return {}
    sign = 1 if config["run"]["mode"] == "max" else -1
    best = max(rows, key=lambda row: sign * float(row[monitor]))
    return {name: float(value) for name, value in best.items() if name.startswith("val/") and value}


def summarize(scores: Mapping[int, Mapping[str, float]]) -> dict[str, dict[str, Any]]:
    """{logged number: mean, standard deviation (of the sample), smallest and largest over the seeds that have it}."""
    names = dict.fromkeys(name for found in scores.values() for name in found)
    summary = {}
    for name in names:
        values = np.array([found[name] for found in scores.values() if not np.isnan(found.get(name, np.nan))])
        if values.size:
            spread = float(values.std(ddof=1)) if values.size > 1 else None
            ends = {"lowest": float(values.min()), "highest": float(values.max())}
            summary[name] = {"mean": float(values.mean()), "deviation": spread, **ends, "runs": int(values.size)}
    return summary


def table(
    experiment: str, scores: Mapping[int, Mapping[str, float]], summary: Mapping[str, Mapping[str, Any]], main: str
) -> Table:
    caption = "Of the best validation of each run. Deviation: of the sample, over trainings."
    found = Table(title=f"{experiment}, {len(scores)} seeds", caption=caption, caption_justify="left")
    for heading in ("", "mean", "deviation", *(f"seed {seed}" for seed in scores)):
        found.add_column(heading, justify="right" if heading else "left")
    for name, facts in summary.items():
        spread = "" if facts["deviation"] is None else f"{facts['deviation']:.4f}"
        each = (f"{run[name]:.4f}" if name in run else "" for run in scores.values())
        found.add_row(name, f"{facts['mean']:.4f}", spread, *each, style="bold" if name == main else "")
    return found


def _write(
    experiment: str,
    runs: Mapping[int, RunFolder],
    scores: Mapping[int, Mapping[str, float]],
    summary: Mapping[str, Any],
) -> Path:
    folder = Path("runs") / experiment / "seeds"
    folder.mkdir(parents=True, exist_ok=True)
    told: Sequence[dict[str, Any]] = [
        {"seed": seed, "run": str(run.path), "scores": scores[seed]} for seed, run in runs.items()
    ]
    path = folder / f"{datetime.now():%Y-%m-%d_%H-%M-%S_%f}.json"
    path.write_text(json.dumps({"summary": summary, "runs": told}, indent=1))
    return path
