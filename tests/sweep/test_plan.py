"""What a file of configs/sweeps says, and what is refused before anything runs."""

import math
from pathlib import Path

import pytest
import yaml

from trimask.errors import UsageError
from trimask.sweep import plan as plans
from trimask.sweep.check import UNSEEN, check
from trimask.sweep.plan import first_values, read, trial_values

ROOT = Path(__file__).parents[2]
NAMES = plans.names()
GOOD = {
    "program": "experiments/quickstart.yaml",
    "method": "grid",
    "metric": {"name": "val/miou", "goal": "maximize"},
    "parameters": {
        "trainer.max_epochs": {"value": 1},
        "model.optimizer.lr": {"values": [0.001, 0.002]},
        "trainer.gradient_clip_val": {"values": [None, 1.0]},
    },
}


@pytest.fixture
def write(tmp_path):
    def make(**changes):
        file = tmp_path / "mine.yaml"
        file.write_text(yaml.safe_dump({**GOOD, **changes}))
        return str(file)

    return make


def test_a_plan(write):
    plan = read(write())
    assert (plan.name, plan.experiment, plan.metric, plan.maximize) == ("mine", "quickstart", "val/miou", True)
    assert plan.varied == ["model.optimizer.lr", "trainer.gradient_clip_val"]
    assert plan.place == Path("runs/sweeps/mine")
    assert plan.better(2, 1)
    assert not read(write(metric={"name": "train/loss", "goal": "minimize"})).better(2, 1)
    assert first_values(plan) == {
        "trainer.max_epochs": 1,
        "model.optimizer.lr": 0.001,
        "trainer.gradient_clip_val": None,
    }


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"value": None}, [None]),
        ({"values": [True, [1, 2]]}, [True, [1, 2]]),
        ({"min": 1, "max": 5}, [1, 5]),
        ({"distribution": "log_uniform_values", "min": 1e-4, "max": 1e-2}, [1e-4, 1e-2]),
        ({"distribution": "log_uniform", "min": -2, "max": 0}, [math.exp(-2), 1.0]),
        ({"distribution": "normal", "mu": 0.5, "sigma": 0.1}, [0.5]),
        ({"distribution": "log_normal", "mu": 0, "sigma": 1}, [1.0]),
    ],
)
def test_values_that_a_check_tries(given, expected):
    assert (
        trial_values(given) == pytest.approx(expected) if given.get("distribution") else trial_values(given) == expected
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"metod": "grid"}, "there is no key 'metod' of a sweep; did you mean 'method'?"),
        ({"method": "tpe"}, "there are grid, random, bayes"),
        ({"metric": {"name": "val/miou"}}, "maximize or minimize"),
        ({"parameters": {}}, "lacks `parameters:`"),
        ({"parameters": {"model": {"parameters": {"lr": {"value": 1}}}}}, "write one dotted key for each"),
        ({"parameters": {"model.lr": 3}}, "needs value, a list of values, or a distribution"),
        ({"parameters": {"model.lr": {"values": []}}}, "needs value, a list of values, or a distribution"),
        ({"parameters": {"model.lr": {"values": 5}}}, "needs value, a list of values, or a distribution"),
        ({"parameters": {"model.lr": {"min": 0.1}}}, "needs value, a list of values, or a distribution"),
        ({"parameters": {"model.lr": {"min": "1e-4", "max": 1}}}, "the numbers min and max"),
        ({"parameters": {"model.lr": {"mu": 0.1}}}, "mu and sigma"),
    ],
)
def test_what_is_no_sweep(write, changes, said):
    with pytest.raises(UsageError, match=said.replace("?", r"\?")):
        read(write(**changes))


def test_an_unknown_sweep_names_the_nearest():
    with pytest.raises(UsageError, match="did you mean 'smoke'"):
        read("smok")


def test_an_unknown_experiment(write):
    with pytest.raises(ValueError, match="Did you mean quickstart"):
        read(write(program="quickstar"))


# --- the dry run ---


def test_a_good_sweep_passes(write):
    assert check(read(write())) == []


def test_every_mistake_is_found_at_once(write):
    parameters = {
        "model.optimizr.lr": {"values": [0.1, 0.2]},
        "trainer.max_epochs": {"values": [1, "many"]},
        "model.network.backbone": {"value": "resnet10t"},
    }
    found = check(read(write(parameters=parameters)))
    assert len(found) == 2
    assert found[0] == "model.optimizr.lr = 0.1: model: there is no option 'optimizr'; did you mean 'optimizer'?"
    assert found[1].startswith('trainer.max_epochs = "many":')


def test_a_metric_that_nobody_logs(write):
    [found] = check(read(write(metric={"name": "val/miuo", "goal": "maximize"})))
    assert found == "'val/miuo' is not a number that is logged; did you mean 'val/miou'?"


@pytest.mark.slow
@pytest.mark.parametrize(
    "metric", ["val/ece", "val/miou_worst_slice", "val/miou_time_of_day_night", "val/miou_weather"]
)
def test_measures_and_slices_are_logged(write, metric):
    parameters = {
        "model.measures": {"value": ["trimask.metrics.Calibration"]},
        "model.slices": {"value": {"tags": ["time of day"]}},
    }
    found = check(read(write(parameters=parameters, metric={"name": metric, "goal": "maximize"})))
    assert len(found) == (metric == "val/miou_weather")


def test_data_that_are_not_here(write):
    parameters = {"data.dataset": {"value": {"class_path": "trimask.data.CamVid", "init_args": {"root": "nowhere"}}}}
    [found] = check(read(write(parameters=parameters)))
    assert found.startswith(UNSEEN)
    assert "nowhere" in found


def test_values_that_do_not_go_together(write):
    parameters = {"model.criterion": {"value": {"class_path": "trimask.losses.Dice", "init_args": {"terms": []}}}}
    [found] = check(read(write(parameters=parameters)))
    assert found.startswith("model.criterion = ")


@pytest.mark.parametrize("name", NAMES)
def test_every_ready_sweep_is_small_and_says_what_it_is(name):
    path = ROOT / "configs" / "sweeps" / f"{name}.yaml"
    assert path.read_text().startswith("#")
    assert len(path.read_text().splitlines()) <= 40
    assert read(name).varied


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_ready_sweep_has_keys_and_values_that_exist(name):
    """The metric is looked at where the data lie."""
    assert [complaint for complaint in check(read(name)) if not complaint.startswith(UNSEEN)] == []
