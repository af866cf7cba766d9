"""Scalabel files and sets: the index, class descriptions, pairing, and the real race track."""

import importlib.util
import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trimask.data import kept, rle
from trimask.data.scalabel import ScalabelDataset
from trimask.data.scalabel_index import open_frames
from trimask.types import DataError

DATA = Path(os.environ.get("TRIMASK_DATA", "/nonexistent"))
REAL = DATA / "scalabel_drivable"
real = pytest.mark.skipif(not REAL.is_dir(), reason="TRIMASK_DATA holds no scalabel_drivable")

spec = importlib.util.spec_from_file_location("scalabel_layouts", Path(__file__).parent / "layouts" / "scalabel.py")
layouts = importlib.util.module_from_spec(spec)
spec.loader.exec_module(layouts)


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("TRIMASK_CACHE", str(folder))
    return folder


def box(left, top, right, bottom, **more):
    corners = [[left, top], [right, top], [right, bottom], [left, bottom]]
    return {"poly2d": [{"vertices": corners, "types": "LLLL", "closed": True}], **more}


def write(root, labels, *, config=None, names=("a", "b", "c", "d", "e"), frame_names=None):
    """Five pictures of 10x20 that all have the same labels."""
    (root / "images").mkdir(parents=True, exist_ok=True)
    for name in names:
        Image.new("RGB", (20, 10)).save(root / "images" / f"{name}.png")
    frames = [{"name": name, "labels": labels} for name in frame_names or [f"{name}.png" for name in names]]
    (root / "labels.json").write_text(json.dumps({"frames": frames, "config": config} if config else frames))


def only_sample(root, labels, classes, **arguments):
    write(root, labels)
    return ScalabelDataset("all", root=root, classes=classes, **arguments)[0]


def map_of(sample):
    return sample.target().semantic().numpy()


# --- the index ---


def test_frames_are_found_again_where_they_stand(tmp_path):
    file = tmp_path / "a.json"
    frames = [
        {
            "name": "x/ä.jpg",
            "attributes": {"weather": "rainy", "scene": "city street", "timeofday": None, "other": "1"},
        },
        {"name": "2.jpg", "attributes": None, "labels": [{"id": 1}]},
        {"name": "3.jpg", "attributes": {"scene": "city street", "weather": "rainy"}},
    ]
    leaves = [{"name": "car"}, {"name": "bus"}, {"name": "sky"}]
    config = {"categories": [{"name": "vehicle", "subcategories": leaves[:2]}, leaves[2]]}
    file.write_text(json.dumps({"config": config, "frames": frames, "groups": [{"name": "g"}]}, ensure_ascii=False))
    index = open_frames(file)
    assert index.names == ["x/ä.jpg", "2.jpg", "3.jpg"]
    assert [index.frame(row) for row in range(3)] == frames
    tags = {"weather": "rainy", "scene": "city street"}
    assert [index.tags(row) for row in range(3)] == [tags, {}, tags]
    assert len(index.tag_table) == 2
    assert index.categories == leaves


@pytest.fixture
def kept_frames(monkeypatch, own_cache):
    """The folder in which the index of any file is kept."""
    monkeypatch.setattr(kept, "SMALL_FILE", 0)
    return own_cache / "frames"


def test_the_index_of_a_large_file_is_kept_until_the_file_changes(tmp_path, kept_frames):
    file = tmp_path / "a.json"
    file.write_text(json.dumps([{"name": "1.jpg", "attributes": {"weather": "clear"}}]))
    first = open_frames(file)
    assert len(list(kept_frames.iterdir())) == 1
    again = pickle.loads(pickle.dumps(open_frames(file)))
    assert (again.names, again.tags(0), again.frame(0)) == (first.names, {"weather": "clear"}, first.frame(0))
    file.write_text(json.dumps([{"name": "other.jpg"}]))
    with pytest.raises(DataError, match="was changed while it is in use"):
        first.frame(0)
    assert open_frames(file).names == ["other.jpg"]


@pytest.mark.parametrize("damage", [b"", b"no zip", None])
def test_a_damaged_index_is_made_again(tmp_path, kept_frames, damage):
    file = tmp_path / "a.json"
    file.write_text(json.dumps([{"name": "1.jpg"}, {"name": "2.jpg"}]))
    open_frames(file)
    (place,) = kept_frames.iterdir()
    whole = place.read_bytes()
    place.write_bytes(whole[:200] if damage is None else damage)
    assert open_frames(file).names == ["1.jpg", "2.jpg"]
    assert place.stat().st_size == len(whole)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "has no frames"),
        ({"images": [1, 2]}, "has no frames"),
        ({"frames": {"name": "a"}}, "`frames` is no list"),
        ([{"name": "a"}, {"name": "a"}], r"twice: 1 \(a\)"),
        ([{"name": "a"}, {"title": "a"}], "no object with a `name`"),
        ([{"name": ""}], "no object with a `name`"),
        (["a"], "no object with a `name`"),
        ({"frames": [{"name": "a"}], "config": {"categories": ["car"]}}, "no list of categories"),
    ],
)
def test_what_is_no_scalabel_file_is_said(content, message, tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=message):
        open_frames(tmp_path / "a.json")
    with pytest.raises(DataError, match=r"gone\.json: cannot be read"):
        open_frames(tmp_path / "gone.json")


# --- classes and drawing ---


def test_classes_by_category_and_attributes_over_a_background(tmp_path):
    labels = [
        box(0, 5, 10, 10, category="area", attributes={"type": "direct"}),
        box(8, 5, 15, 10, category="area", attributes={"type": "other"}),
        box(0, 0, 20, 2, category="sky"),
        {"category": "tag"},
        {"category": "lane", "poly2d": [{"vertices": [[0, 0], [9, 9], [0, 9]], "types": "LLL", "closed": False}]},
        {"category": "box", "box2d": {"x1": 0, "y1": 0, "x2": 5, "y2": 5}},
    ]
    classes = {
        "names": ["direct", "other", "background"],
        "labels": {"direct": {"category": "area", "type": "direct"}, "other": [{"category": "area", "type": "other"}]},
        "background": "background",
        "skip": ["sky"],
    }
    sample = only_sample(tmp_path, labels, classes)
    expected = np.full((10, 20), 2)
    expected[5:, :10], expected[5:, 8:15] = 0, 1
    np.testing.assert_array_equal(map_of(sample), expected)
    assert sample.labels.tolist() == [0, 1, 2]


def test_things_are_told_apart_and_stuff_is_one_segment(tmp_path):
    labels = [
        box(0, 5, 10, 10, category="road"),
        box(2, 6, 6, 9, category="car"),
        box(4, 6, 8, 9, category="car"),
        box(12, 5, 20, 10, category="road"),
        box(14, 0, 18, 3, category="car", attributes={"crowd": True}),
        box(0, 0, 4, 3, category="car", attributes={"ignored": True}),
        box(5, 0, 8, 3, category="road", attributes={"ignored": True}),
        box(9, 0, 10, 1, category="car"),
        box(9, 0, 10, 1, category="road"),  # hides a car whole
    ]
    sample = only_sample(tmp_path, labels, {"names": ["road", "car"], "things": ["car"]})
    assert sample.labels.tolist() == [0, 1, 1, 1, 1]
    assert sample.is_crowd.tolist() == [False, False, False, True, True]
    assert sample.areas().tolist() == [50 + 40 - 6 * 3 + 1, 6, 12, 12, 12]
    assert map_of(sample)[1, 6] == 255, "ignored stuff is unlabelled"
    dataset = ScalabelDataset("all", root=tmp_path, classes={"names": ["car"], "things": ["car"], "skip": ["*"]})
    assert dataset.offers == {"instances"}
    assert dataset[0].labels.tolist() == [0, 0, 0, 0, 0]


def test_a_frame_without_labels_is_unlabelled(tmp_path):
    for labels in (None, []):
        sample = only_sample(tmp_path, labels, {"names": ["road"]})
        assert (sample.segments.shape, sample.labels.tolist(), sample.segments.max()) == ((1, 10, 20), [], 0)


def test_run_lengths_and_open_outlines(tmp_path):
    mask = np.random.default_rng(0).random((10, 20)) < 0.4
    runs = {"category": "road", "rle": rle.to_coco(rle.from_mask(mask), (10, 20)), "poly2d": None}
    outline = box(0, 0, 20, 10, category="road")
    outline["poly2d"][0]["closed"] = False
    sample = only_sample(tmp_path, [runs, outline], {"names": ["road"]})
    np.testing.assert_array_equal(map_of(sample) == 0, mask)
    assert only_sample(tmp_path, [outline], {"names": ["road"]}, lines_too=True).areas().tolist() == [200]


def test_the_classes_of_the_file_itself(tmp_path):
    categories = [
        {"name": "road", "color": [1, 2, 3]},
        {"name": "vehicle", "subcategories": [{"name": "car", "isThing": True, "color": [4, 5, 6]}]},
    ]
    write(tmp_path, [box(0, 0, 5, 5, category="car")], config={"categories": categories})
    dataset = ScalabelDataset("all", root=tmp_path)
    assert (dataset.classes.names, dataset.classes.things) == (("road", "car"), {1})
    assert dataset.classes.colors.tolist() == [[1, 2, 3], [4, 5, 6]]
    assert dataset.offers == {"semantic", "instances", "panoptic"}
    assert dataset[0].labels.tolist() == [1]
    (tmp_path / "classes.yaml").write_text("names: [car]\nskip: ['*']")
    assert ScalabelDataset(root=tmp_path, classes="classes.yaml").classes.names == ("car",)
    write(tmp_path, [])
    with pytest.raises(DataError, match=r"no `config` with categories.*--data\.dataset\.classes"):
        ScalabelDataset(root=tmp_path)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([box(0, 0, 5, 5, category="bus", id="7")], r"labels\.json, frame 'a\.png', label '7': the category 'bus'"),
        ([box(0, 0, 5, 5, id="7")], "the category None"),
        ([{"id": "7", "category": "car", "poly2d": [{"vertices": [[0, 0], [1, "x"]]}]}], "label '7': `vertices`"),
        ([{"id": "7", "category": "car", "poly2d": {"vertices": []}}], "label '7': `poly2d` is a list"),
        ([{"id": "7", "category": "car", "rle": {"counts": "0", "size": [9, 9]}}], "label '7': its run lengths"),
        ([{"id": "7", "category": "car", "rle": {"counts": [200], "size": [10, 20]}}, "car"], "label 'car'"),
    ],
)
def test_a_label_that_cannot_be_used_is_named(labels, message, tmp_path):
    write(tmp_path, labels)
    dataset = ScalabelDataset("all", root=tmp_path, classes={"names": ["car"]})
    with pytest.raises(DataError, match=message):
        dataset[0]


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ({"name": ["car"]}, "has `names`"),
        ({"names": ["car"], "colors": {}}, "has `names`"),
        ({"names": ["car"], "things": ["bus"]}, r"\['bus'\] are not among"),
        ({"names": ["car"], "labels": {"bus": {"category": "car"}}}, r"\['bus'\] are not among"),
        ({"names": ["car"], "background": "sky"}, r"\['sky'\] are not among"),
        ({"names": ["car"], "things": ["car"], "background": "car"}, "cannot be a thing"),
        ({"names": ["car"], "labels": {"car": "bus"}}, "described by a category"),
        ({"names": ["car", "car"]}, "unique"),
    ],
)
def test_a_class_description_that_does_not_hold_is_refused(classes, message, tmp_path):
    write(tmp_path, [])
    with pytest.raises(DataError, match=message):
        ScalabelDataset(root=tmp_path, classes=classes)


# --- pictures and frames ---


def test_frames_are_matched_by_path_or_by_name_alone(tmp_path):
    names = ("one/a", "two/a", "two/b", "c")
    for name in names:
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
    write(tmp_path, [], names=names, frame_names=["two/a.jpg", "one/a.jpg", "items/2/b.jpg", "elsewhere/c"])
    dataset = ScalabelDataset("all", root=tmp_path, classes={"names": ["car"]})
    found = {pair.name: dataset.index.names[row] for pair, row in zip(dataset.pairs, dataset.rows, strict=True)}
    assert found == {"one/a": "one/a.jpg", "two/a": "two/a.jpg", "two/b": "items/2/b.jpg", "c": "elsewhere/c"}


def test_what_does_not_match_is_said_or_left_out(tmp_path):
    classes = {"names": ["car"]}
    write(tmp_path, [], frame_names=["a.png", "b.png", "x.png"])
    with pytest.raises(DataError, match=r"without a picture: 1 \(x\.png\).*without a frame: 3 \(c, d, e\).*the 2 that"):
        ScalabelDataset("all", root=tmp_path, classes=classes)
    assert len(ScalabelDataset("all", root=tmp_path, classes=classes, partial=True)) == 2
    write(tmp_path, [], frame_names=["1/a.png", "2/a.png", "b.png", "c.png", "d.png", "e.png"])
    with pytest.raises(DataError, match="of one picture"):
        ScalabelDataset("all", root=tmp_path, classes=classes)
    write(tmp_path, [], frame_names=["x.png"])
    with pytest.raises(DataError, match="the 0 that"):
        ScalabelDataset("all", root=tmp_path, classes=classes, partial=True)


def test_splits(tmp_path):
    arguments = layouts.by_split(tmp_path)["init_args"]
    names = {split: [pair.name for pair in ScalabelDataset(split, **arguments).pairs] for split in ("train", "val")}
    assert names == {"train": ["a1", "a2", "a3"], "val": ["b1", "b2"]}
    with pytest.raises(DataError, match="labels_test"):
        ScalabelDataset("test", **arguments)
    root = tmp_path / "other"
    write(root, [])
    given = {"root": root, "classes": {"names": ["car"]}}
    train, val, test = (ScalabelDataset(split, **given) for split in ("train", "val", "test"))
    assert (len(train), len(val)) == (4, 1)
    assert val.pairs == test.pairs
    assert {pair.name for pair in train.pairs + val.pairs} == set("abcde")
    assert ScalabelDataset("val", **given, test_size=0.4, seed=1).pairs != val.pairs


def test_the_file_must_be_named_where_there_are_several(tmp_path):
    write(tmp_path, [])
    (tmp_path / "more.json").write_text("[]")
    with pytest.raises(DataError, match=r"2 \(labels\.json, more\.json\).*--data\.dataset\.labels"):
        ScalabelDataset(root=tmp_path)


def test_a_curve_and_a_vertex_outside_in_a_whole_sample(tmp_path):
    dataset = ScalabelDataset("all", **layouts.described_by_itself(tmp_path)["init_args"])
    sample = dataset[0]
    assert sample.labels.tolist() == [0, 1]
    expected = np.full((24, 36), 255)
    expected[12:], expected[4:16, 4:12] = 0, 1
    expected[4, 11] = 255  # where the curve rounds the corner
    np.testing.assert_array_equal(map_of(sample), expected)
    assert sample.meta == {"weather": "clear"}


def test_recognized_are_files_with_areas_and_categories(tmp_path):
    config = {"categories": [{"name": "car"}]}
    write(tmp_path, [box(0, 0, 5, 5, category="car")], config=config)
    assert ScalabelDataset.found_in(tmp_path) == [{"root": str(tmp_path), "labels": "labels.json"}]
    write(tmp_path, [box(0, 0, 5, 5, category="car")])
    assert ScalabelDataset.found_in(tmp_path) == [], "without categories the classes are not known"
    write(tmp_path, [{"category": "car", "box2d": {}}], config=config)
    assert ScalabelDataset.found_in(tmp_path) == [], "boxes have no pixels"
    (tmp_path / "labels.json").write_text('{"images": [], "annotations": [], "categories": []}')
    assert ScalabelDataset.found_in(tmp_path) == []


# --- the race track ---


@real
def test_the_real_set_reads_whole():
    classes = {"names": ["drivable", "background"], "background": "background"}
    dataset = ScalabelDataset("all", root=REAL, labels="drivable.json", classes=classes)
    samples = [dataset[index] for index in range(len(dataset))]
    assert len(samples) == 36
    assert all(sample.labels.tolist() == [0, 1] for sample in samples)
    share = [sample.areas()[0] / sample.areas().sum() for sample in samples]
    assert 0.34 < min(share) < max(share) < 0.42
    assert ScalabelDataset.found_in(REAL) == [{"root": str(REAL), "labels": "drivable.json"}]
    by_file = ScalabelDataset("all", root=REAL, labels="drivable.json")
    assert by_file.classes.names == ("drivable", "alternative")
    assert by_file[0].areas().tolist() == samples[0].areas().tolist()[:1]


@real
def test_the_real_lane_lines_have_no_area():
    dataset = ScalabelDataset("all", root=REAL, labels="left_right_lane.json")
    assert all(len(dataset[index].labels) == 0 for index in range(3))
