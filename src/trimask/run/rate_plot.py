"""The learning rate over the whole run as a small plot, said before the first step: a warm-up that is too long, a run that ends
before its schedule does and a part that rests are seen at once. The rates are asked of the schedule itself. Own work.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

import lightning as L
import numpy as np
from numpy.typing import NDArray
from torch.optim.lr_scheduler import LambdaLR

log = logging.getLogger("trimask")
_BLOCKS = " ▁▂▃▄▅▆▇█"
WIDTH = 64  # columns of bars
ROWS = {1: 5, 2: 3}  # text rows of each plot, by the number of plots
_SAME_SHAPE = 1e-6


class Curve(NamedTuple):
    """The rate of some parameter groups. Attributes: names: of the groups; rates: (WIDTH,) over the run."""

    names: tuple[str, ...]
    rates: NDArray[np.float64]

    @property
    def shape(self) -> NDArray[np.float64]:
        return self.rates / max(self.rates.max(), np.finfo(float).tiny)


class RatePlot(L.Callback):
    """Says it when training starts."""

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        total = int(trainer.estimated_stepping_batches)
        [scheduler] = [config.scheduler for config in trainer.lr_scheduler_configs]
        log.info(plot(curves(scheduler, total), total))


def curves(scheduler: LambdaLR, total_steps: int) -> list[Curve]:
    """One of every rate that differs, the highest first. Groups that differ in their weight decay alone count as one."""
    steps = np.unique(np.linspace(0, total_steps - 1, WIDTH).astype(int))
    columns = np.minimum(np.arange(WIDTH) * len(steps) // WIDTH, len(steps) - 1)
    found: list[Curve] = []
    for group, base, factor in zip(
        scheduler.optimizer.param_groups, scheduler.base_lrs, scheduler.lr_lambdas, strict=True
    ):
        rates = np.array([base * factor(int(step)) for step in steps])[columns]
        name = str(group.get("name", "all")).removesuffix("_no_decay")
        for index, known in enumerate(found):
            if np.array_equal(known.rates, rates):
                found[index] = Curve(tuple(dict.fromkeys((*known.names, name))), rates)
                break
        else:
            found.append(Curve((name,), rates))
    return sorted(found, key=lambda curve: -curve.rates.max())


def plot(found: Sequence[Curve], total_steps: int) -> str:
    """At most ten lines: the curve of the highest rate, below it that of the lowest where it has another shape, and the others
    by their peaks."""
    first, last = found[0], found[-1]
    shown = [first] if np.allclose(first.shape, last.shape, atol=_SAME_SHAPE) else [first, last]
    lines = []
    for curve in shown:
        lines += _bars(curve, ROWS[len(shown)])
    named = {id(curve) for curve in shown}
    labels = [_label(curve) for curve in shown]
    others = [curve for curve in found if id(curve) not in named]
    if len(others) > 3:
        labels.append(f"{len(others)} more between {_peak(others[0])} and {_peak(others[-1])}")
    else:
        labels += [_label(curve) for curve in others]
    return "\n".join([f"learning rate, peak of {'; '.join(labels)}", *lines, *_axis(total_steps)])


def _bars(curve: Curve, num_rows: int) -> list[str]:
    """One bar a column, eighths of a row high; what is not zero shows."""
    eighths = np.maximum(np.ceil(curve.shape * num_rows * 8 - _SAME_SHAPE), curve.rates > 0).astype(int)
    lines = []
    for row in range(num_rows):
        height = np.clip(eighths - (num_rows - 1 - row) * 8, 0, 8)
        edge = {0: curve.rates.max(), num_rows - 1: 0.0}.get(row)
        label = "" if edge is None else f"{edge:.3g}"
        lines.append(f"{label:>9} ┤{''.join(_BLOCKS[value] for value in height)}".rstrip())
    return lines


def _axis(total_steps: int) -> list[str]:
    middle = WIDTH // 2
    numbers = f"0{total_steps // 2:>{middle}}{f'{total_steps} steps':>{middle}}"
    return [f"{'':>9} └{'─' * (middle - 1)}┬{'─' * (middle - 1)}┐", f"{'':>11}{numbers}"]


def _label(curve: Curve) -> str:
    names = curve.names if len(curve.names) <= 3 else (curve.names[0], "...", curve.names[-1])
    return f"{', '.join(names)}: {_peak(curve)}"


def _peak(curve: Curve) -> str:
    return f"{curve.rates.max():.3g}"
