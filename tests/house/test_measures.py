"""The fragments of configs/measures suit the experiments of their task, and every measure is in one of them or named there."""

import inspect

import pytest
import torch

from trimask import experiments, metrics
from trimask.metrics import Measure
from trimask.run.build import build

CASES = {
    "semantic": "quickstart",
    "instances": "quickstart_instance",
    "panoptic": "quickstart_panoptic",
    "bdd100k_slices": "quickstart",
}
FOLDER = experiments.home() / "configs" / "measures"


def test_every_fragment_is_tried_below():
    assert {path.stem for path in FOLDER.glob("*.yaml")} == set(CASES)


@pytest.mark.slow
@pytest.mark.parametrize(("fragment", "name"), CASES.items())
def test_a_fragment_on_top_of_an_experiment(fragment, name):
    told = experiments.load(FOLDER / f"{fragment}.yaml")
    with torch.device("meta"):
        module, _ = build(experiments.merge(experiments.find(name).config, told))
    asked = told["model"]["init_args"]
    kinds = [type(measure).__name__ for measure in module.val_further.measures]
    assert kinds == [path.rpartition(".")[2] for path in asked.get("measures", [])]
    assert (module.val_further.slices is None) == ("slices" not in asked)


def test_every_measure_is_named_in_a_fragment():
    text = "".join(path.read_text() for path in FOLDER.glob("*.yaml"))
    kinds = [kind for _, kind in inspect.getmembers(metrics, inspect.isclass) if issubclass(kind, Measure)]
    assert len(kinds) > 5
    for kind in kinds:
        assert kind is Measure or f"trimask.metrics.{kind.__name__}" in text, kind
