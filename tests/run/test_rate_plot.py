"""The plot shows what the schedule does: its warm-up, its peaks, which parts differ, in at most ten lines."""

import numpy as np
import pytest
import torch
from torch import nn

from trimask.optim import Constant, Cosine, MultiStep, Polynomial, TwoStagePolynomial
from trimask.run.rate_plot import WIDTH, curves, plot


def scheduler(schedule, rates, total):
    groups = [{"name": name, "params": [nn.Parameter(torch.zeros(1))], "lr": rate} for name, rate in rates.items()]
    return schedule.build(torch.optim.SGD(groups, lr=1.0), total)


LAYERS = {f"backbone_{layer}": 1e-5 * 0.8 ** (12 - layer) for layer in range(12)} | {"head": 1e-4}


@pytest.mark.parametrize(
    ("schedule", "rates", "total"),
    [
        (Polynomial(warmup=0.1), {"backbone": 1e-4, "backbone_no_decay": 1e-4, "head": 1e-3}, 4000),
        (TwoStagePolynomial(warmup=0.1, backbone_warmup=0.2), LAYERS, 4000),
        (Polynomial(floor_rate=1e-7), LAYERS | {"backbone_0": 2e-6, "backbone_1": 3e-6}, 160_000),
        (MultiStep(), {"head": 0.02}, 7),
        (Constant(), {"head": 0.02}, 1),
    ],
)
def test_any_schedule_in_ten_lines_of_eighty_columns(schedule, rates, total):
    lines = plot(curves(scheduler(schedule, rates, total), total), total).splitlines()
    assert len(lines) <= 10
    assert max(map(len, lines[1:])) <= 80
    assert lines[-1].endswith(f"{total} steps")


def test_the_curves_are_the_schedule_itself():
    schedule = Cosine(warmup=0.5)
    found = curves(scheduler(schedule, {"backbone": 0.1, "backbone_no_decay": 0.1, "head": 0.2}, 64), 64)
    assert [curve.names for curve in found] == [("head",), ("backbone",)]
    assert len(found[0].rates) == WIDTH
    expected = [0.2 * schedule.factor(step, 64) for step in range(64)]
    np.testing.assert_allclose(found[0].rates, expected)


def test_what_a_person_reads():
    text = plot(
        curves(scheduler(Constant(warmup=0.25, warmup_start=1e-9), {"head": 0.5, "backbone": 0.05}, 64), 64), 64
    )
    assert text.splitlines() == [
        "learning rate, peak of head: 0.5; backbone: 0.05",
        "      0.5 ┤             ▁▃▆" + "█" * 48,
        "          ┤          ▁▄▆███" + "█" * 48,
        "          ┤       ▂▄▇██████" + "█" * 48,
        "          ┤    ▂▅▇█████████" + "█" * 48,
        "        0 ┤▁▃▅█████████████" + "█" * 48,
        "          └───────────────────────────────┬───────────────────────────────┐",
        "           0                              32                        64 steps",
    ]


def test_parts_with_another_course_get_a_plot_of_their_own():
    text = plot(curves(scheduler(TwoStagePolynomial(warmup=0.1, backbone_warmup=0.2), LAYERS, 4000), 4000), 4000)
    assert text.count("        0 ┤") == 2
    assert "11 more between" in text
    lines = text.splitlines()
    assert lines[6].startswith("        0 ┤       ▂"), "the backbone rests first"
