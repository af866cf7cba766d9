"""Semantic segmentation: one class a pixel, measured by the papers' mean IoU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from rich.table import Table
from torchmetrics import Metric

from trimask.metrics import Calibration, SemanticConfusion, SemanticScores, mean_iou
from trimask.metrics.confusion import iou
from trimask.tasks.base import SegmentationModule
from trimask.tasks.tables import Breakdown, intervals, percent
from trimask.types import SemanticMap, Target
from trimask.visualise.draw import panel


class SemanticModule(SegmentationModule):
    """Asks outputs for `.semantic()`. Logs `miou`, `pixel_accuracy`, `mean_accuracy`, `mean_dice` and `iou_<class>`."""

    question = "semantic"
    answer = SemanticMap
    headline = "miou"
    default_metric = SemanticConfusion
    calibrated_by = Calibration
    least_classes = 2
    scored_by: ClassVar[Mapping[str, Any]] = {"scores": True}

    def update_metric(self, metric: Metric, answer: SemanticMap, target: Target, name: str) -> None:
        metric.update(answer.labels, target.semantic(self.classes.ignore_index), name=name)

    def score_values(self, scores: SemanticScores) -> dict[str, float]:
        values = {
            "miou": scores.miou,
            "pixel_accuracy": scores.pixel_accuracy,
            "mean_accuracy": scores.mean_accuracy,
            "mean_dice": scores.mean_dice,
        }
        return values | {f"iou_{name}": value for name, value in zip(self.classes.names, scores.iou, strict=True)}

    def score_table(self, scores: SemanticScores) -> Table:
        table = Table(title=f"{len(scores.pictures.names)} pictures", caption=scores.definition, caption_justify="left")
        for column in ("class", "IoU", "95 %", "accuracy", "Dice", "pixels"):
            table.add_column(column, justify="left" if column == "class" else "right")
        share = scores.confusion.sum(axis=1) / max(scores.confusion.sum(), 1)
        ends = intervals(scores.kept)
        for label, name in enumerate(self.classes.names):
            table.add_row(
                name + (" (not in the mean)" if label in scores.exclude else ""),
                percent(scores.iou[label]),
                ends.get(f"iou_{name}", ""),
                percent(scores.accuracy[label]),
                percent(scores.dice[label]),
                percent(share[label]),
            )
        table.add_section()
        table.add_row(
            "mean",
            percent(scores.miou),
            ends.get("miou", ""),
            percent(scores.mean_accuracy),
            percent(scores.mean_dice),
            percent(scores.pixel_accuracy) + " right",
            style="bold",
        )
        return table

    def breakdown(self, scores: SemanticScores) -> Breakdown:
        rows = scores.pictures.rows
        return Breakdown("IoU", scores.pictures.names, mean_iou(rows, scores.exclude), iou(rows), scores.confusion)

    def draw(self, image: NDArray[np.uint8], target: Target, answer: SemanticMap) -> NDArray[np.uint8]:
        truth = target.semantic(self.classes.ignore_index).cpu().numpy()
        return panel(image, truth, answer.labels.cpu().numpy(), self.classes)
