"""Which data a command is about: experiments, fragments, files, folders, overrides and everything that can be mistyped."""

import pytest
import yaml

from trimask import experiments
from trimask.data.recognize import Recognized
from trimask.errors import UsageError
from trimask.run.data_source import fragments, resolve

SHAPES = {"class_path": "trimask.data.Shapes", "init_args": {"length": 4, "eval_length": 2, "size": [32, 32]}}


def one(*arguments, **settings):
    (found,) = resolve(*arguments, **settings)
    return found


def test_an_experiment_brings_its_augmentation_and_its_seed():
    found = one("quickstart", None)
    assert found.name == "quickstart"
    assert [type(t).__name__ for t in found.data.augment.pipeline.transforms] == ["HorizontalFlip", "VerticalFlip"]
    assert found.data.split("train")[0].image.shape == (96, 96, 3)
    assert found.config == experiments.find("quickstart").config["data"]


@pytest.mark.parametrize("name", ["shapes", "data/shapes"])
def test_a_fragment(name):
    assert one(None, name).data.split("val")[0].image.shape == (128, 128, 3)


def test_a_yaml_file(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump({"data": {"dataset": SHAPES}, "model": {"anything": 1}}))
    found = one(None, str(file))
    assert (found.name, len(found.data.split("train"))) == ("mine", 4)
    file.write_text("model: {}")
    with pytest.raises(UsageError, match=r"mine has no `data:` block.*it holds model"):
        resolve(None, str(file))
    with pytest.raises(UsageError, match=r"none\.yaml: there is no such file"):
        resolve(None, "none.yaml")


def test_overrides_are_those_of_fit():
    found = one("quickstart", None, overrides=["--data.dataset.size=[64,32]", "--data.seed=7"])
    assert found.data.split("train")[0].image.shape == (64, 32, 3)
    assert found.data.seed == 7


@pytest.mark.parametrize(
    ("arguments", "overrides", "message"),
    [
        ((None, None), [], "either --exp NAME, or --data"),
        (("quickstart", "shapes"), [], "either --exp NAME, or --data"),
        ((None, "shaeps"), [], "did you mean 'shapes'"),
        (("quickstart", None), ["--data.dataset.sze=3"], "no option 'sze'; did you mean 'size'"),
        (("quickstart", None), ["--trainer.max_epochs=3"], "no option 'trainer'"),
    ],
)
def test_mistakes(arguments, overrides, message):
    with pytest.raises(UsageError, match=message):
        resolve(*arguments, overrides=overrides)


def test_a_folder_is_what_the_recognizer_says(tmp_path, monkeypatch):
    def found(folder):
        return Recognized(folder, SHAPES["class_path"], SHAPES["init_args"])

    known = {tmp_path: [found(tmp_path / "a"), found(tmp_path / "b"), found(tmp_path / "b")]}
    monkeypatch.setattr("trimask.data.recognize.recognize", known.__getitem__)
    several = resolve(None, str(tmp_path))
    assert [len(entry.data.split("val")) for entry in several] == [2, 2, 2]
    twice = f"{tmp_path / 'b'} (trimask.data.Shapes)"
    assert [entry.name for entry in several] == [str(tmp_path / "a"), twice, twice]


def test_a_fragment_wins_over_a_folder_unless_the_folder_is_written_as_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shapes").mkdir()
    assert one(None, "shapes").name == "shapes"
    with pytest.raises(UsageError, match=r"shapes has the layout of no data set.*Folder"):
        resolve(None, "./shapes")


def test_fragments_are_named_as_they_are_asked_for():
    assert {"human", "shapes"} <= set(fragments())
