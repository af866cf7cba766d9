"""Cityscapes in all its files, on generated ones and on the fixtures of Datumaro and DeepLab2."""

import importlib.util
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from trimask.data.cityscapes import LABELS, Cityscapes
from trimask.types import DataError

DATA = Path(os.environ.get("TRIMASK_DATA", "/nonexistent"))
DATUMARO, DEEPLAB = DATA / "datumaro_format_fixtures" / "cityscapes_dataset", DATA / "deeplab2_cityscapes_fixture"
datumaro = pytest.mark.skipif(not DATUMARO.is_dir(), reason="TRIMASK_DATA holds no datumaro_format_fixtures")
deeplab = pytest.mark.skipif(not DEEPLAB.is_dir(), reason="TRIMASK_DATA holds no deeplab2_cityscapes_fixture")

_spec = importlib.util.spec_from_file_location(
    "cityscapes_layouts", Path(__file__).parent / "layouts" / "cityscapes.py"
)
layouts = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(layouts)

NAMES = [label.name for label in LABELS]
ROAD, SKY, CAR = (NAMES.index(name) for name in ("road", "sky", "car"))


def names(dataset):
    return [pair.name for pair in dataset.pairs]


def test_the_classes_are_the_train_ids():
    assert [label.id for label in LABELS] == layouts.TRAIN_IDS
    assert [label.name for label in LABELS if label.is_thing] == NAMES[11:]
    assert len({label.color for label in LABELS}) == 19


def test_instance_ids_give_panoptic_truth(tmp_path):
    layouts.release(tmp_path)
    dataset = Cityscapes("train", root=tmp_path, truth="panoptic")
    assert dataset.offers == {"semantic", "instances", "panoptic"}
    assert dataset.classes.things == set(range(11, 19))
    assert names(dataset) == ["aachen_000000_000019", "aachen_000001_000019", "bochum_000000_000313"]
    sample, ids = dataset[2], layouts.instance_ids()
    assert sample.meta == {"city": "bochum"}
    assert sample.labels.tolist() == [ROAD, SKY, CAR, CAR, CAR]
    assert sample.is_crowd.tolist() == [False, False, True, False, False]
    expected = np.select([ids == 7, ids == 23, ids == 26, ids == 26000, ids == 26001], [1, 2, 3, 4, 5])
    np.testing.assert_array_equal(sample.segments[0], expected)
    assert [Path(file).name for file in dataset.files(2)] == [
        "bochum_000000_000313_leftImg8bit.png",
        "bochum_000000_000313_gtFine_instanceIds.png",
    ]


@pytest.mark.parametrize("write", [layouts.release, layouts.made_train_ids], ids=["label_ids", "train_ids"])
def test_both_numberings_give_the_same_classes(tmp_path, write):
    write(tmp_path)
    dataset = Cityscapes("val", root=tmp_path)
    assert (dataset.offers, names(dataset)) == ({"semantic"}, ["lindau_000000_000019", "munster_000000_000019"])
    np.testing.assert_array_equal(dataset[0].target().semantic(), layouts.train_ids(layouts.instance_ids()))
    assert dataset[0].labels.tolist() == [ROAD, SKY, CAR]


@pytest.mark.parametrize("suffix", ["", "_trainId"])
def test_panoptic_pngs_say_the_same_as_instance_ids_and_their_json(tmp_path, suffix):
    layouts.release(tmp_path / "a")
    layouts.made_panoptic(tmp_path / "b", suffix)
    first = Cityscapes("val", root=tmp_path / "a", truth="panoptic")
    second = Cityscapes("val", root=tmp_path / "b", truth="panoptic")
    assert names(first) == names(second)
    check_json(second[0], tmp_path / "b" / "gtFine" / f"cityscapes_panoptic_val{suffix}.json")
    for index in range(2):
        np.testing.assert_array_equal(first[index].segments, second[index].segments)
        assert first[index].labels.tolist() == second[index].labels.tolist()
        assert first[index].is_crowd.tolist() == second[index].is_crowd.tolist()


def check_json(sample, path):
    """Class, area and crowd of every segment, by the JSON with train ids that comes with the PNG."""
    annotations = json.loads(path.read_text())["annotations"]
    infos = next(entry for entry in annotations if entry["image_id"] == sample.name)["segments_info"]
    expected = sorted((info["category_id"], info["area"], bool(info["iscrowd"])) for info in infos)
    found = sorted(zip(sample.labels.tolist(), sample.areas().tolist(), sample.is_crowd.tolist(), strict=True))
    assert found == expected


def test_folders_of_a_split(tmp_path):
    layouts.release(tmp_path)
    assert names(Cityscapes("test", root=tmp_path)) == names(Cityscapes("val", root=tmp_path))
    both = Cityscapes("train", root=tmp_path, folders={"train": ["train", "val"]})
    assert len(both) == 5
    with pytest.raises(DataError, match=r"splits train, val, test; got 'all'.*`folders`"):
        Cityscapes("all", root=tmp_path)
    assert len(Cityscapes("all", root=tmp_path, folders={"all": ["train", "val"]})) == 5


def test_coarse_annotations(tmp_path):
    layouts.coarse(tmp_path)
    dataset = Cityscapes("train", root=tmp_path, annotations="gtCoarse", truth="panoptic")
    assert dataset[0].labels.tolist() == [ROAD, SKY, CAR, CAR, CAR]
    with pytest.raises(DataError, match=r"no masks for truth: semantic.*gtFine/train/\*_gtFine_labelIds\.png"):
        Cityscapes("train", root=tmp_path)
    assert Cityscapes.found_in(tmp_path) == []


def test_what_is_recognized_is_the_most_that_the_masks_answer(tmp_path):
    for write, truth in ((layouts.release, "panoptic"), (layouts.made_train_ids, "semantic")):
        write(tmp_path / truth)
        assert Cityscapes.found_in(tmp_path / truth) == [{"root": str(tmp_path / truth), "truth": truth}]
    assert Cityscapes.found_in(tmp_path) == []


def test_what_is_wrong_with_the_files_is_said(tmp_path):
    layouts.release(tmp_path)
    with pytest.raises(DataError, match="semantic or panoptic"):
        Cityscapes(root=tmp_path, truth="instances")
    mask = tmp_path / "gtFine" / "val" / "lindau" / "lindau_000000_000019_gtFine_instanceIds.png"
    layouts.save(mask, np.where(layouts.instance_ids() == 26, 34001, layouts.instance_ids()).astype(np.uint16))
    with pytest.raises(DataError, match=r"lindau_000000_000019_gtFine_instanceIds\.png.* 34 \(40 pixels\)"):
        Cityscapes("val", root=tmp_path, truth="panoptic")[0]
    layouts.save(mask, layouts.instance_ids()[:, :20])
    with pytest.raises(DataError, match=r"instanceIds\.png is 20x20, but its picture"):
        Cityscapes("val", root=tmp_path, truth="panoptic")[0]
    mask.unlink()
    with pytest.raises(DataError, match=r"2 pictures and 1 masks.*1 \(lindau_000000_000019\)"):
        Cityscapes("val", root=tmp_path, truth="panoptic")
    shutil.copytree(tmp_path / "leftImg8bit" / "val" / "lindau", tmp_path / "leftImg8bit" / "val" / "copy")
    with pytest.raises(DataError, match=r"same name lie in several folders: 1 "):
        Cityscapes("val", root=tmp_path)


@datumaro
@pytest.mark.parametrize("kind", ["dataset", "train_dataset"])
def test_datumaros_fixture(kind):
    folders = {"test": ["test"]}
    found = {}
    for split in ("train", "val", "test"):
        dataset = Cityscapes(split, root=DATUMARO / kind, truth="panoptic", folders=folders)
        for sample in (dataset[index] for index in range(len(dataset))):
            found[sample.name] = [(NAMES[i], bool(c)) for i, c in zip(sample.labels, sample.is_crowd, strict=True)]
    crowd = kind == "dataset"  # its ids have no numbers
    assert found == {
        "defaultcity_000002_000045": [("person", crowd)],
        "defaultcity_000001_000019": [],
        "defaultcity_000001_000031": [("truck", True)] if crowd else [("truck", False)] * 2,
        "defaultcity_000001_000032": [("wall", False), ("train", crowd)],
    }


@datumaro
def test_datumaros_train_ids():
    dataset = Cityscapes("test", root=DATUMARO / "train_dataset", folders={"test": ["test"]})
    found = {dataset[i].name[-2:]: [NAMES[label] for label in dataset[i].labels] for i in range(2)}
    assert found["31"] == ["truck"]
    assert found["32"] == ["wall", "train"]


@deeplab
def test_deeplabs_fixture_agrees_with_its_json(tmp_path):
    (tmp_path / "leftImg8bit").mkdir()
    shutil.copytree(DEEPLAB / "leftImg8bit", tmp_path / "leftImg8bit" / "dummy")
    shutil.copytree(DEEPLAB / "gtFine", tmp_path / "gtFine")
    dataset = Cityscapes("val", root=tmp_path, truth="panoptic", folders={"val": ["dummy"]})
    sample = dataset[0]
    assert sample.size == (800, 800)
    assert sample.is_crowd.sum() == 1
    check_json(sample, tmp_path / "gtFine" / "cityscapes_panoptic_dummy_trainId.json")
