"""The numbers that a task logs, before it has scored anything: what a run or a sweep may watch."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from trimask.errors import UsageError, nearest
from trimask.metrics.slices import plain_key
from trimask.tasks.base import SegmentationModule


def logged_numbers(module: SegmentationModule) -> list[str]:
    """What a validation logs, and the training loss. Names that depend on the values of a tag end in `*`."""
    metric, further = module.val_metric, module.val_further
    with warnings.catch_warnings():
        # torchmetrics: before any update, on purpose here
        warnings.filterwarnings("ignore", "The ``compute`` method", UserWarning)
        scores = metric.compute()
        beside = further.compute(scores, module.headline)
    metric.reset()  # which else would keep the scores of nothing
    further.reset()
    by_tag = [f"{module.headline}_{plain_key(tag)}_*" for tag in further.slices.tags] if further.slices else []
    names = [*module.score_values(scores), *beside.values(), *by_tag]
    return [*(f"val/{name.replace(' ', '_')}" for name in names), "train/loss"]


def is_among(number: str, logged: Sequence[str]) -> bool:
    return number in logged or any(name.endswith("*") and number.startswith(name[:-1]) for name in logged)


def require_logged(module: SegmentationModule, monitor: str) -> None:
    """Raises a UsageError for a number that no validation logs. The parts of the loss are known to the criterion alone."""
    if not monitor.startswith("train/") and not is_among(monitor, logged := logged_numbers(module)):
        raise UsageError(f"run.monitor is {monitor!r}, which is not a number that is logged{nearest(monitor, logged)}")
