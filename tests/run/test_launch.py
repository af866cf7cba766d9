"""What a command line becomes before anything is made."""

import json

import pytest

from trimask.errors import UsageError
from trimask.run.launch import compose, in_short, resolve

OVERRIDES = {
    "model.network.backbone": "resnet18",
    "model.network.pretrained": True,
    "model.optimizer.lr": 0.003,
    "model.criterion": {
        "class_path": "trimask.losses.DenseCriterion",
        "init_args": {"terms": [{"class_path": "trimask.losses.Dice", "init_args": {"weight": 0.5}}]},
    },
    "data.augment": [{"class_path": "albumentations.HorizontalFlip"}],
    "data.cache_limit": None,
    "trainer.max_epochs": 2,
}


@pytest.fixture
def overrides(tmp_path):
    file = tmp_path / "overrides.json"
    file.write_text(json.dumps(OVERRIDES))
    return file


def test_values_of_a_file_arrive_whole(overrides):
    config = resolve("fit", ["--exp", "quickstart", "--overrides", str(overrides)])
    model = config["model"]["init_args"]
    assert model["network"]["init_args"]["backbone"] == "resnet18"
    assert model["network"]["init_args"]["pretrained"] is True
    assert model["network"]["init_args"]["decoder_channels"] == [96, 64, 48, 32, 16], "of the experiment"
    assert model["optimizer"]["init_args"]["lr"] == 0.003
    [term] = model["criterion"]["init_args"]["terms"]
    assert (term["class_path"], term["init_args"]["weight"]) == ("trimask.losses.Dice", 0.5)
    assert [entry["class_path"] for entry in config["data"]["augment"]] == ["albumentations.HorizontalFlip"]
    assert config["data"]["cache_limit"] is None
    assert config["trainer"]["max_epochs"] == 2


def test_an_option_wins_over_the_file(overrides):
    composed = compose("fit", ["--exp", "quickstart", "--overrides", str(overrides), "--trainer.max_epochs=7"])
    assert composed.arguments[-1] == "--trainer.max_epochs=7"
    assert composed.arguments.index("--trainer.max_epochs=2") < len(composed.arguments) - 1


def test_what_a_run_is_filed_under_and_called(overrides):
    composed = compose("fit", ["--exp", "quickstart", "--overrides", str(overrides), "--as", "sweeps/first"])
    assert composed.name == "sweeps/first"
    assert composed.title == (
        "backbone=resnet18 pretrained=True lr=0.003 criterion=DenseCriterion augment=[HorizontalFlip] "
        "cache_limit=None max_epochs=2"
    )
    plain = compose("fit", ["--exp", "quickstart"])
    assert (plain.name, plain.title) == ("quickstart", None)
    assert in_short({}) == ""


def test_an_unknown_key_is_said_before_anything_is_made(tmp_path):
    file = tmp_path / "o.json"
    file.write_text('{"model.netwrk.backbone": "resnet18"}')
    with pytest.raises(UsageError, match="did you mean 'network'"):
        resolve("fit", ["--exp", "quickstart", "--overrides", str(file)])


@pytest.mark.parametrize(("text", "said"), [("[1]", "holds a list"), ("{", "no JSON"), (None, "no JSON")])
def test_a_file_that_is_no_mapping(text, said, tmp_path):
    file = tmp_path / "o.json"
    if text:
        file.write_text(text)
    with pytest.raises(UsageError, match=said):
        compose("fit", ["--exp", "quickstart", "--overrides", str(file)])


def test_defaults_of_an_augmentation_are_no_warning(tmp_path, recwarn):
    file = tmp_path / "overrides.json"
    file.write_text(json.dumps({"data.augment": [{"class_path": "albumentations.ColorJitter"}]}))
    config = resolve("fit", ["--exp", "quickstart", "--overrides", str(file)])
    assert config["data"]["augment"][0]["init_args"]["hue"] == [-0.5, 0.5]
    assert not [warning for warning in recwarn if "round-trip" in str(warning.message)]
