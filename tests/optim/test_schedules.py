import math

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, MultiStepLR, PolynomialLR

from trimask.optim.schedules import Constant, Cosine, MultiStep, Polynomial, TwoStagePolynomial

TOTAL = 50


def optimizer(rates=(0.1, 0.02)):
    return torch.optim.SGD([{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": rate} for rate in rates])


def rates(optimizer, scheduler, num_steps):
    seen = []
    for _ in range(num_steps):
        seen.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    return torch.tensor(seen, dtype=torch.float64)


@pytest.mark.parametrize(
    ("schedule", "reference"),
    [
        (Polynomial(power=0.9), lambda opt: PolynomialLR(opt, total_iters=TOTAL, power=0.9)),
        (Polynomial(power=2), lambda opt: PolynomialLR(opt, total_iters=TOTAL, power=2)),
        (Cosine(), lambda opt: CosineAnnealingLR(opt, T_max=TOTAL)),
        (MultiStep(milestones=(0.5, 0.8)), lambda opt: MultiStepLR(opt, milestones=[25, 40])),
    ],
)
def test_equals_torch(schedule, reference):
    ours, theirs = optimizer(), optimizer()
    torch.testing.assert_close(
        rates(ours, schedule.build(ours, TOTAL), TOTAL), rates(theirs, reference(theirs), TOTAL), atol=1e-9, rtol=1e-6
    )


@pytest.mark.parametrize("step", [0, 1, 13, 49, 50])
def test_polynomial_equals_the_formula_of_mmsegmentation(step):
    base, minimum, power = 0.01, 1e-4, 0.9
    expected = (base - minimum) * (1 - step / TOTAL) ** power + minimum
    schedule = Polynomial(power=power, floor=minimum / base)
    assert base * schedule.factor(step, TOTAL) == pytest.approx(expected, rel=1e-9)


def test_polynomial_falls_to_one_rate_in_all_groups():
    """mmengine's PolyLR with an absolute `eta_min`, whatever the rate of a group."""
    ours, theirs = optimizer((0.1, 0.01)), optimizer((0.1, 0.01))
    seen = rates(ours, Polynomial(power=0.9, floor_rate=1e-4).build(ours, TOTAL), TOTAL + 2)
    expected = [
        [(base - 1e-4) * (1 - min(step / TOTAL, 1)) ** 0.9 + 1e-4 for base in (0.1, 0.01)] for step in range(TOTAL + 2)
    ]
    torch.testing.assert_close(seen, torch.tensor(expected, dtype=torch.float64), atol=1e-12, rtol=1e-9)
    with pytest.raises(ValueError, match="lies above a learning rate"):
        Polynomial(floor_rate=0.05).build(theirs, TOTAL)
    with pytest.raises(ValueError, match="contradict"):
        Polynomial(floor=0.1, floor_rate=0.05)


def test_two_stages_equal_the_formula_of_eomt():
    """Other parts rise over 5 steps, the backbone over the 10 behind them; each then falls over the rest of the 50."""
    ours = optimizer((0.1, 0.02))
    ours.param_groups[0]["name"], ours.param_groups[1]["name"] = "head_no_decay", "backbone_3"
    schedule = TwoStagePolynomial(power=0.9, warmup=5 / TOTAL, backbone_warmup=10 / TOTAL)
    seen = rates(ours, schedule.build(ours, TOTAL), TOTAL)

    def head(step):
        return step / 5 if step < 5 else (1 - (step - 5) / 45) ** 0.9

    def backbone(step):
        if step < 5:
            return 0.0
        return (step - 5) / 10 if step < 15 else (1 - (step - 15) / 35) ** 0.9

    expected = [[0.1 * head(step), 0.02 * backbone(step)] for step in range(TOTAL)]
    torch.testing.assert_close(seen, torch.tensor(expected, dtype=torch.float64), atol=1e-12, rtol=1e-9)


def test_two_stages_need_a_backbone_that_learns():
    with pytest.raises(ValueError, match="backbone that learns"):
        TwoStagePolynomial(warmup=0.1, backbone_warmup=0.1).build(optimizer(), TOTAL)


def test_cosine_ends_at_its_floor():
    schedule = Cosine(floor=0.1)
    assert schedule.factor(0, TOTAL) == 1
    assert schedule.factor(TOTAL // 2, TOTAL) == pytest.approx(0.55)
    assert schedule.factor(TOTAL, TOTAL) == pytest.approx(0.1)


def test_warmup_rises_linearly_and_then_leaves_the_schedule_alone():
    schedule, plain = Polynomial(warmup=0.2, warmup_start=0.1), Polynomial()
    ramp = [schedule.factor(step, TOTAL) / plain.factor(step, TOTAL) for step in range(TOTAL)]
    assert ramp[0] == pytest.approx(0.1)
    assert ramp[5] == pytest.approx(0.55)
    assert ramp[10:] == [1.0] * 40


@pytest.mark.parametrize("schedule", [Constant(), Polynomial(floor=0.1), Cosine(floor=0.1), MultiStep()])
def test_constant_after_the_end(schedule):
    last = schedule.factor(TOTAL, TOTAL)
    assert schedule.factor(TOTAL + 1, TOTAL) == schedule.factor(10 * TOTAL, TOTAL) == last


@pytest.mark.parametrize("schedule", [Constant(warmup=0.1), Polynomial(warmup=0.1), Cosine(warmup=0.1)])
def test_the_length_of_the_run_only_stretches_it(schedule):
    for step in range(TOTAL):
        assert schedule.factor(step, TOTAL) == pytest.approx(schedule.factor(4 * step, 4 * TOTAL))


def test_a_warmup_over_nothing_and_over_everything():
    assert Constant(warmup=0.0).factor(0, TOTAL) == 1
    assert Constant(warmup=1.0, warmup_start=0.0).factor(25, TOTAL) == pytest.approx(0.5)


def test_state_resumes():
    first, second = optimizer(), optimizer()
    whole = rates(first, Cosine(warmup=0.1).build(first, TOTAL), TOTAL)
    scheduler = Cosine(warmup=0.1).build(second, TOTAL)
    rates(second, scheduler, 20)
    third = optimizer()
    resumed = Cosine(warmup=0.1).build(third, TOTAL)
    resumed.load_state_dict(scheduler.state_dict())
    third.load_state_dict(second.state_dict())
    torch.testing.assert_close(rates(third, resumed, TOTAL - 20), whole[20:])


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (Constant, {"warmup": 3}),
        (Constant, {"warmup_start": -1}),
        (TwoStagePolynomial, {"backbone_warmup": 0.5, "warmup": 0.6}),
        (TwoStagePolynomial, {"floor_rate": 1e-5}),
        (Polynomial, {"power": -1}),
        (Polynomial, {"floor": 2}),
        (Cosine, {"floor": math.nan}),
        (MultiStep, {"milestones": (60, 80)}),
    ],
)
def test_settings_out_of_range_are_refused(kind, settings):
    with pytest.raises(ValueError, match=f"`{next(iter(settings))}`"):
        kind(**settings)


def test_a_run_without_steps_is_refused():
    with pytest.raises(ValueError, match="at least one step"):
        Constant().build(optimizer(), 0)
