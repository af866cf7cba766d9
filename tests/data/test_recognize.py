"""Which folders are asked, which answers count, and that shared/data is known where it lies."""

import os
from functools import partial
from pathlib import Path

import pytest

from trimask.data import recognize as module
from trimask.data.doctor import open_case
from trimask.data.recognize import Recognized, dataset_classes, recognize, unrecognized

REAL = Path(os.environ.get("TRIMASK_DATA", "/nonexistent"))


class Marked:
    """Finds itself where a file says so."""

    @classmethod
    def found_in(cls, folder):
        return [{"root": str(folder), "part": part} for part in ("a", "b") if (folder / f"{part}.mark").is_file()]


@pytest.fixture
def asked(monkeypatch):
    monkeypatch.setattr(module, "dataset_classes", lambda: {"x.Marked": Marked})


def mark(folder, part="a"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{part}.mark").touch()
    return folder.resolve()


def test_a_folder_of_one_set(tmp_path, asked):
    mark(tmp_path)
    assert recognize(tmp_path) == [Recognized(tmp_path, "x.Marked", {"root": str(tmp_path), "part": "a"})]


def test_a_folder_may_be_read_in_several_ways(tmp_path, asked):
    mark(tmp_path, "a")
    mark(tmp_path, "b")
    assert [entry.init_args["part"] for entry in recognize(str(tmp_path))] == ["a", "b"]


def test_folders_of_many_sets_two_levels_down(tmp_path, asked):
    one, two = mark(tmp_path / "one"), mark(tmp_path / "group" / "two")
    mark(tmp_path / "too" / "far" / "down")
    mark(tmp_path / ".hidden")
    assert [entry.folder for entry in recognize(tmp_path)] == [two, one]
    assert recognize(tmp_path, depth=0) == []


def test_what_lies_inside_a_set_belongs_to_it(tmp_path, asked):
    outer = mark(tmp_path / "set")
    mark(tmp_path / "set" / "inner")
    assert [entry.folder for entry in recognize(tmp_path)] == [outer]


def test_what_nobody_knows(tmp_path, asked):
    mark(tmp_path / "known")
    mark(tmp_path / "group" / "known")
    for name in ("strange/deep/1.jpg", "group/strange/1.jpg", "group/.hidden/1.jpg"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    (tmp_path / "empty").mkdir()
    found = recognize(tmp_path)
    assert unrecognized(tmp_path, found) == [tmp_path / "group" / "strange", tmp_path / "strange"]
    assert unrecognized(tmp_path / "strange", []) == [tmp_path / "strange"]


def test_a_folder_that_is_not_there(tmp_path, asked):
    assert recognize(tmp_path / "gone") == []


def test_every_class_that_can_recognize_itself_is_asked():
    import trimask.data

    classes = dataset_classes()
    expected = {name for name in trimask.data.__all__ if hasattr(getattr(trimask.data, name), "found_in")}
    assert {path.rpartition(".")[2] for path in classes} == expected
    assert all(path.startswith("trimask.data.") for path in classes)


def test_no_class_minds_a_strange_folder(tmp_path):
    (tmp_path / "a.json").write_text("{")
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "1.jpg").touch()
    for kind in dataset_classes().values():
        assert kind.found_in(tmp_path) == []
        assert kind.found_in(tmp_path / "gone") == []


@pytest.mark.skipif(not REAL.is_dir(), reason="TRIMASK_DATA is not set")
@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("human_segmentation", "HumanSegmentation"),
        ("camvid", "CamVid"),
        ("bdd100k_drivable", "BDD100KDrivable"),
        ("bdd100k_drivable_2020fmt", "BDD100KDrivable"),
        ("bdd100k_10k", "BDD100KSemantic"),
        ("tiny_coco", "CocoInstances"),
        ("coco128_panoptic", "CocoPanoptic"),
        ("dsb2018_nuclei", "Nuclei"),
        ("scalabel_drivable", "ScalabelDataset"),
        ("icevision_samples", "VOC"),
        ("icevision_samples", "CamVid"),
        ("icevision_samples", "OCHuman"),
        ("labelme_examples", "LabelMe"),
        ("panopticapi_sample", "CocoPanoptic"),
        ("ade20k_samples", "ADE20K"),
    ],
)
def test_real_sets_are_recognized(folder, name):
    if not (REAL / folder).is_dir():
        pytest.skip(f"TRIMASK_DATA holds no {folder}")
    found = [entry for entry in recognize(REAL / folder) if entry.class_path == f"trimask.data.{name}"]
    assert found
    for entry in found:
        case = open_case(folder, partial(dataset_classes()[entry.class_path], **entry.init_args))
        assert case.datasets
        assert all(len(dataset[0].labels) for dataset in case.datasets.values())
