"""ADE20K in its four annotations, on generated files and on the benchmark's own samples."""

import importlib.util
import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from trimask.data.ade20k import ADE20K, CLASSES, COLORS, THINGS
from trimask.types import DataError

REAL = Path(os.environ.get("TRIMASK_DATA", "/nonexistent")) / "ade20k_samples"
real = pytest.mark.skipif(not REAL.is_dir(), reason="TRIMASK_DATA holds no ade20k_samples")

_spec = importlib.util.spec_from_file_location("ade20k_layouts", Path(__file__).parent / "layouts" / "ade20k.py")
layouts = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(layouts)

WALL, BED, LAMP, FLOOR = (CLASSES.index(name) for name in ("wall", "bed", "lamp", "floor"))


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("TRIMASK_CACHE", str(tmp_path_factory.mktemp("cache")))


def names(dataset):
    return [dataset[i].name for i in range(len(dataset))]


def test_the_classes():
    assert (len(CLASSES), len(set(CLASSES)), len(THINGS), len(COLORS)) == (150, 150, 100, 150)
    assert [THINGS.index(name) + 1 for name in ("bed", "lamp", "flag")] == [layouts.BED_THING, layouts.LAMP_THING, 100]
    assert COLORS[0] == (120, 120, 120)
    assert [i for i, color in enumerate(COLORS) if COLORS.count(color) > 1] == [6, 48]


def test_class_pictures_are_semantic_truth(tmp_path):
    layouts.semantic(tmp_path)
    dataset = ADE20K("train", root=tmp_path)
    assert names(dataset) == ["ADE_train_00000001", "ADE_train_00000002"]
    assert names(ADE20K("val", root=tmp_path)) == names(ADE20K("test", root=tmp_path)) == ["ADE_val_00000001"]
    sample = dataset[1]
    values = layouts.classes().astype(int)
    np.testing.assert_array_equal(sample.target().semantic(), np.where(values == 0, 255, values - 1))
    assert sample.labels.tolist() == [WALL, FLOOR, BED, LAMP]
    assert sample.meta == {"scene": "bedroom"}
    assert (dataset.offers, len(dataset.classes)) == ({"semantic"}, 150)


def test_object_pictures_are_instances(tmp_path):
    layouts.instances(tmp_path)
    dataset = ADE20K("val", root=tmp_path, truth="instances")
    sample, objects = dataset[0], layouts.objects()[..., 1]
    assert dataset.offers == {"instances"}
    assert sample.labels.tolist() == [BED, LAMP]
    assert not sample.is_crowd.any()
    np.testing.assert_array_equal(sample.segments[0], np.select([objects == 2, objects == 1], [1, 2]))
    assert len(dataset.files(0)) == 2


def test_objects_lie_on_the_stuff_of_the_class_pictures(tmp_path):
    layouts.both(tmp_path)
    dataset = ADE20K("val", root=tmp_path, truth="panoptic")
    sample, values, objects = dataset[0], layouts.classes(), layouts.objects()[..., 1]
    assert dataset.offers == {"semantic", "instances", "panoptic"}
    assert sample.labels.tolist() == [WALL, FLOOR, BED, LAMP]
    expected = np.select([objects == 2, objects == 1, values == 1, values == 4], [3, 4, 1, 2])
    np.testing.assert_array_equal(sample.segments[0], expected)
    assert (expected[2:6, 26:29] == 0).all(), "a lamp that no object stands for is unlabelled"
    assert [Path(file).parts[-3] for file in dataset.files(0)] == ["images", "annotations_instance", "annotations"]


def test_what_mask2former_prepares_says_the_same(tmp_path):
    layouts.both(tmp_path / "raw")
    layouts.prepared(tmp_path / "prepared")
    for split in ("train", "val"):
        first = ADE20K(split, root=tmp_path / "raw", truth="panoptic")
        second = ADE20K(split, root=tmp_path / "prepared", truth="panoptic")
        assert names(first) == names(second)
        assert first.classes == second.classes
        np.testing.assert_array_equal(first[0].target().semantic(), second[0].target().semantic())
        regions = [
            sorted(zip(s.labels.tolist(), s.is_crowd.tolist(), s.target().masks.numpy().tolist(), strict=True))
            for s in (first[0], second[0])
        ]
        assert regions[0] == regions[1]
    assert Path(second.files(0)[1]).parent.name == "ade20k_panoptic_val"


def test_prepared_files_of_other_classes_are_refused(tmp_path):
    layouts.prepared(tmp_path, categories=[{"id": i, "name": str(i), "isthing": 0} for i in range(150)])
    with pytest.raises(DataError, match=r"ade20k_panoptic_train\.json has other categories"):
        ADE20K("train", root=tmp_path, truth="panoptic")


def test_root_and_recognition(tmp_path):
    layouts.both(tmp_path / "ADEChallengeData2016")
    assert len(ADE20K("train", root=tmp_path)) == 2
    assert ADE20K.found_in(tmp_path) == []
    folder = tmp_path / "ADEChallengeData2016"
    assert ADE20K.found_in(folder) == [{"root": str(folder), "truth": "panoptic"}]
    shutil.rmtree(folder / "annotations_instance")
    assert ADE20K.found_in(folder) == [{"root": str(folder), "truth": "semantic"}]
    layouts.instances(tmp_path / "c")
    assert ADE20K.found_in(tmp_path / "c") == [{"root": str(tmp_path / "c"), "truth": "instances"}]


def test_pictures_in_one_folder_are_divided_by_their_names(tmp_path):
    layouts.semantic(tmp_path / "a")
    for kind in ("images", "annotations"):
        (tmp_path / kind).mkdir()
        for file in (tmp_path / "a" / kind).rglob("*.*"):
            file.rename(tmp_path / kind / file.name)
    assert names(ADE20K("train", root=tmp_path)) == ["ADE_train_00000001", "ADE_train_00000002"]
    assert names(ADE20K("val", root=tmp_path)) == ["ADE_val_00000001"]
    assert ADE20K.found_in(tmp_path) == [{"root": str(tmp_path), "truth": "semantic"}]
    for file in (tmp_path / "images").glob("ADE_val*"):
        file.unlink()
    with pytest.raises(DataError, match=r"no pictures of the split 'val'.*no validation/, no ADE_val_\*"):
        ADE20K("val", root=tmp_path)
    for file in [*(tmp_path / "images").iterdir(), *(tmp_path / "annotations").iterdir()]:
        file.rename(file.with_name(file.name.replace("ADE_", "mine_")))
    assert ADE20K.found_in(tmp_path) == []


def test_what_is_wrong_with_the_files_is_said(tmp_path):
    layouts.both(tmp_path)
    with pytest.raises(DataError, match="semantic, instances, panoptic; got 'all'"):
        ADE20K(root=tmp_path, truth="all")
    with pytest.raises(DataError, match="train, val, test; got 'training'"):
        ADE20K("training", root=tmp_path)
    with pytest.raises(DataError, match="is no ADE20K"):
        ADE20K(root=tmp_path / "images")
    instance = tmp_path / "annotations_instance" / "validation" / "ADE_val_00000001.png"
    semantic = tmp_path / "annotations" / "validation" / "ADE_val_00000001.png"
    dataset = ADE20K("val", root=tmp_path, truth="panoptic")

    picture = layouts.objects()
    picture[0, :5] = 101, 9, 0
    layouts.save(instance, picture)
    with pytest.raises(DataError, match=r"annotations_instance.*00001\.png.* 101 \(5 pixels\)"):
        dataset[0]
    picture[0, :5] = 3, 2, 0
    layouts.save(instance, picture)
    with pytest.raises(DataError, match=r"annotations_instance.*object 2 \(channel G\) has pixels of two things"):
        dataset[0]
    layouts.save(instance, layouts.classes())
    with pytest.raises(DataError, match="picture of objects is RGB"):
        dataset[0]
    layouts.save(instance, layouts.objects()[:10])
    with pytest.raises(
        DataError, match=r"annotations/.*00001\.png is 30x20, but its picture .*annotations_instance/.* 30x10"
    ):
        dataset[0]
    layouts.save(semantic, np.full(layouts.SIZE, 151, np.uint8))
    with pytest.raises(DataError, match=r"annotations/.*00001\.png.* 151 \(600 pixels\)"):
        ADE20K("val", root=tmp_path)[0]
    semantic.unlink()
    with pytest.raises(DataError, match=r"There is no picture in .*annotations/validation"):
        ADE20K("val", root=tmp_path)


def test_a_picture_without_objects_is_stuff(tmp_path):
    layouts.both(tmp_path)
    layouts.save(
        tmp_path / "annotations_instance" / "validation" / "ADE_val_00000001.png",
        np.zeros((*layouts.SIZE, 3), np.uint8),
    )
    assert ADE20K("val", root=tmp_path, truth="panoptic")[0].labels.tolist() == [WALL, FLOOR]
    sample = ADE20K("val", root=tmp_path, truth="instances")[0]
    assert (len(sample.labels), sample.segments.shape, sample.segments.max()) == (0, (1, *layouts.SIZE), 0)


@real
def test_the_names_are_the_benchmarks_first_ones():
    lines = (REAL / "objectInfo150.txt").read_text().splitlines()[1:]
    assert list(CLASSES) == [line.split("\t")[-1].split(",")[0].strip() for line in lines]


@real
def test_real_samples():
    dataset = ADE20K("val", root=REAL / "sampleData")
    assert names(dataset) == [f"ADE_val_0000000{i}" for i in (1, 2, 3)]
    assert [dataset[i].size for i in range(3)] == [(512, 683), (364, 500), (300, 400)]
    found = [{dataset.classes.names[label] for label in dataset[i].labels} for i in range(3)]
    assert found[1] == {"wall", "building", "sky", "tree", "earth", "plant"}
    assert "van" in found[2]
    for index in range(3):
        with Image.open(dataset.files(index)[1]) as mask:
            values = np.array(mask).astype(int)
        np.testing.assert_array_equal(dataset[index].target().semantic(), np.where(values == 0, 255, values - 1))


@real
def test_a_mask_of_the_full_release_has_the_classes_of_its_challenge_mask(tmp_path):
    folder = REAL / "convertFromADE"
    challenge = cv2.imread(str(folder / "ADE_train_00000970_challenge.png"), cv2.IMREAD_UNCHANGED)
    for kind, array, suffix in (
        ("images", np.zeros((*challenge.shape, 3), np.uint8), "jpg"),
        ("annotations", challenge, "png"),
    ):
        layouts.save(tmp_path / kind / "training" / f"ADE_train_00000970.{suffix}", array)
    truth = ADE20K("train", root=tmp_path)[0].target().semantic().numpy()

    rows = [line.split() for line in (folder / "mapFromADE.txt").read_text().splitlines()]
    label_of = {int(index): int(value) - 1 for value, index in (row[:2] for row in rows if len(row) > 1)}
    with Image.open(folder / "ADE_train_00000970_raw.png") as picture:
        raw = np.array(picture).astype(int)
    full = raw[..., 0] // 10 * 256 + raw[..., 1]  # how the releases before 2020 number their 3,148 names
    small = cv2.resize(full.astype(np.float64), truth.shape[::-1], interpolation=cv2.INTER_NEAREST_EXACT).astype(int)
    expected = np.vectorize(lambda index: label_of.get(index, 255))(small)
    np.testing.assert_array_equal(truth, expected)
