"""Pascal VOC and the exports that look like it, on generated files and on the real samples."""

import importlib.util
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trimask.data.voc import CLASSES, VOC, palette
from trimask.types import DataError

DATA = Path(os.environ.get("TRIMASK_DATA", "/nonexistent"))
LABELME, ICEVISION = DATA / "labelme_examples", DATA / "icevision_samples" / "voc"
DATUMARO = DATA / "datumaro_format_fixtures" / "voc_dataset" / "voc_dataset1"
real = pytest.mark.skipif(not LABELME.is_dir(), reason="TRIMASK_DATA holds no labelme_examples")
real_icevision = pytest.mark.skipif(not ICEVISION.is_dir(), reason="TRIMASK_DATA holds no icevision_samples")
fixtures = pytest.mark.skipif(not DATUMARO.is_dir(), reason="TRIMASK_DATA holds no datumaro_format_fixtures")

_spec = importlib.util.spec_from_file_location("voc_layouts", Path(__file__).parent / "layouts" / "voc.py")
layouts = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(layouts)


def names(dataset):
    return [pair.name for pair in dataset.pairs]


def rows(dataset, index=0):
    """(class, pixels, crowd) of every segment."""
    sample = dataset[index]
    classes = [dataset.classes.names[label] for label in sample.labels]
    return list(zip(classes, sample.areas().tolist(), sample.is_crowd.tolist(), strict=True))


def test_class_and_object_pictures_give_panoptic_truth(tmp_path):
    layouts.challenge(tmp_path)
    dataset = VOC("train", root=tmp_path, truth="panoptic")
    assert dataset.offers == {"semantic", "instances", "panoptic"}
    assert (dataset.classes.names, dataset.classes.things) == (CLASSES, set(range(1, 21)))
    labels, numbers = layouts.maps()
    sample = dataset[1]
    assert (sample.name, sample.labels.tolist()) == ("2007_000039", [0, 12, 15, 15])
    assert not sample.is_crowd.any()
    expected = np.select([labels == 255, numbers == 3, numbers == 1, numbers == 2], [0, 2, 3, 4], 1)
    np.testing.assert_array_equal(sample.segments[0], expected)
    np.testing.assert_array_equal(sample.target().semantic(), labels)
    assert [Path(file).parent.name for file in dataset.files(1)] == [
        "JPEGImages",
        "SegmentationClass",
        "SegmentationObject",
    ]


def test_class_pictures_alone_are_semantic(tmp_path):
    layouts.challenge(tmp_path)
    dataset = VOC("val", root=tmp_path)
    assert dataset.offers == {"semantic"}
    assert rows(dataset) == [("background", 600 - 3 * 12 * 8 - 24, False), ("dog", 80, False), ("person", 120, False)]
    assert len(dataset.files(0)) == 2


def test_splits_are_the_lists(tmp_path):
    layouts.challenge(tmp_path)
    folder = tmp_path / "ImageSets" / "Segmentation"
    (folder / "trainval.txt").write_text("2007_000039\n2007_000033\n2007_000032\n")
    assert names(VOC("train", root=tmp_path)) == ["2007_000032", "2007_000039"]
    assert names(VOC("val", root=tmp_path)) == names(VOC("test", root=tmp_path)) == ["2007_000033"]
    assert names(VOC("train", root=tmp_path, train_list="trainval")) == ["2007_000039", "2007_000033", "2007_000032"]
    assert layouts.UNMASKED not in names(VOC("all", root=tmp_path))
    (folder / "test.txt").write_text("2008_000001\n")
    with pytest.raises(DataError, match=r"test\.txt names what is not there: 1 \(2008_000001\)"):
        VOC("test", root=tmp_path)
    (folder / "val.txt").unlink()
    with pytest.raises(DataError, match=r"no file .*val\.txt"):
        VOC("val", root=tmp_path)


def test_trainaug_takes_its_own_grey_masks(tmp_path):
    layouts.challenge(tmp_path)
    (tmp_path / "ImageSets" / "Segmentation" / "trainaug.txt").write_text("2008_000001\n2007_000032\n")
    for name in ("2008_000001", "2007_000032"):
        layouts.save(tmp_path / "SegmentationClassAug" / f"{name}.png", np.full((20, 30), 7, np.uint8))
    dataset = VOC("train", root=tmp_path, train_list="trainaug")
    assert names(dataset) == ["2008_000001", "2007_000032"]
    assert rows(dataset, 1) == [("car", 600, False)]
    assert rows(VOC("val", root=tmp_path, train_list="trainaug"))[1] == ("dog", 80, False)
    with pytest.raises(DataError, match="trainaug has no objects"):
        VOC("train", root=tmp_path, train_list="trainaug", truth="panoptic")


@pytest.mark.parametrize("below", ["VOCdevkit/VOC2007", "VOC2007"])
def test_root_above_the_year(tmp_path, below):
    layouts.challenge(tmp_path / below)
    assert len(VOC("train", root=tmp_path, year=2007)) == 2
    with pytest.raises(DataError, match=r"no Pascal VOC: .*VOCdevkit/VOC2012/"):
        VOC("train", root=tmp_path)
    assert VOC.found_in(tmp_path) == []
    assert VOC.found_in(tmp_path / below) == [{"root": str(tmp_path / below), "truth": "panoptic"}]


def test_labelmes_export_has_classes_of_its_own(tmp_path):
    layouts.labelme(tmp_path)
    every = VOC("all", root=tmp_path)
    assert (every.classes.names, every.classes.things) == (("_background_", "dog", "person"), {1, 2})
    assert rows(every) == [("_background_", 288, False), ("dog", 80, False), ("person", 120, False)]
    division = [names(VOC(split, root=tmp_path, test_size=0.25)) for split in ("train", "val")]
    assert [len(part) for part in division] == [3, 1]
    assert sorted([*division[0], *division[1]]) == ["a", "b", "c", "d"]
    (tmp_path / "mine.txt").write_text("dog\nperson\nground\n")
    assert VOC("all", root=tmp_path, classes="mine.txt").classes.things == {0, 1, 2}


def test_cvats_export_has_colors_of_its_own(tmp_path):
    layouts.cvat(tmp_path)
    dataset = VOC("val", root=tmp_path, truth="panoptic")
    assert dataset.classes.names == ("background", "cat", "person")
    assert dataset.classes.colors.tolist() == [[0, 0, 0], [255, 53, 94], [18, 52, 86]]
    assert rows(dataset) == [
        ("background", 288, False),
        ("cat", 80, False),
        ("person", 60, False),
        ("person", 60, False),
    ]


def test_void_of_either_picture_wins_and_an_uncounted_object_is_a_crowd(tmp_path):
    layouts.challenge(tmp_path)
    layouts.save(tmp_path / "SegmentationClass" / "2007_000033.png", np.array([[0, 0, 15, 15, 255, 7]], np.uint8))
    layouts.save(tmp_path / "SegmentationObject" / "2007_000033.png", np.array([[255, 4, 4, 4, 4, 0]], np.uint8))
    layouts.save(tmp_path / "JPEGImages" / "2007_000033.jpg", np.zeros((1, 6, 3), np.uint8))
    sample = VOC("val", root=tmp_path, truth="panoptic")[0]
    np.testing.assert_array_equal(sample.segments, [[[0, 1, 3, 3, 0, 2]]])
    assert sample.labels.tolist() == [0, 7, 15]
    assert sample.is_crowd.tolist() == [False, True, False]
    colors = np.array([[[224, 224, 192], *[[128, 0, 0]] * 4, [0, 0, 0]]], np.uint8)
    layouts.save(tmp_path / "SegmentationObject" / "2007_000033.png", colors)
    np.testing.assert_array_equal(VOC("val", root=tmp_path, truth="panoptic")[0].segments, sample.segments)


def test_an_object_of_two_classes_is_named(tmp_path):
    layouts.challenge(tmp_path)
    layouts.save(tmp_path / "SegmentationObject" / "2007_000033.png", np.ones((20, 30), np.uint8))
    with pytest.raises(DataError, match=r"SegmentationObject/2007_000033\.png: object 1 .*\(dog, person\)"):
        VOC("val", root=tmp_path, truth="panoptic")[0]


def test_what_is_wrong_with_the_files_is_said(tmp_path):
    layouts.challenge(tmp_path)
    with pytest.raises(DataError, match="semantic or panoptic"):
        VOC(root=tmp_path, truth="instances")
    with pytest.raises(DataError, match=r"no file .*trainagu\.txt"):
        VOC(root=tmp_path, train_list="trainagu")
    layouts.save(tmp_path / "SegmentationObject" / "2007_000033.png", np.zeros((10, 30), np.uint8))
    with pytest.raises(DataError, match=r"SegmentationObject/2007_000033\.png is 30x10, but its picture"):
        VOC("val", root=tmp_path, truth="panoptic")[0]
    layouts.save(tmp_path / "SegmentationClass" / "2007_000033.png", np.full((20, 30), 21, np.uint8))
    with pytest.raises(DataError, match=r"2007_000033\.png.* 21 \(600 pixels\)"):
        VOC("val", root=tmp_path)[0]
    layouts.save(tmp_path / "SegmentationClass" / "2007_000033.png", np.zeros((20, 10), np.uint8))
    with pytest.raises(DataError, match=r"SegmentationClass/2007_000033\.png is 10x20"):
        VOC("val", root=tmp_path)[0]
    (tmp_path / "SegmentationObject" / "2007_000033.png").unlink()
    with pytest.raises(DataError, match=r"lacks the pictures of objects of 1 \(2007_000033\); use truth: semantic"):
        VOC("val", root=tmp_path, truth="panoptic")
    (tmp_path / "JPEGImages" / "2007_000033.jpg").unlink()
    with pytest.raises(DataError, match=r"pictures are not in JPEGImages: 1 \(2007_000033\)"):
        VOC("val", root=tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a:1,2\n", r"'a:1,2' is no class"),
        ("a:1,2,256::\n", "is no class"),
        ("a\na\n", "unique"),
        ("\n", "at least one"),
    ],
)
def test_class_files_that_are_refused(tmp_path, text, message):
    layouts.challenge(tmp_path)
    (tmp_path / "labelmap.txt").write_text(text)
    with pytest.raises(DataError, match=rf"labelmap\.txt.*{message}"):
        VOC("val", root=tmp_path)
    (tmp_path / "labelmap.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="UTF-8"):
        VOC("val", root=tmp_path)


def test_palette_is_that_of_the_development_kit():
    assert palette(256)[[0, 1, 2, 8, 15, 20, 254]].tolist() == [
        [0, 0, 0],
        [128, 0, 0],
        [0, 128, 0],
        [64, 0, 0],
        [192, 128, 128],
        [0, 64, 128],
        [96, 224, 192],
    ]
    assert bytes(palette(256)[255]).hex() == "e0e0c0"


@real
def test_labelmes_examples_have_their_known_objects():
    root = LABELME / "instance_segmentation" / "data_dataset_voc"
    dataset = VOC("all", root=root, truth="panoptic")
    found = {names(dataset)[i]: rows(dataset, i) for i in range(3)}
    assert [row[:2] for row in found["2011_000003"]] == [
        ("_background_", 125787),
        ("bottle", 873),
        ("person", 15662),
        ("person", 17218),
    ]
    assert [name for name, *_ in found["2011_000006"]] == ["_background_", "chair", *["person"] * 4, "sofa"]
    assert [name for name, *_ in found["2011_000025"]] == ["_background_", "bus", "bus", "car"]
    assert not any(crowd for sample in found.values() for *_, crowd in sample)
    void = [int((dataset[i].segments == 0).sum()) for i in range(3)]
    assert void == [9460, 909, 0]
    semantic = VOC("all", root=root)
    for index in range(3):
        np.testing.assert_array_equal(semantic[index].target().semantic(), dataset[index].target().semantic())


@real
def test_the_palette_of_real_files_is_the_classes_colors():
    dataset = VOC("all", root=LABELME / "instance_segmentation" / "data_dataset_voc")
    with Image.open(dataset.pairs[0].mask) as mask:
        stored = np.array(mask.getpalette()).reshape(-1, 3)
    np.testing.assert_array_equal(stored[:21], dataset.classes.colors)


@real_icevision
def test_a_real_pair_beside_a_picture_without_a_mask():
    dataset = VOC("all", root=ICEVISION, truth="panoptic")
    assert names(dataset) == ["2007_000063"]
    assert rows(dataset) == [("background", 72224, False), ("chair", 78930, False), ("dog", 27632, False)]


@fixtures
def test_datumaros_fixture_has_masks_as_colors():
    dataset = VOC("train", root=DATUMARO, truth="panoptic")
    assert rows(dataset) == [("bicycle", 200, False)]
