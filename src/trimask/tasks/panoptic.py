"""Panoptic segmentation: one segment a pixel, things one by one and stuff by class, measured by panoptic quality."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from rich.table import Table
from torchmetrics import Metric

from trimask.metrics import PanopticCalibration, PanopticQuality, PanopticScores, mean_quality
from trimask.metrics.panoptic_quality import panoptic_quality
from trimask.tasks.base import SegmentationModule
from trimask.tasks.tables import Breakdown, intervals, percent
from trimask.types import Panoptic, Target
from trimask.visualise.answers import panoptic_panel


class PanopticModule(SegmentationModule):
    """Asks outputs for `.panoptic()`. Logs `pq`, `sq`, `rq`, the same with `_things` and `_stuff`, and `pq_<class>`."""

    question = "panoptic"
    answer = Panoptic
    headline = "pq"
    default_metric = PanopticQuality
    calibrated_by = PanopticCalibration
    tells_classes = True

    def update_metric(self, metric: Metric, answer: Panoptic, target: Target, name: str) -> None:
        metric.update(answer, target, name=name)

    def score_values(self, scores: PanopticScores) -> dict[str, float]:
        by_class = {f"pq_{name}": float(value) for name, value in zip(self.classes.names, scores.pq, strict=True)}
        groups = {"": scores.all, "_things": scores.things, "_stuff": scores.stuff}
        return by_class | {
            f"{quality}{group}": getattr(qualities, quality)
            for group, qualities in groups.items()
            for quality in ("pq", "sq", "rq")
        }

    def score_table(self, scores: PanopticScores) -> Table:
        table = Table(title=f"{len(scores.pictures.names)} pictures", caption=scores.definition, caption_justify="left")
        for column in ("class", "PQ", "95 %", "SQ", "RQ", "matched", "wrong", "missed"):
            table.add_column(column, justify="left" if column == "class" else "right")
        things = sorted(self.classes.things)
        stuff = sorted(set(range(len(self.classes))) - self.classes.things)
        ends = intervals(scores.kept)
        for label in [*things, *stuff]:
            name = self.classes.names[label]
            pq, sq, rq = (percent(quality[label]) for quality in (scores.pq, scores.sq, scores.rq))
            table.add_row(name, pq, ends.get(f"pq_{name}", ""), sq, rq, *_counts(scores, [label]))
        table.add_section()
        for name, key, labels, means in (
            ("things", "pq_things", things, scores.things),
            ("stuff", "pq_stuff", stuff, scores.stuff),
            ("all", "pq", things + stuff, scores.all),
        ):
            qualities = percent(means.pq), ends.get(key, ""), percent(means.sq), percent(means.rq)
            table.add_row(name, *qualities, *_counts(scores, labels), style="bold")
        return table

    def breakdown(self, scores: PanopticScores) -> Breakdown:
        rows = scores.pictures.rows
        return Breakdown("PQ", scores.pictures.names, mean_quality(rows), panoptic_quality(rows))

    def draw(self, image: NDArray[np.uint8], target: Target, answer: Panoptic) -> NDArray[np.uint8]:
        return panoptic_panel(image, target, answer, self.classes)


def _counts(scores: PanopticScores, labels: list[int]) -> list[str]:
    """Segments of these classes: matched, wrong predictions, missed truth."""
    return [str(round(number)) for number in scores.sums[1:, labels].sum(axis=1)]
