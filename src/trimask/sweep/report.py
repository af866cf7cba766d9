"""What a sweep has found: results.csv, and index.html with a plot of the metric over each parameter. Own work.

The page is one file of HTML and SVG, since no plotting library is among trimask's dependencies.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from html import escape
from typing import Any

from trimask.run.disk import whole_file
from trimask.run.launch import in_short
from trimask.sweep.plan import SweepPlan
from trimask.sweep.trial import State, Trial

WIDTH, HEIGHT, MARGIN = 420, 260, 46  # pixels of a plot, and of the room for its labels
COLORS = {State.FINISHED: "#2563eb", State.STOPPED: "#d97706", State.FAILED: "#b3261e", State.RUNNING: "#68707a"}
BEST = "#16a34a"


def best_trial(plan: SweepPlan, trials: Sequence[Trial]) -> Trial | None:
    """The first of those with the best value; None where no trial has one."""
    best, best_value = None, None
    for one in trials:
        value = one.value(plan)
        if value is not None and (best_value is None or plan.better(value, best_value)):
            best, best_value = one, value
    return best


def best_line(plan: SweepPlan, trials: Sequence[Trial]) -> str:
    best = best_trial(plan, trials)
    if best is None:
        return f"no trial has a value of {plan.metric}"
    where = best.folder.path if best.folder else ""
    return f"best trial: {best.number}, {plan.metric} {best.value(plan):.4f} with {in_short(best.overrides)} -> {where}"


def write_report(plan: SweepPlan, trials: Sequence[Trial]) -> None:
    _write_csv(plan, trials)
    with whole_file(plan.place / "index.html") as fresh:
        fresh.write_text(page(plan, trials))


def _write_csv(plan: SweepPlan, trials: Sequence[Trial]) -> None:
    with whole_file(plan.place / "results.csv") as fresh, fresh.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["trial", "state", plan.metric, "validations", "seconds", "run", *plan.parameters, "why"])
        for one in trials:
            value, folder = one.value(plan), one.folder
            written = [_text(one.overrides.get(key)) for key in plan.parameters]
            row = [
                one.number,
                one.state,
                "" if value is None else repr(value),
                len(one.history(plan.metric)),
                one.seconds,
            ]
            writer.writerow([*row, folder.path if folder else "", *written, one.why])


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


# --- the page ---


def page(plan: SweepPlan, trials: Sequence[Trial]) -> str:
    """One plot a varied parameter, and the trials, the best first."""
    measured = [(one, value) for one in trials if (value := one.value(plan)) is not None]
    plots = "".join(_plot(plan, key, measured) for key in plan.varied) if measured else ""
    title = f"sweep {plan.name}"
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title><style>{_STYLE}</style></head><body>
<h1>{escape(title)}</h1><p>{escape(plan.experiment)}, {escape(plan.config["method"])} search, {len(trials)} trials.
{escape(best_line(plan, trials))}</p>
<div class="plots">{plots}</div>{_table(plan, trials)}</body></html>
"""


def _table(plan: SweepPlan, trials: Sequence[Trial]) -> str:
    def rank(one: Trial) -> tuple[bool, float]:
        value = one.value(plan)
        return value is None, 0.0 if value is None else (-value if plan.maximize else value)

    head = "".join(
        f"<th>{escape(key)}</th>" for key in ("trial", "state", plan.metric, *plan.varied, "seconds", "run", "")
    )
    rows = []
    for one in sorted(trials, key=rank):
        value = one.value(plan)
        cells = [one.number, one.state, "" if value is None else f"{value:.4f}"]
        cells += [in_short({"": one.overrides.get(key)})[1:] for key in plan.varied]
        cells += [f"{one.seconds:.0f}", one.folder.path.name if one.folder else "", one.why]
        rows.append(f"<tr>{''.join(f'<td>{escape(str(cell))}</td>' for cell in cells)}</tr>")
    return f"<table><tr>{head}</tr>{''.join(rows)}</table>"


def _plot(plan: SweepPlan, key: str, measured: Sequence[tuple[Trial, float]]) -> str:
    """The metric over one parameter, a point a trial; the best one stands out."""
    values = [one.overrides.get(key) for one, _ in measured]
    places, ticks = _axis(values)
    scores = [value for _, value in measured]
    low, high = min(scores), max(scores)
    best = best_trial(plan, [one for one, _ in measured])
    points = []
    for (one, score), place in zip(measured, places, strict=True):
        x = MARGIN + place * (WIDTH - 2 * MARGIN)
        y = _height(score, low, high)
        color, radius = (BEST, 7) if one is best else (COLORS[one.state], 4.5)
        told = escape(f"trial {one.number}: {score:.4f}, {in_short(one.overrides)}")
        points.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" fill="{color}"><title>{told}</title></circle>')
    labels = [
        f'<text x="{MARGIN + place * (WIDTH - 2 * MARGIN):.1f}" y="{HEIGHT - 22}" text-anchor="middle">{escape(text)}</text>'
        for place, text in ticks
    ]
    for score in dict.fromkeys((low, high)):
        labels.append(
            f'<text x="{MARGIN - 8}" y="{_height(score, low, high) + 4:.1f}" text-anchor="end">{score:.3g}</text>'
        )
    frame = f'<path d="M{MARGIN} 16V{HEIGHT - 40}H{WIDTH - 16}" class="frame"/>'
    name = f'<text x="{WIDTH / 2}" y="{HEIGHT - 4}" text-anchor="middle" class="name">{escape(key)}</text>'
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}">{frame}{"".join(labels)}{name}{"".join(points)}</svg>'


def _height(score: float, low: float, high: float) -> float:
    share = (score - low) / (high - low) if high > low else 0.5
    return HEIGHT - 52 - share * (HEIGHT - 84)


def _axis(values: Sequence[Any]) -> tuple[list[float], list[tuple[float, str]]]:
    """Where each value lies, 0..1, and the labels: numbers on a scale, logarithmic over more than a decade; all else in order."""
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        is_log = min(values) > 0 and max(values) > 10 * min(values)
        scaled = [math.log(value) if is_log else float(value) for value in values]
        low, high = min(scaled), max(scaled)
        places = [(value - low) / (high - low) if high > low else 0.5 for value in scaled]
        ends = dict.fromkeys([(min(places), f"{min(values):.3g}"), (max(places), f"{max(values):.3g}")])
        return places, list(ends)
    texts = [_text(value) for value in values]
    kinds = list(dict.fromkeys(texts))
    place = {text: (index + 0.5) / len(kinds) for index, text in enumerate(kinds)}
    named = {_text(value): in_short({"": value})[1:] for value in values}
    room = max(60 // len(kinds), 6)
    return [place[text] for text in texts], [(place[text], named[text][:room]) for text in kinds]


_STYLE = """
:root { color-scheme: light dark; font: 14px/1.45 system-ui, sans-serif; }
body { margin: 16px 24px; } .plots { display: flex; flex-wrap: wrap; gap: 12px; }
svg { max-width: 100%; height: auto; } text { font-size: 11px; fill: currentColor; }
.name { font-size: 12px; font-weight: 600; }
.frame { fill: none; stroke: #98a1ab; } circle { fill-opacity: .85; }
table { border-collapse: collapse; margin-top: 16px; }
td, th { text-align: left; padding: 3px 10px; border-bottom: 1px solid #98a1ab55; }
"""
