"""Instance segmentation: a mask, a class and a score for each countable object, measured by COCO's average precision."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from rich.table import Table
from torchmetrics import Metric

from trimask.metrics import AveragePrecision, Averages, InstanceCalibration, InstanceScores
from trimask.metrics.average_precision import InstancePictures
from trimask.metrics.bootstrap import NUM_RESAMPLES
from trimask.metrics.confusion import class_mean
from trimask.tasks.base import SegmentationModule
from trimask.tasks.tables import Breakdown, intervals, percent
from trimask.types import Instances, Target
from trimask.visualise.answers import instance_panel

DRAWN, FEWEST = 2**28, 200  # detections in all draws of an interval of the table; draws


class InstanceModule(SegmentationModule):
    """Asks outputs for `.instances()` of the classes that are things; segments of stuff are no truth.

    Logs `map`, `map50`, `map75`, `map_small|medium|large`, `mar` and `map_<class>` of masks, and the same of boxes as `box_...`.
    """

    question = "instances"
    answer = Instances
    headline = "map"
    default_metric = AveragePrecision
    calibrated_by = InstanceCalibration
    tells_classes = True

    def update_metric(self, metric: Metric, answer: Instances, target: Target, name: str) -> None:
        metric.update(answer, target, name=name)

    def score_values(self, scores: InstanceScores) -> dict[str, float]:
        by_class = {f"map_{self.classes.names[label]}": float(scores.masks.by_class[label]) for label in self._things}
        boxes = {f"box_{name}": value for name, value in _values(scores.boxes).items()}
        return by_class | boxes | _values(scores.masks)

    def score_table(self, scores: InstanceScores) -> Table:
        table = Table(title=f"{scores.num_pictures} pictures", caption=scores.definition, caption_justify="left")
        for column in ("class", "AP", "95 %", "AP50", "AP75", "AR", "box AP"):
            table.add_column(column, justify="left" if column == "class" else "right")
        masks, boxes, ends = scores.masks, scores.boxes, _intervals(scores.kept)
        columns = (masks.by_class50, masks.by_class75, masks.recall_by_class, boxes.by_class)
        for label in self._things:
            name = self.classes.names[label]
            cells = percent(masks.by_class[label]), ends.get(f"map_{name}", "")
            table.add_row(name, *cells, *(percent(column[label]) for column in columns))
        table.add_section()
        means = (masks.ap50, masks.ap75, masks.ar100, boxes.ap)
        table.add_row("mean", percent(masks.ap), ends.get("map", ""), *map(percent, means), style="bold")
        for name, ap, ar, box_ap in (
            ("of small objects, to 32 x 32 pixels", masks.ap_small, masks.ar_small, boxes.ap_small),
            ("of medium ones, to 96 x 96", masks.ap_medium, masks.ar_medium, boxes.ap_medium),
            ("of large ones", masks.ap_large, masks.ar_large, boxes.ap_large),
        ):
            table.add_row(name, percent(ap), "", "", "", percent(ar), percent(box_ap))
        return table

    def breakdown(self, scores: InstanceScores) -> Breakdown:
        by_class = scores.by_picture()
        return Breakdown("AP", scores.pictures, class_mean(by_class), by_class)

    def asked_of(self, target: Target) -> Target:
        return target.only(self.classes.things)

    def draw(self, image: NDArray[np.uint8], target: Target, answer: Instances) -> NDArray[np.uint8]:
        return instance_panel(image, target, answer, self.classes)

    @property
    def _things(self) -> list[int]:
        return sorted(self.classes.things)


def _intervals(pictures: InstancePictures | None) -> dict[str, str]:
    """From fewer draws where there are many detections, so that COCO's 5000 pictures take half a minute."""
    if pictures is None:
        return {}
    return intervals(pictures, min(NUM_RESAMPLES, max(DRAWN // max(len(pictures.place), 1), FEWEST)))


def _values(averages: Averages) -> dict[str, float]:
    return {
        "map": averages.ap,
        "map50": averages.ap50,
        "map75": averages.ap75,
        "map_small": averages.ap_small,
        "map_medium": averages.ap_medium,
        "map_large": averages.ap_large,
        "mar": averages.ar100,
    }
