"""What a run may watch is known before it starts, and asking leaves the metric as it was."""

import pytest
import torch
from torch import nn

from trimask.errors import UsageError
from trimask.metrics import Calibration, Slices
from trimask.outputs import DenseOutput
from trimask.run.logged import require_logged
from trimask.tasks import SemanticModule
from trimask.types import ClassSpec


class Network(nn.Module):
    output = DenseOutput


def module(**settings):
    return SemanticModule(ClassSpec(["road", "blue car"]), lambda num_classes: Network(), nn.Identity(), **settings)


@pytest.mark.parametrize(
    ("settings", "monitor"),
    [
        ({}, "val/miou"),
        ({}, "val/iou_blue_car"),
        ({}, "train/loss"),
        ({}, "train/dice"),
        ({"measures": [Calibration]}, "val/ece"),
        ({"slices": Slices(["weather"])}, "val/miou_weather_rainy"),
        ({"slices": Slices(["weather"])}, "val/miou_worst_slice"),
    ],
)
def test_what_is_logged(settings, monitor):
    require_logged(module(**settings), monitor)


@pytest.mark.parametrize("monitor", ["miou", "val/mIoU", "val/iou_blue car", "val/ece", "val/miou_weather_rainy"])
def test_what_is_not(monitor):
    with pytest.raises(UsageError, match=f"run.monitor is '{monitor}', which is not a number that is logged"):
        require_logged(module(), monitor)


def test_the_metric_measures_afterwards():
    task = module()
    require_logged(task, "val/miou")
    task.val_metric.update(torch.zeros(2, 2, dtype=torch.long), torch.zeros(2, 2, dtype=torch.long), name="a")
    assert task.val_metric.compute().miou == 1
