"""Every experiment and every fragment parses, builds and states a baseline or why there is none."""

import importlib.util
from pathlib import Path

import pytest
import yaml

from trimask import experiments
from trimask.experiments import Baseline

ROOT = Path(__file__).parents[2]
NAMES = experiments.names()


def test_the_names_are_those_of_the_files():
    assert {"quickstart", "human/unet_resnet50", "human/unet_efficientnet_lite0", "human/fcn_resnet50"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_experiment_states_a_baseline_or_why_none(name):
    assert str(experiments.find(name).baseline)


@pytest.mark.parametrize("name", NAMES)
def test_every_experiment_says_only_what_is_its_own(name):
    path = experiments.find(name).path
    assert len(path.read_text().splitlines()) <= 50
    body = yaml.safe_load(path.read_text())
    inherited = {}
    for fragment in body.pop("defaults"):
        inherited = experiments.merge(inherited, experiments.load(experiments.find_fragment(fragment, name)))
    assert not same_leaves(inherited, body), "repeats what its defaults say already"


def same_leaves(base, body, at=""):
    found = []
    for key, value in body.items():
        if key in base and isinstance(value, dict) and isinstance(base[key], dict):
            found += same_leaves(base[key], value, f"{at}.{key}")
        elif key in base and base[key] == value and key != "class_path":
            found.append(f"{at}.{key}")
    return found


@pytest.mark.parametrize("path", sorted((ROOT / "configs").rglob("*.yaml")), ids=lambda path: path.stem)
def test_every_fragment_is_small_and_says_what_it_is(path):
    text = path.read_text()
    assert text.startswith("#"), "a fragment opens with what it is"
    assert len(text.splitlines()) <= 25
    assert set(yaml.safe_load(text)) <= {"data", "model", "trainer", "run", "baseline"}


@pytest.mark.parametrize("name", NAMES)
def test_every_experiment_builds(name, tmp_path):
    from trimask.run.build import build

    config = experiments.find(name).config
    config["data"] = experiments.merge(config["data"], {"dataset": small_files(config["data"]["dataset"], tmp_path)})
    without_weights = {"init_args": {"network": {"init_args": {"pretrained": False}}}}
    config["model"] = experiments.merge(config["model"], without_weights)
    module, data = build(config)
    assert module.classes == data.classes
    sample = data.augment(data.split("train")[0], (0,))
    assert sample.image.shape[:2] == sample.segments.shape[1:]


def small_files(dataset, folder):
    """The dataset on small files in its native layout, as the contract test has them."""
    for file in sorted((ROOT / "tests" / "data" / "layouts").glob("*.py")):
        spec = importlib.util.spec_from_file_location(f"layouts_{file.stem}", file)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        for name, write in sorted(module.CASES.items()):
            case = write(new_folder(folder / file.stem / name))
            if case["class_path"] == dataset["class_path"]:
                return case
    return dataset


def new_folder(path):
    path.mkdir(parents=True)
    return path


def test_merging_replaces_the_arguments_of_another_class():
    base = {"a": {"class_path": "x.A", "init_args": {"p": 1}}, "b": [1, 2]}
    assert experiments.merge(base, {"a": {"class_path": "x.B"}}) == {"a": {"class_path": "x.B"}, "b": [1, 2]}
    assert experiments.merge(base, {"a": {"init_args": {"q": 2}}})["a"]["init_args"] == {"p": 1, "q": 2}
    assert experiments.merge(base, {"b": [3]})["b"] == [3]
    assert base["a"]["init_args"] == {"p": 1}


@pytest.mark.parametrize(
    "given", [{}, {"metric": "val/miou"}, {"metric": "m", "value": 1, "tolerance": 0, "source": "s", "none": "x"}]
)
def test_a_baseline_is_whole_or_explained(given):
    with pytest.raises(ValueError, match="baseline"):
        Baseline(**given)


def test_an_unknown_experiment_names_the_nearest():
    with pytest.raises(ValueError, match="Did you mean quickstart"):
        experiments.find("quikstart")
