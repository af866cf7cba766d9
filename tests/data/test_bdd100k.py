"""BDD100K: every form gives the same truth; splits, tags, flags; and the real pictures and the toolkit's own files."""

import importlib.util
import json
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from trimask.data import rle
from trimask.data.bdd100k import (
    BDD100KDrivable,
    BDD100KInstances,
    BDD100KPanoptic,
    BDD100KSemantic,
)
from trimask.data.bdd100k_classes import CATEGORIES, OBJECTS, SEMANTIC
from trimask.data.decode import read_mask
from trimask.data.segments import Bitmask, bitmask_picture
from trimask.types import DataError

DATA = Path(os.environ.get("TRIMASK_DATA", "/nonexistent"))
TOOLKIT = DATA / "bdd100k_toolkit_fixtures"
CASES = TOOLKIT / "tests" / "label" / "testcases"


def real(name):
    return pytest.mark.skipif(not (DATA / name).is_dir(), reason=f"TRIMASK_DATA holds no {name}")


spec = importlib.util.spec_from_file_location("bdd100k_layouts", Path(__file__).parent / "layouts" / "bdd100k.py")
layouts = importlib.util.module_from_spec(spec)
spec.loader.exec_module(layouts)
NAMES = layouts.SPLITS


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("TRIMASK_CACHE", str(tmp_path_factory.mktemp("cache")))


def map_of(sample):
    return sample.target().semantic().numpy()


def names_of(dataset):
    return [pair.name for pair in dataset.pairs]


def regions(sample):
    """Label, crowd and mask of each segment, in an order that does not depend on the form."""
    masks = sample.target().masks.numpy()
    rows = zip(sample.labels.tolist(), sample.is_crowd.tolist(), masks, strict=True)
    return sorted(((label, crowd, mask.tobytes()) for label, crowd, mask in rows))


# --- forms ---

DRIVABLE = [name for name in layouts.CASES if name.startswith("drivable")]
SEMANTIC_FORMS = [name for name in layouts.CASES if name.startswith("semantic")]


@pytest.mark.parametrize("case", DRIVABLE)
def test_every_form_of_the_drivable_area_says_the_same(case, tmp_path):
    layouts.CASES[case](tmp_path)
    for split, names in NAMES.items():
        dataset = BDD100KDrivable(split, root=tmp_path)
        assert dataset.form.name == case.removeprefix("drivable_")
        assert dataset.classes.names == ("direct", "alternative", "background")
        assert names_of(dataset) == list(names)
        for number in range(len(names)):
            sample = dataset[number]
            np.testing.assert_array_equal(map_of(sample), layouts.drivable_map(number))
            assert sample.labels.tolist() == [0, 1, 2]
            assert not sample.is_crowd.any()


@pytest.mark.parametrize("case", SEMANTIC_FORMS)
def test_every_form_of_the_semantic_masks_says_the_same(case, tmp_path):
    layouts.CASES[case](tmp_path)
    dataset = BDD100KSemantic("val", root=tmp_path / "bdd100k")
    assert dataset.form.name == case.removeprefix("semantic_")
    for number in range(len(dataset)):
        np.testing.assert_array_equal(map_of(dataset[number]), layouts.semantic_map(number))


@pytest.mark.parametrize("kind", ["instance", "panoptic"])
def test_bitmasks_run_lengths_and_polygons_say_the_same(kind, tmp_path):
    found = {}
    for form in ("bitmasks", "rles", "polygons"):
        (tmp_path / form).mkdir()
        layouts.CASES[f"{kind}_{form}"](tmp_path / form)
        dataset = (BDD100KInstances if kind == "instance" else BDD100KPanoptic)("train", root=tmp_path / form)
        assert dataset.form.name == form
        found[form] = [regions(dataset[number]) for number in range(len(dataset))]
    assert found["bitmasks"] == found["rles"] == found["polygons"]


@pytest.mark.parametrize("form", ["bitmasks", "rles", "polygons"])
def test_flags_of_objects(form, tmp_path):
    layouts.CASES[f"instance_{form}"](tmp_path)
    sample = BDD100KInstances(root=tmp_path)[0]
    car, crowd, pedestrian, other = (area.mask for area in layouts.object_areas(0))
    expected = [(0, False, pedestrian), (2, False, car), (2, True, crowd), (2, True, other)]
    assert regions(sample) == sorted((label, flag, mask.tobytes()) for label, flag, mask in expected)
    without = BDD100KInstances(root=tmp_path, ignored="unlabelled")[0]
    assert regions(without) == sorted((label, flag, mask.tobytes()) for label, flag, mask in expected[:3])
    with pytest.raises(DataError, match="crowd or unlabelled"):
        BDD100KInstances(root=tmp_path, ignored="void")


def test_stuff_of_panoptic_truth_is_one_segment_and_crowds_of_things_are_kept(tmp_path):
    layouts.panoptic_bitmasks(tmp_path)
    dataset = BDD100KPanoptic(root=tmp_path)
    sample = dataset[0]
    assert [dataset.classes.names[label] for label in sample.labels] == ["road", "sky", "person", "car", "car"]
    assert sample.is_crowd.tolist() == [False, False, True, False, False]
    assert (len(dataset.classes), dataset.classes.things) == (40, frozenset(range(30, 40)))
    assert sample.areas()[1] == 8 * 36 - 6 * 4 + 2 * 6


def write_bitmask(root, pixels, folder="ins_seg"):
    """A picture of 4x6, whose bitmask has these RGBA pixels in its first row."""
    picture = np.zeros((4, 6, 4), np.uint8)
    picture[0, : len(pixels)] = np.reshape(pixels, (-1, 4))
    for split in NAMES:
        layouts.save(root, f"images/10k/{split}/{split}.jpg", np.zeros((4, 6, 3), np.uint8))
        layouts.save(root, f"labels/{folder}/bitmasks/{split}/{split}.png", picture)
    return root


def test_object_numbers_have_sixteen_bits_and_zero_is_no_object(tmp_path):
    write_bitmask(tmp_path, [[3, 0, 1, 0], [3, 0, 0, 1], [3, 4, 1, 1], [3, 0, 0, 0], [0, 0, 0, 255]])
    sample = BDD100KInstances(root=tmp_path)[0]
    assert sample.labels.tolist() == [2, 2, 2]
    assert sample.segments[0, 0].tolist() == [2, 1, 3, 0, 0, 0]


def test_ignored_regions_of_panoptic_truth_are_void(tmp_path):
    write_bitmask(tmp_path, [[35, 1, 0, 31], [7, 1, 0, 7], [7, 0, 0, 7], [35, 2, 0, 32]], "pan_seg")
    sample = BDD100KPanoptic(root=tmp_path)[0]
    assert sample.labels.tolist() == [6, 34]
    assert sample.is_crowd.tolist() == [False, True]
    assert sample.segments[0, 0].tolist() == [0, 0, 1, 2, 0, 0]


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        ([[9, 0, 0, 1], [12, 0, 0, 2], [12, 0, 0, 2]], r"train\.png.*category 9 \(1 pixels\), 12 \(2 pixels\).*1\.\.8"),
        ([[3, 0, 0, 1], [4, 0, 0, 1]], r"train\.png: the object 1 is of two categories"),
        ([[3, 0, 0, 1], [3, 2, 0, 1]], r"train\.png: the object 1 .* two sets of flags"),
    ],
)
def test_a_damaged_bitmask_is_named(pixels, message, tmp_path):
    with pytest.raises(DataError, match=message):
        BDD100KInstances(root=write_bitmask(tmp_path, pixels))[0]


def test_a_bitmask_that_was_saved_without_alpha_is_refused(tmp_path):
    write_bitmask(tmp_path, [])
    layouts.save(tmp_path, "labels/ins_seg/bitmasks/train/train.png", np.zeros((4, 6, 3), np.uint8))
    with pytest.raises(DataError, match=r"train\.png: a bitmask is RGBA.*3 channel"):
        BDD100KInstances(root=tmp_path)[0]


@settings(deadline=None, max_examples=30)
@given(data=st.data())
def test_bitmasks_go_round(data, tmp_path_factory):
    """Random objects with random flags and numbers, written as RGBA and as run lengths."""
    root = tmp_path_factory.mktemp("round")
    random = np.random.default_rng(data.draw(st.integers(0, 1000)))
    numbers = random.choice(65535, 6, replace=False) + 1
    category, crowd = random.integers(1, 9, 6), random.integers(0, 2, 6)
    rows = random.integers(0, 7, (4, 6))  # 6: nothing
    table = lambda values: np.append(values, 0)[rows]  # noqa: E731
    fields = Bitmask(
        table(category).astype(np.uint8), table(crowd * 2).astype(np.uint8), table(numbers).astype(np.int32)
    )
    write_bitmask(root, [])
    layouts.save(root, "labels/ins_seg/bitmasks/train/train.png", bitmask_picture(fields))
    labels = [
        {
            "id": str(row),
            "category": OBJECTS[category[row] - 1],
            "attributes": {"crowd": bool(crowd[row])},
            "rle": rle.to_coco(rle.from_mask(rows == row), (4, 6)),
        }
        for row in range(6)
    ]
    file = root / "bdd100k" / "labels" / "ins_seg" / "rles" / "ins_seg_train.json"
    file.parent.mkdir()
    file.write_text(json.dumps([{"name": "train.jpg", "labels": labels}]))
    expected = sorted(
        (int(category[row]) - 1, bool(crowd[row]), (rows == row).tobytes()) for row in range(6) if (rows == row).any()
    )
    assert regions(BDD100KInstances(root=root)[0]) == expected
    assert regions(BDD100KInstances(root=root, form="rles")[0]) == expected


# --- choice of form, root and split ---


def test_the_first_form_counts_unless_another_is_named(tmp_path):
    layouts.drivable_ids_2018(tmp_path)
    layouts.drivable_polygons(tmp_path)
    assert BDD100KDrivable(root=tmp_path).form.name == "polygons"
    assert BDD100KDrivable(root=tmp_path, form="ids_2018").form.name == "ids_2018"
    with pytest.raises(DataError, match=r"forms masks, colormaps, .*; got 'id'"):
        BDD100KDrivable(root=tmp_path, form="id")
    with pytest.raises(
        DataError, match=r"no drivable labels of the split 'train'.*labels/drivable/masks/train \(masks\)"
    ):
        BDD100KDrivable(root=tmp_path, form="masks")
    (tmp_path / "bdd100k" / "labels" / "drivable" / "polygons" / "drivable_val.json").unlink()
    assert BDD100KDrivable("val", root=tmp_path).form.name == "ids_2018"


def test_color_maps_of_objects_are_no_truth(tmp_path):
    layouts.semantic_masks(tmp_path)
    layouts.save(tmp_path, "labels/ins_seg/colormaps/train/a.png", np.zeros((2, 2), np.uint8))
    with pytest.raises(DataError, match=r"colormaps are pictures to look at.*Fetch the archive with bitmasks"):
        BDD100KInstances(root=tmp_path)
    assert BDD100KInstances.found_in(tmp_path) == []


def test_what_is_no_release_is_said(tmp_path):
    with pytest.raises(DataError, match=r"is no BDD100K.*--data\.dataset\.root"):
        BDD100KDrivable(root=tmp_path)
    layouts.drivable_masks(tmp_path)
    with pytest.raises(DataError, match="has no sem_seg labels"):
        BDD100KSemantic(root=tmp_path)
    with pytest.raises(DataError, match="splits train, val, test and all; got 'training'"):
        BDD100KDrivable("training", root=tmp_path)


def test_official_splits(tmp_path):
    layouts.drivable_masks(tmp_path)
    split = {name: names_of(BDD100KDrivable(name, root=tmp_path)) for name in ("train", "val", "test", "all")}
    assert split["test"] == split["val"] == list(NAMES["val"])
    assert split["all"] == [*NAMES["train"], *NAMES["val"]]
    layouts.save(tmp_path, "images/100k/test/t.jpg", np.zeros((4, 6, 3), np.uint8))
    assert names_of(BDD100KDrivable("test", root=tmp_path)) == split["val"], "test pictures have no labels"
    layouts.save(tmp_path, "labels/drivable/masks/test/t.png", np.zeros((4, 6), np.uint8))
    assert names_of(BDD100KDrivable("test", root=tmp_path)) == ["t"]


def write_many(root, count):
    for number in range(count):
        split = "train" if number % 5 else "val"
        for folder, ending in (("images/100k", "jpg"), ("labels/drivable/masks", "png")):
            file = root / folder / split / f"{number:04x}-{number * 7919:08x}.{ending}"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()


def test_the_split_of_the_course(tmp_path):
    write_many(tmp_path, 400)
    split = {name: names_of(BDD100KDrivable(name, root=tmp_path, course=True)) for name in ("train", "val", "test")}
    assert [len(names) for names in split.values()] == [280, 80, 40]
    assert len({name for names in split.values() for name in names}) == 400
    again = names_of(BDD100KDrivable("val", root=tmp_path, course=True, seed=0))
    assert again == split["val"] != names_of(BDD100KDrivable("val", root=tmp_path, course=True, seed=1))
    given = {"root": tmp_path, "course": True, "course_size": 300}
    assert [len(BDD100KDrivable(name, **given)) for name in ("train", "val", "test", "all")] == [210, 60, 30, 400]
    assert split["train"][:2] == ["00d3-00197efd", "00c5-0017cdeb"], "decided by names and seed alone"


def test_a_course_of_too_few_pictures(tmp_path):
    layouts.drivable_masks(tmp_path)
    assert len(BDD100KDrivable("train", root=tmp_path, course=True)) == 4
    with pytest.raises(DataError, match="5 pictures are too few for the course's split 'val'"):
        BDD100KDrivable("val", root=tmp_path, course=True)
    with pytest.raises(DataError, match="from 10 on"):
        BDD100KDrivable(root=tmp_path, course=True, course_size=9)


def test_what_does_not_pair_up_is_said_or_left_out(tmp_path):
    layouts.drivable_polygons(tmp_path)
    (tmp_path / "bdd100k" / "images" / "100k" / "train" / f"{NAMES['train'][1]}.jpg").unlink()
    layouts.save(tmp_path, "images/100k/train/more.jpg", np.zeros((24, 36, 3), np.uint8))
    with pytest.raises(DataError, match=r"without a label: 1 \(more\).*a picture: 1 \(0a0a0b1a-9d1f2b52\).*use the 2"):
        BDD100KDrivable(root=tmp_path)
    dataset = BDD100KDrivable(root=tmp_path, partial=True)
    assert names_of(dataset) == [NAMES["train"][0], NAMES["train"][2]]
    np.testing.assert_array_equal(map_of(dataset[1]), layouts.drivable_map(2))
    layouts.drivable_masks(tmp_path)
    for file in (tmp_path / "bdd100k" / "images" / "100k" / "val").iterdir():
        file.unlink()
    with pytest.raises(DataError, match=r"There is no picture in .*images/100k/val"):
        BDD100KDrivable("val", root=tmp_path, partial=True)


def test_two_pictures_of_one_name(tmp_path):
    layouts.drivable_masks(tmp_path)
    layouts.save(tmp_path, f"images/100k/train/{NAMES['train'][0]}.png", np.zeros((24, 36, 3), np.uint8))
    with pytest.raises(DataError, match="the same name '0a0a0b1a-7c39d841'"):
        BDD100KDrivable(root=tmp_path)


def test_a_mask_of_another_size_is_named(tmp_path):
    layouts.drivable_masks(tmp_path)
    layouts.save(tmp_path, f"labels/drivable/masks/train/{NAMES['train'][0]}.png", np.zeros((24, 30), np.uint8))
    with pytest.raises(DataError, match=r"7c39d841\.png is 30x24, but its picture .* is 36x24"):
        BDD100KDrivable(root=tmp_path)[0]


@pytest.mark.parametrize(
    ("kind", "write", "label", "message"),
    [
        (BDD100KDrivable, "drivable_polygons_2018", {"category": "drivable area"}, "areaType direct or alternative"),
        (BDD100KSemantic, "semantic_polygons", {"category": "tree"}, "'tree' is none of BDD100K's categories"),
        (
            BDD100KInstances,
            "instance_polygons",
            {"category": "traffic light"},
            "'traffic light' is none of the objects",
        ),
        (BDD100KPanoptic, "panoptic_polygons", {"category": None}, "None is none of BDD100K's categories"),
    ],
)
def test_a_category_that_nobody_knows_is_named(kind, write, label, message, tmp_path):
    layouts.CASES[write](tmp_path)
    (file,) = tmp_path.rglob("*train.json")
    frames = json.loads(file.read_text())
    area = layouts.Area("", 2, 2, 4, 4)
    frames[0]["labels"].append({"id": "77", **label, **layouts.polygon(area)})
    file.write_text(json.dumps(frames))
    dataset = kind(root=tmp_path)
    with pytest.raises(DataError, match=rf"train\.json, frame '0a0a0b1a-7c39d841\.jpg', label '77': .*{message}"):
        dataset[0]


def test_a_frame_without_labels_is_background_or_unlabelled(tmp_path):
    for kind, write, expected in (
        (BDD100KDrivable, "drivable_polygons", [2]),
        (BDD100KPanoptic, "panoptic_polygons", []),
    ):
        root = tmp_path / write
        root.mkdir()
        layouts.CASES[write](root)
        (file,) = root.rglob("*train.json")
        frames = json.loads(file.read_text())
        frames[0]["labels"] = None
        file.write_text(json.dumps(frames))
        assert kind(root=root)[0].labels.tolist() == expected


# --- tags ---


def test_tags_come_from_the_labels_or_from_the_detection_labels(tmp_path):
    layouts.drivable_polygons(tmp_path)
    assert BDD100KDrivable(root=tmp_path)[0].meta == layouts.TAGS
    root = tmp_path / "masks"
    layouts.drivable_masks(root)
    assert BDD100KDrivable(root=root)[0].meta == {}
    detection = root / "bdd100k" / "labels" / "det_20" / "det_train.json"
    detection.parent.mkdir()
    tags = [{"weather": "foggy", "scene": "tunnel", "timeofday": "night"}, {"weather": "clear"}]
    names = [NAMES["train"][2], NAMES["train"][0], "another"]
    detection.write_text(
        json.dumps([{"name": f"{n}.jpg", "attributes": t} for n, t in zip(names, [*tags, {}], strict=True)])
    )
    dataset = BDD100KDrivable(root=root)
    assert [dataset[index].meta for index in range(3)] == [tags[1], {}, tags[0]]
    assert BDD100KDrivable("val", root=root)[0].meta == {}
    assert BDD100KDrivable("all", root=root)[0].meta == tags[1]
    assert BDD100KDrivable(root=root, tags=None)[0].meta == {}
    assert BDD100KDrivable(root=root, tags="labels/det_20/det_train.json")[2].meta == tags[0]
    with pytest.raises(DataError, match=r"no file .*tags_train\.json.*--data\.dataset\.tags"):
        BDD100KDrivable(root=root, tags="tags_{split}.json")


def test_tags_of_a_course_are_those_of_its_pictures(tmp_path):
    write_many(tmp_path, 50)
    names = {pair.name: pair for pair in BDD100KDrivable("all", root=tmp_path).pairs}
    for split in ("train", "val"):
        file = tmp_path / "labels" / "det_20" / f"det_{split}.json"
        file.parent.mkdir(exist_ok=True)
        mine = [name for name, pair in names.items() if f"/{split}/" in pair.image]
        file.write_text(json.dumps([{"name": f"{name}.jpg", "attributes": {"scene": name}} for name in mine]))
    dataset = BDD100KDrivable("val", root=tmp_path, course=True)
    assert [dataset.tag_table[code] for code in dataset.tag_codes] == [{"scene": name} for name in names_of(dataset)]


def test_a_sample_does_not_share_its_tags(tmp_path):
    layouts.drivable_polygons(tmp_path)
    dataset = BDD100KDrivable(root=tmp_path)
    dataset[0].meta["weather"] = "changed"
    assert dataset[0].meta == dataset[1].meta == layouts.TAGS


# --- facts ---


@real("bdd100k_toolkit_fixtures")
def test_classes_are_those_of_the_toolkit():
    import tomllib

    def leaves(categories):
        return [leaf for one in categories for leaf in leaves(one.get("subcategories") or []) or [one]]

    config = {
        task: leaves(tomllib.loads((TOOLKIT / "configs" / f"{task}.toml").read_text())["scalabel"]["categories"])
        for task in ("drivable", "sem_seg", "ins_seg", "pan_seg")
    }
    assert [one["name"] for one in config["drivable"]] == list(BDD100KDrivable.classes.names[:2])
    assert [one["color"] for one in config["drivable"]] == BDD100KDrivable.classes.colors[:2].tolist()
    assert [one["name"] for one in config["sem_seg"]] == list(BDD100KSemantic.classes.names)
    differ = [
        i for i, one in enumerate(config["sem_seg"]) if one["color"] != BDD100KSemantic.classes.colors[i].tolist()
    ]
    assert [SEMANTIC[i] for i in differ] == ["wall", "fence"], "which that file swaps"
    assert [one["name"] for one in config["ins_seg"]] == list(OBJECTS)
    assert [one["name"] for one in config["pan_seg"]] == list(CATEGORIES)
    assert {i for i, one in enumerate(config["pan_seg"]) if one["isThing"]} == BDD100KPanoptic.classes.things


def test_the_fragments_keep_the_background_out_of_the_mean_in_any_order():
    from trimask import experiments

    root = Path(__file__).parents[2] / "configs"
    for name in ("bdd100k_drivable", "bdd100k_drivable_course"):
        fragment = yaml.safe_load((root / "data" / f"{name}.yaml").read_text())
        model = yaml.safe_load((root / "model" / "unet.yaml").read_text())
        for merged in (experiments.merge(fragment, model), experiments.merge(model, fragment)):
            metric = merged["model"]["init_args"]["metric"]
            assert metric["init_args"] == {"exclude": ["background"]}
            assert merged["model"]["init_args"]["network"]


# --- real data ---


@pytest.mark.slow
@real("bdd100k_drivable")
def test_all_210_real_drivable_pictures():
    dataset = BDD100KDrivable("all", root=DATA / "bdd100k_drivable")
    assert [len(BDD100KDrivable(split, root=DATA / "bdd100k_drivable")) for split in ("train", "val", "test")] == [
        160,
        50,
        50,
    ]
    present, rgba = Counter(), {}
    for index in range(len(dataset)):
        sample = dataset[index]
        present[tuple(sample.labels.tolist())] += 1
        assert sample.segments.shape == (1, 720, 1280)
        assert sample.segments.min() > 0, "no pixel is unlabelled"
        if Image.open(dataset.pairs[index].mask).mode == "RGBA":
            rgba[sample.name] = dict(zip(sample.labels.tolist(), sample.areas().tolist(), strict=True))
    assert present == {(0, 1, 2): 106, (0, 2): 87, (2,): 11, (1, 2): 6}
    assert rgba == {
        "fdb7ff6e-3121f83a": {0: 170501, 2: 751099},
        "fdb85adb-cbdd7f23": {0: 184284, 2: 737316},
        "fdd4fbe0-f4a4cb0d": {0: 172311, 1: 105263, 2: 644026},
        "fdd564c1-3c48241d": {0: 31044, 1: 90226, 2: 800330},
        "fde2b675-e01dda61": {0: 85982, 1: 58740, 2: 776878},
        "fde725fc-281c8ef2": {1: 62207, 2: 859393},
        "fe189115-9cc4a501": {0: 123891, 2: 797709},
    }


@real("bdd100k_drivable")
def test_the_course_on_the_real_pictures():
    given = {"root": DATA / "bdd100k_drivable" / "bdd100k", "course": True}
    split = {name: names_of(BDD100KDrivable(name, **given)) for name in ("train", "val", "test")}
    assert [len(names) for names in split.values()] == [147, 42, 21]
    assert len({name for names in split.values() for name in names}) == 210


@real("bdd100k_drivable_2020fmt")
def test_real_masks_of_2020():
    found = {}
    for split in ("train", "val"):
        sample = BDD100KDrivable(split, root=DATA / "bdd100k_drivable_2020fmt")[0]
        found[sample.name] = dict(zip(sample.labels.tolist(), sample.areas().tolist(), strict=True))
    assert found["0a0a0b1a-7c39d841"] == {0: 95375, 1: 167715, 2: 658510}
    assert set(found["b4fb7979-16f87335"]) == {0, 2}


@real("bdd100k_10k")
def test_real_semantic_masks():
    root = DATA / "bdd100k_10k"
    train, val = (BDD100KSemantic(split, root=root) for split in ("train", "val"))
    assert (len(train), len(val)) == (16, 8)
    for dataset in (train, val):
        for index in range(len(dataset)):
            raw = read_mask(dataset.pairs[index].mask)
            np.testing.assert_array_equal(map_of(dataset[index]), raw)
    with pytest.raises(DataError, match="pictures to look at"):
        BDD100KInstances(root=root)
    assert BDD100KSemantic.found_in(root) == [{"root": str(root)}]
    assert BDD100KInstances.found_in(root) == BDD100KDrivable.found_in(root) == []


def release_with(root, image, split="train"):
    """A release with one picture of 1280x720."""
    layouts.save(root, f"images/10k/{split}/{image}.png", np.zeros((720, 1280, 3), np.uint8))
    return root / "bdd100k" / "labels"


def put(source, target):
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(source.read_bytes())


@real("bdd100k_toolkit_fixtures")
def test_run_lengths_of_the_toolkit_equal_its_mask(tmp_path):
    labels = release_with(tmp_path, "test-mask")
    put(CASES / "to_rle" / "test-mask.png", labels / "sem_seg" / "masks" / "train" / "test-mask.png")
    put(CASES / "to_rle" / "test-out-rle.json", labels / "sem_seg" / "rles" / "sem_seg_train.json")
    masks, rles = (BDD100KSemantic(root=tmp_path, form=form)[0] for form in ("masks", "rles"))
    assert len(masks.labels) == 11
    np.testing.assert_array_equal(masks.segments, rles.segments)
    assert masks.labels.tolist() == rles.labels.tolist()


@real("bdd100k_toolkit_fixtures")
@real("bdd100k_10k")
def test_run_lengths_of_a_real_picture_equal_its_mask(tmp_path):
    """The toolkit's JSON and the released mask of one picture of the validation set."""
    name = "7d06fefd-f7be05a6"
    labels = release_with(tmp_path, name, "val")
    put(TOOLKIT / "tests/eval/testcases/rle/seg/gt/0.json", labels / "sem_seg" / "rles" / "sem_seg_val.json")
    drawn = map_of(BDD100KSemantic("val", root=tmp_path)[0])
    stored = read_mask(DATA / "bdd100k_10k" / "bdd100k" / "labels" / "sem_seg" / "colormaps" / "val" / f"{name}.png")
    np.testing.assert_array_equal(drawn, stored)


@real("bdd100k_toolkit_fixtures")
def test_panoptic_polygons_of_the_toolkit_equal_its_bitmask(tmp_path):
    labels = release_with(tmp_path, "panseg_mask")
    case = CASES / "panseg_bdd100k"
    put(case / "panseg_mask.png", labels / "pan_seg" / "bitmasks" / "train" / "panseg_mask.png")
    put(case / "panseg_bdd100k.json", labels / "pan_seg" / "polygons" / "pan_seg_train.json")
    stored, drawn = (BDD100KPanoptic(root=tmp_path, form=form)[0] for form in ("bitmasks", "polygons"))
    assert regions(stored) == regions(drawn)
    assert len(stored.labels) == 14


@real("bdd100k_toolkit_fixtures")
def test_instance_polygons_of_the_toolkit_equal_its_bitmask(tmp_path):
    name = "b1c81faa-3df17267-0000001"
    labels = release_with(tmp_path, name)
    put(CASES / "bitmasks/quasi-video/insseg_bitmask.png", labels / "ins_seg" / "bitmasks" / "train" / f"{name}.png")
    put(CASES / "example_annotation.json", labels / "ins_seg" / "polygons" / "ins_seg_train.json")
    stored, drawn = (BDD100KInstances(root=tmp_path, form=form)[0] for form in ("bitmasks", "polygons"))
    assert regions(stored) == regions(drawn)
    assert stored.labels.tolist() == [2] * 4


@real("bdd100k_toolkit_fixtures")
def test_fields_of_a_bitmask_are_those_of_the_toolkit(tmp_path):
    labels = release_with(tmp_path, "a")
    case = TOOLKIT / "tests" / "common" / "testcases"
    put(case / "example_bitmask.png", labels / "ins_seg" / "bitmasks" / "train" / "a.png")
    sample = BDD100KInstances(root=tmp_path)[0]
    assert (sample.labels + 1).tolist() == np.load(case / "gt_cat_ids.npy").tolist()
    assert len(sample.labels) == len(np.load(case / "gt_ins_ids.npy"))


@real("bdd100k_10k")
def test_the_real_detection_labels_tag_their_pictures(tmp_path):
    root = DATA / "bdd100k_10k" / "bdd100k"
    for name in ("0000f77c-62c2a288", "0000f77c-6257be58"):
        layouts.save(tmp_path, f"images/100k/train/{name}.png", np.zeros((4, 6, 3), np.uint8))
        layouts.save(tmp_path, f"labels/drivable/masks/train/{name}.png", np.zeros((4, 6), np.uint8))
    put(root / "labels/det_20/det_train.json", tmp_path / "bdd100k/labels/det_20/det_train.json")
    dataset = BDD100KDrivable(root=tmp_path)
    assert [dataset[index].meta for index in range(2)] == [
        {"weather": "clear", "scene": "city street", "timeofday": "daytime"},
        {"weather": "clear", "scene": "highway", "timeofday": "dawn/dusk"},
    ]
