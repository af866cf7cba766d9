"""COCO's instances and panoptic pictures: exact on generated files, equal to pycocotools on the real ones."""

import importlib.util
import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from trimask.data import rle
from trimask.data.coco import CocoInstances, CocoPanoptic
from trimask.data.decode import read_image, read_mask
from trimask.data.segments import panoptic_picture
from trimask.types import DataError

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:pycocotools.*")
DATA = Path(os.environ.get("TRIMASK_DATA", "/nonexistent"))


def real(folder):
    return pytest.mark.skipif(not (DATA / folder).is_dir(), reason=f"TRIMASK_DATA holds no {folder}")


def load_layouts():
    spec = importlib.util.spec_from_file_location("layouts_coco", Path(__file__).parent / "layouts" / "coco.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


layouts = load_layouts()


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("TRIMASK_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "coco"
    folder.mkdir()
    layouts.with_stuff(folder)
    return folder


@pytest.fixture
def panoptic_root(tmp_path):
    folder = tmp_path / "panoptic"
    folder.mkdir()
    layouts.panoptic(folder)
    return folder


def annotation_file(root, kind="instances", split="train"):
    return root / "annotations" / f"{kind}_{split}2017.json"


def edit(file, change):
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def drawn(annotation):
    """The mask of an annotation by pycocotools."""
    form, (height, width) = annotation["segmentation"], layouts.SIZE
    if isinstance(form, list):
        return coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(form, height, width))).astype(bool)
    if isinstance(form["counts"], list):
        return coco_mask.decode(coco_mask.frPyObjects(form, height, width)).astype(bool)
    return coco_mask.decode(form).astype(bool)


def masks_of(sample):
    return sample.target().masks.numpy()


PERSON, KITE, HOLE, CROWD = (drawn(annotation) for annotation in layouts.annotations_of(1, 0))


# --- instances, on generated files ---


def test_instances_keep_overlaps_and_gaps_close(root):
    dataset = CocoInstances(root=root)
    assert dataset.classes.names == ("person", "kite", "rope")
    assert dataset.classes.things == {0, 1, 2}
    assert dataset.offers == {"instances"}
    sample = dataset[0]
    assert sample.labels.tolist() == [2, 0, 1, 0]
    assert sample.is_crowd.tolist() == [True, False, False, False]
    np.testing.assert_array_equal(masks_of(sample), [CROWD, PERSON, KITE, HOLE])
    assert len(sample.segments) == 2
    assert (PERSON & KITE).any()
    assert not HOLE[14, 23]
    assert (sample.name, sample.meta) == ("000001", {"image_id": "1"})
    np.testing.assert_array_equal(sample.image, read_image(dataset.files(0)[0]))


def test_pictures_without_annotation_are_a_choice(root):
    assert [len(CocoInstances(split, root=root)) for split in ("train", "val")] == [3, 2]
    empty = CocoInstances(root=root)[2]
    assert (empty.segments.shape, empty.segments.any(), len(empty.labels)) == ((1, *layouts.SIZE), False, 0)
    assert [len(CocoInstances(split, root=root, keep_empty=False)) for split in ("train", "val")] == [2, 1]
    assert len(CocoInstances(root=root, keep_empty=False, categories=["kite"])) == 2
    edit(annotation_file(root), lambda content: content["annotations"].pop(1))
    chosen = CocoInstances(root=root, keep_empty=False, categories=["kite"])
    assert [chosen[i].name for i in range(len(chosen))] == ["000002"]


def test_run_lengths_alone_make_no_crowd(root):
    def no_crowds(content):
        for annotation in content["annotations"]:
            annotation.pop("iscrowd")

    edit(annotation_file(root), no_crowds)
    sample = CocoInstances(root=root)[0]
    assert not sample.is_crowd.any()
    assert sample.labels.tolist() == [0, 1, 0, 2]


def test_categories_select_order_rename_and_merge(root):
    dataset = CocoInstances(root=root, categories=["kite", "person"])
    assert dataset.classes.names == ("kite", "person")
    np.testing.assert_array_equal(masks_of(dataset[0]), [PERSON, KITE, HOLE])
    assert dataset[0].labels.tolist() == [1, 0, 1]
    merged = CocoInstances(root=root, categories={"rope": "toy", "person": "human", "kite": "toy"})
    assert merged.classes.names == ("toy", "human")
    assert merged[0].labels.tolist() == [0, 1, 0, 1]


def test_what_is_ignored_is_not_background(root):
    categories = {"person": "person", "kite": "ignore"}
    sample = CocoInstances(root=root, categories=categories, background="rest")[0]
    expected = np.where(PERSON | HOLE, 0, np.where(KITE, 255, 1))
    np.testing.assert_array_equal(sample.target().semantic().numpy(), expected)
    np.testing.assert_array_equal(masks_of(sample)[:2], [PERSON, HOLE])
    left_out = CocoInstances(root=root, categories=["person"], background="rest")[0]
    np.testing.assert_array_equal(left_out.target().semantic().numpy(), np.where(PERSON | HOLE, 0, 1))


@pytest.mark.parametrize(
    ("categories", "message"),
    [
        (["person", "dog"], r"names \['dog'\], which .*instances_train2017\.json does not have; it has .*'rope'"),
        ({"dog": "person"}, r"names \['dog'\]"),
        ({"kite": "ignore"}, "leaves no class"),
        ([], "leaves no class"),
    ],
)
def test_categories_that_there_are_not(root, categories, message):
    with pytest.raises(DataError, match=message):
        CocoInstances(root=root, categories=categories)


@pytest.mark.parametrize("overlap", ["smaller", "later", "ignore"])
def test_one_layer_by_a_rule_over_background(root, overlap):
    dataset = CocoInstances(root=root, background="rest", overlap=overlap)
    assert dataset.offers == {"semantic", "instances", "panoptic"}
    assert dataset.classes.names == ("person", "kite", "rope", "rest")
    assert dataset.classes.things == {0, 1, 2}
    sample = dataset[0]
    assert len(sample.segments) == 1
    assert sample.labels.tolist() == [2, 0, 1, 0, 3]
    contested = PERSON & KITE
    assert drawn(layouts.annotations_of(1, 0)[1]).sum() < PERSON.sum()
    kite = KITE & ~contested if overlap == "ignore" else KITE
    rest = ~(PERSON | KITE | HOLE | CROWD)
    np.testing.assert_array_equal(masks_of(sample), [CROWD, PERSON & ~contested, kite, HOLE, rest])


def test_background_offers_semantic_and_leaves_overlaps(root):
    dataset = CocoInstances(root=root, background="rest")
    assert dataset.offers == {"semantic", "instances"}
    sample = dataset[0]
    np.testing.assert_array_equal(masks_of(sample)[:4], [CROWD, PERSON, KITE, HOLE])
    assert sample.target().semantic().unique().tolist() == [0, 1, 2, 3]
    assert CocoInstances(root=root, background="rest")[2].labels.tolist() == [3]


def test_background_may_be_a_category_of_the_file(root):
    edit(annotation_file(root), lambda c: c["categories"].insert(0, {"id": 0, "name": "_background_"}))
    dataset = CocoInstances(root=root, background="_background_")
    assert dataset.classes.names == ("_background_", "person", "kite", "rope")
    assert dataset.classes.things == {1, 2, 3}
    assert dataset[0].labels.tolist() == [3, 1, 2, 1, 0]


def test_stuff_lies_below_the_instances(root):
    values = {"0-90": "ignore", 119: "sky", 154: "sand", 255: "ignore"}
    dataset = CocoInstances(root=root, stuff="stuff/{split}", stuff_values=values, overlap="later")
    assert dataset.classes.names == ("person", "kite", "rope", "sky", "sand")
    assert dataset.offers == {"semantic", "instances", "panoptic"}
    assert [Path(file).suffix for file in dataset.files(0)] == [".jpg", ".png"]
    sample = dataset[0]
    raw = read_mask(dataset.files(0)[1])
    free = ~(PERSON | KITE | HOLE | CROWD)
    expected = [CROWD, PERSON & ~KITE, KITE, HOLE, free & (raw == 119), free & (raw == 154)]
    np.testing.assert_array_equal(masks_of(sample), expected)
    assert sample.labels.tolist() == [2, 0, 1, 0, 3, 4]
    with pytest.raises(DataError, match=r"000001\.png: the mask holds value 119"):
        CocoInstances(root=root, stuff="stuff/{split}", stuff_values={"0-90": "ignore", 154: "sand", 255: "ignore"})[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"background": "rest", "stuff": "stuff/{split}", "stuff_values": {1: "a"}}, "none of them"),
        ({"stuff": "stuff/{split}"}, "together with"),
        ({"stuff_values": {1: "a"}}, "together with"),
        ({"stuff": "gone", "stuff_values": {1: "a"}}, "no folder .*gone"),
        ({"stuff": "stuff/{split}", "stuff_values": {"x": "a"}}, "'x' is neither"),
        ({"stuff": "stuff/{split}", "stuff_values": {"0-5": "ignore", 3: "a"}}, "the value 3 twice"),
        ({"stuff": "stuff/{split}", "stuff_values": {3: "person"}}, r"names \['person'\], which are things"),
        ({"overlap": "largest"}, "one of smaller, later, ignore"),
        (
            {"annotations": "gone.json"},
            r"looked for gone\.json; the JSON files there are 2 \(annotations/instances_train",
        ),
        ({"images": "gone"}, "no folder .*gone"),
        ({"split": "all"}, "split 'all'"),
    ],
)
def test_settings_that_do_not_fit(root, arguments, message):
    with pytest.raises(DataError, match=message):
        CocoInstances(arguments.pop("split", "train"), root=root, **arguments)


def test_one_file_is_divided_or_listed(tmp_path):
    case = layouts.one_file(tmp_path)["init_args"]
    names = {s: {d[i].name for i in range(len(d))} for s in ("train", "val") if (d := CocoInstances(s, **case))}
    assert [len(names[split]) for split in ("train", "val")] == [4, 2]
    assert names["train"] | names["val"] == {f"JPEGImages/00000{n}" for n in range(1, 7)}
    assert len(CocoInstances("all", **case)) == 6
    (tmp_path / "mine.txt").write_text("JPEGImages/000003.jpg\nJPEGImages/000001\n")
    listed = CocoInstances("val", **case, lists={"val": "mine.txt"})
    assert [listed[i].name for i in range(2)] == ["JPEGImages/000003", "JPEGImages/000001"]
    with pytest.raises(DataError, match="none for the split 'train'"):
        CocoInstances("train", **case, lists={"val": "mine.txt"})


def test_test_is_val_where_there_is_no_test(root):
    names = [CocoInstances(split, root=root)[0].name for split in ("val", "test")]
    assert names == ["000004", "000004"]


def test_boxes_without_masks(root):
    def boxes_only(content):
        content["annotations"][0]["segmentation"] = []
        content["annotations"][2].pop("segmentation")

    edit(annotation_file(root), boxes_only)
    with pytest.raises(
        DataError, match=r"2 of 8 annotations have no `segmentation`, such as 0, 2; .*without_mask: drop"
    ):
        CocoInstances(root=root)
    assert CocoInstances(root=root, without_mask="drop")[0].labels.tolist() == [2, 1]
    assert len(CocoInstances(root=root, categories=["kite"])) == 3


def test_an_object_without_pixels_is_no_segment(root):
    edit(annotation_file(root), lambda c: c["annotations"][0].update(segmentation=[[-9, -9, -5, -9, -5, -5]]))
    assert CocoInstances(root=root)[0].labels.tolist() == [2, 1, 0]


def one(content):
    return content["annotations"][0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda c: one(c).update(category_id=4),
            "annotation 0 has the category_id 4, which no category has; so do 0 more",
        ),
        (lambda c: one(c).update(image_id=99), "annotation 0 belongs to the picture 99"),
        (lambda c: c.pop("categories"), "list of categories is empty"),
        (lambda c: c["categories"].append({"id": 3, "name": "dog"}), "2 categories have the id 3"),
        (lambda c: c["categories"].append({"id": 4, "name": "kite"}), "2 categories have the name 'kite'"),
        (lambda c: c["categories"].append({"name": "dog"}), "a whole number `id`"),
        (lambda c: c.update(annotations=[{"image_id": 1, "segments_info": []}]), "read it with CocoPanoptic"),
    ],
)
def test_a_damaged_file_is_said_at_once(root, change, message):
    edit(annotation_file(root), change)
    with pytest.raises(DataError, match=rf"instances_train2017\.json.*{message}"):
        CocoInstances(root=root)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: one(c).update(segmentation=[[1, 1, 9, 9]]), "annotation 0 .*three vertices"),
        (lambda c: one(c).update(segmentation=[[1, 1, 9, 9, float("nan"), 5]]), "annotation 0 .*no number"),
        (lambda c: one(c).update(segmentation=[[1, 1, 9, 9, 1e300, 5]]), "annotation 0 .*pixels off"),
        (lambda c: one(c).update(segmentation=[[1, 1, 9, 9, "a", 5]]), "annotation 0 .*cannot be drawn"),
        (lambda c: one(c).update(segmentation=[[1, 1, 9, 9, 3, 5], 7]), "annotation 0 .*cannot be drawn"),
        (lambda c: one(c).update(segmentation="none"), "annotation 0 .*this one is a str"),
        (lambda c: one(c).update(segmentation={"size": [32, 24], "counts": [768]}), r"annotation 0 .*size \[32, 24\]"),
        (lambda c: one(c).update(segmentation={"size": None, "counts": [768]}), "annotation 0 .*size None"),
        (lambda c: one(c).update(segmentation={"size": [24, None], "counts": [768]}), "annotation 0 .*cannot be drawn"),
        (
            lambda c: one(c).update(segmentation={"size": [24, 32], "counts": [10**30]}),
            "annotation 0 .*cannot be drawn",
        ),
        (lambda c: one(c).update(segmentation={"size": [24, 32], "counts": [9, 9]}), "annotation 0 .*add up to 18"),
        (lambda c: one(c).update(iscrowd=2), "annotation 0 has the iscrowd 2"),
        (lambda c: c["images"][0].update(width=33), r"000001\.jpg is 32x24, but .*says 33x24"),
        (lambda c: c["images"][0].update(width=24, height=32), "turned by its EXIF orientation"),
        (lambda c: c["images"][0].update(file_name="999.jpg"), r"999\.jpg: cannot be read"),
        (
            lambda c: c["images"][0].update(file_name="../val2017/000004.jpg"),
            r"'\.\./val2017/000004\.jpg', which lies outside",
        ),
        (lambda c: c["images"][0].update(file_name="/etc/passwd"), "'/etc/passwd', which lies outside"),
    ],
)
def test_a_damaged_annotation_is_named_when_it_is_read(root, change, message):
    edit(annotation_file(root), change)
    if "lies outside" in message:  # such a file is refused as soon as its pictures are looked for
        with pytest.raises(DataError, match=message):
            CocoInstances(root=root)
    dataset = CocoInstances(root=root, images="{split}2017")
    with pytest.raises(DataError, match=message):
        dataset[0]
    assert len(dataset[1].labels) == 4


def test_pictures_that_are_nowhere(root):
    for file in (root / "train2017").iterdir():
        file.unlink()
    with pytest.raises(DataError, match=r"names 3 \(000001\.jpg, 000002\.jpg, 000003\.jpg\), of which none is in"):
        CocoInstances(root=root)


def test_layouts_are_found(root, panoptic_root, tmp_path):
    assert CocoInstances.found_in(root) == [
        {"root": str(root), "annotations": "annotations/instances_{split}2017.json"}
    ]
    assert CocoPanoptic.found_in(root) == []
    assert CocoInstances.found_in(panoptic_root) == []
    assert [given["annotations"] for given in CocoPanoptic.found_in(panoptic_root)] == [
        "annotations/panoptic_{split}2017.json"
    ]
    assert CocoInstances.found_in(tmp_path) == []
    (tmp_path / "annotations.json").write_text("{}")
    assert CocoInstances.found_in(tmp_path) == []


def test_a_panoptic_file_is_found_beside_its_pngs_and_pictures_alone(tmp_path):
    case = layouts.panoptic_beside(tmp_path)
    found = [case["init_args"]]
    assert CocoPanoptic.found_in(tmp_path) == found
    (tmp_path / "broken.json").write_text('{"segments_info": ')
    (tmp_path / "broken").mkdir()
    assert CocoPanoptic.found_in(tmp_path) == found
    (tmp_path / "input" / "000001.jpg").unlink()
    assert CocoPanoptic.found_in(tmp_path) == []


def test_instances_with_a_folder_of_pngs_beside_them_are_no_panoptic_file(tmp_path):
    layouts.write_instances(tmp_path / "a.json", tmp_path / "pictures", [1, 2])
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "000001.png").touch()
    assert CocoPanoptic.found_in(tmp_path) == []


# --- panoptic pictures, on generated files ---


def test_panoptic_truth(panoptic_root):
    dataset = CocoPanoptic(root=panoptic_root)
    assert dataset.classes.names == ("person", "kite", "sky", "sea")
    assert dataset.classes.things == {0, 1}
    assert dataset.classes.colors[2].tolist() == [70, 130, 180]
    sample = dataset[0]
    ids = np.array(Image.open(dataset.files(0)[1])).astype(int) @ [1, 256, 65536]
    order = [9, 70000, 1 << 20, 300, 513]
    np.testing.assert_array_equal(masks_of(sample), [ids == key for key in order])
    assert sample.labels.tolist() == [0, 2, 1, 3, 1]
    assert sample.is_crowd.tolist() == [False, False, False, False, True]
    assert sample.segments.shape == (1, *layouts.SIZE)
    assert (sample.segments[0] == 0).sum() == (ids == 0).sum() > 0


def test_stuff_that_is_joined_is_one_segment(panoptic_root):
    categories = {"sky": "far", "sea": "far", "kite": "kite", "person": "ignore"}
    dataset = CocoPanoptic(root=panoptic_root, categories=categories)
    assert (dataset.classes.names, dataset.classes.things) == (("far", "kite"), {1})
    sample, whole = dataset[0], CocoPanoptic(root=panoptic_root)[0]
    assert sample.labels.tolist() == [0, 1, 1]
    masks = masks_of(whole)
    np.testing.assert_array_equal(masks_of(sample), [masks[1] | masks[3], masks[2], masks[4]])
    edit(
        annotation_file(panoptic_root, "panoptic"), lambda c: c["annotations"][0]["segments_info"][1].update(iscrowd=1)
    )
    assert not CocoPanoptic(root=panoptic_root, categories=categories)[0].is_crowd[0]
    assert CocoPanoptic(root=panoptic_root)[0].is_crowd.tolist() == [False, True, False, False, True]
    with pytest.raises(DataError, match=r"joins things and stuff of .* in \['any'\]"):
        CocoPanoptic(root=panoptic_root, categories={"sky": "any", "kite": "any"})


def mask_file(root):
    return root / "annotations" / "panoptic_train2017" / "000001.png"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda infos: infos.pop(0),
            r"000001\.png has pixels .* not list for it: 1 \(9 \(72 pixels\)\)",
        ),
        (
            lambda infos: infos.append({"id": 77, "category_id": 3}),
            r"000001\.png: none of its .* lists for it: 1 \(77\)",
        ),
        (lambda infos: infos[0].update(category_id=4), "picture 1, segment 9 has the category_id 4"),
        (lambda infos: infos[0].update(id=0), "segment 0 has no id between 1 and 16777215"),
        (lambda infos: infos[0].update(id="x"), "segment 'x' has no id"),
        (lambda infos: infos.append(dict(infos[0])), "segment 9 occurs twice"),
        (lambda infos: infos[0].update(iscrowd="no"), "segment 9 has the iscrowd 'no'"),
        (lambda infos: infos.append(3), "no list of objects"),
    ],
)
def test_a_png_that_its_json_does_not_describe(panoptic_root, change, message):
    file = annotation_file(panoptic_root, "panoptic")
    edit(file, lambda content: change(content["annotations"][0]["segments_info"]))
    with pytest.raises(DataError, match=message):
        CocoPanoptic(root=panoptic_root)[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["categories"][0].pop("isthing"), "'person' has the isthing None"),
        (lambda c: c.pop("categories"), "no `categories`; give a `category_file`"),
        (lambda c: c["annotations"].append(c["annotations"][0]), "the picture 1 has 2 annotations"),
        (lambda c: c.pop("images"), "does not list its pictures"),
    ],
)
def test_a_damaged_panoptic_file(panoptic_root, change, message):
    edit(annotation_file(panoptic_root, "panoptic"), change)
    with pytest.raises(DataError, match=rf"panoptic_train2017\.json.*{message}"):
        CocoPanoptic(root=panoptic_root)


def test_damaged_pngs(panoptic_root):
    dataset = CocoPanoptic(root=panoptic_root)
    Image.fromarray(np.zeros(layouts.SIZE, np.uint8)).save(mask_file(panoptic_root))
    with pytest.raises(DataError, match=r"000001\.png: a panoptic PNG has three channels"):
        dataset[0]
    Image.fromarray(panoptic_picture(np.full((5, 5), 9))).save(mask_file(panoptic_root))
    with pytest.raises(DataError, match=r"000001\.png is 5x5, but its picture .*000001\.jpg is 32x24"):
        dataset[0]
    mask_file(panoptic_root).unlink()
    with pytest.raises(DataError, match=r"000001\.png: cannot be read"):
        dataset[0]
    edit(annotation_file(panoptic_root, "panoptic"), lambda c: c["annotations"][1].update(file_name="../../x.png"))
    with pytest.raises(DataError, match=r"'\.\./\.\./x\.png', which lies outside"):
        CocoPanoptic(root=panoptic_root)[1]


def test_pictures_without_truth_are_a_choice(panoptic_root):
    edit(annotation_file(panoptic_root, "panoptic"), lambda content: content["annotations"].pop(1))
    assert len(CocoPanoptic(root=panoptic_root)) == 2
    dataset = CocoPanoptic(root=panoptic_root, keep_empty=True)
    assert len(dataset[1].labels) == 0
    assert len(dataset.files(1)) == 1
    layouts.write_instances(annotation_file(panoptic_root, "panoptic"), panoptic_root, [1, 2])
    with pytest.raises(DataError, match=r"read it with CocoInstances"):
        CocoPanoptic(root=panoptic_root)


# --- the real ones ---


@real("tiny_coco")
@pytest.mark.parametrize(("split", "num_instances", "num_empty"), [("train", 470, 1), ("val", 382, 2)])
def test_every_mask_of_tiny_coco_equals_pycocotools(split, num_instances, num_empty):
    folder = DATA / "tiny_coco" / "tiny_coco"
    dataset = CocoInstances(split, root=folder)
    reference = COCO(folder / "annotations" / f"instances_{split}2017.json")
    names = [category["name"] for category in reference.loadCats(sorted(reference.getCatIds()))]
    assert list(dataset.classes.names) == names
    assert len(names) == 80
    count = crowds = empty = 0
    for index in range(len(dataset)):
        sample = dataset[index]
        theirs = reference.loadAnns(reference.getAnnIds(imgIds=int(sample.meta["image_id"])))
        theirs = sorted(theirs, key=lambda annotation: not annotation["iscrowd"])
        masks = masks_of(sample)
        assert len(masks) == len(theirs)
        for mask, label, crowd, annotation in zip(masks, sample.labels, sample.is_crowd, theirs, strict=True):
            np.testing.assert_array_equal(mask, reference.annToMask(annotation))
            assert names[label] == reference.loadCats(annotation["category_id"])[0]["name"]
            assert crowd == annotation["iscrowd"]
        count, crowds, empty = count + len(masks), crowds + sample.is_crowd.sum(), empty + (len(masks) == 0)
    assert (len(dataset), count, crowds, empty) == (50, num_instances, 5, num_empty)
    assert len(CocoInstances(split, root=folder, keep_empty=False)) == 50 - num_empty


@real("tiny_coco")
def test_reading_costs_little_more_than_decoding():
    dataset = CocoInstances(root=DATA / "tiny_coco" / "tiny_coco", background="rest", overlap="smaller")

    def seconds(read):
        start = time.process_time()  # the machine may be busy
        for index in range(len(dataset)):
            read(index)
        return time.process_time() - start

    whole = min(seconds(dataset.__getitem__) for _ in range(3))
    picture = min(seconds(lambda index: read_image(dataset.files(index)[0])) for _ in range(3))
    assert (whole - picture) / len(dataset) < 0.008


@real("coco128_panoptic")
def test_coco128_panoptic_equals_its_json():
    num_segments = num_crowds = 0
    for split, length in (("train", 45), ("val", 30)):
        dataset = CocoPanoptic(split, root=DATA / "coco128_panoptic")
        assert (len(dataset), len(dataset.classes), len(dataset.classes.things)) == (length, 133, 80)
        content = json.loads(Path(dataset.index.header.source).read_text())
        infos = {annotation["image_id"]: annotation["segments_info"] for annotation in content["annotations"]}
        names = {category["id"]: category["name"] for category in content["categories"]}
        for index in range(length):
            sample = dataset[index]
            theirs = infos[int(sample.meta["image_id"])]
            assert sample.areas().tolist() == [info["area"] for info in theirs]
            assert [dataset.classes.names[k] for k in sample.labels] == [names[info["category_id"]] for info in theirs]
            assert sample.is_crowd.tolist() == [bool(info["iscrowd"]) for info in theirs]
            boxes = [[x, y, x + w, y + h] for x, y, w, h in (info["bbox"] for info in theirs)]
            assert sample.target().boxes.tolist() == boxes
            num_segments, num_crowds = num_segments + len(theirs), num_crowds + sample.is_crowd.sum()
    assert (num_segments, num_crowds) == (938, 8)
    assert len(CocoPanoptic.found_in(DATA / "coco128_panoptic")) == 1


@real("coco128_panoptic")
def test_stuff_below_and_panoptic_truth_agree_on_semantics():
    """coco128's semantic PNGs were made from the panoptic ones: each proves the other."""
    dataset = CocoPanoptic("val", root=DATA / "coco128_panoptic")
    content = json.loads(Path(dataset.index.header.source).read_text())
    label_of = np.full(256, 255)
    for label, category in enumerate(content["categories"]):
        label_of[category["id"]] = label
    for index in range(len(dataset)):
        sample = dataset[index]
        raw = read_mask(DATA / "coco128_panoptic/semantic_segmentation/masks/val2017" / f"{sample.name}.png")
        np.testing.assert_array_equal(sample.target().semantic().numpy(), label_of[raw])


@real("panopticapi_sample")
def test_panopticapi_sample_in_both_formats():
    root = DATA / "panopticapi_sample"
    arguments = {"root": root, "images": "sample_data/input_images"}
    panoptic = CocoPanoptic("all", annotations="sample_data/panoptic_examples.json", **arguments)
    detection = CocoInstances("all", annotations="sample_data/panoptic_coco_detection_format.json", **arguments)
    assert panoptic.classes.names == detection.classes.names
    for index in range(2):
        ours, theirs = panoptic[index], detection[index]
        assert len(theirs.segments) == 1
        described = [
            sorted((int(label), mask.tobytes()) for label, mask in zip(sample.labels, masks_of(sample), strict=True))
            for sample in (ours, theirs)
        ]
        assert described[0] == described[1]
    from_file = CocoPanoptic(
        "all",
        annotations="sample_data/panoptic_examples.json",
        category_file="panoptic_coco_categories.json",
        **arguments,
    )
    assert from_file.classes == panoptic.classes
    assert panoptic.classes.colors[0].tolist() == [220, 20, 60]


@real("deeplab2_cityscapes_fixture")
def test_cityscapes_style_without_pictures_and_categories(tmp_path):
    names = [f"stuff {i}" for i in range(11)] + ["person", "rider", "car"]
    categories = [{"id": i, "name": name, "isthing": int(i >= 11)} for i, name in enumerate(names)]
    (tmp_path / "categories.yaml").write_text(yaml.safe_dump(categories))
    dataset = CocoPanoptic(
        "all",
        root=DATA / "deeplab2_cityscapes_fixture",
        annotations="gtFine/cityscapes_panoptic_dummy_trainId.json",
        images="leftImg8bit/{id}_leftImg8bit.png",
        category_file=str(tmp_path / "categories.yaml"),
    )
    sample = dataset[0]
    content = json.loads(Path(dataset.index.header.source).read_text())
    infos = content["annotations"][0]["segments_info"]
    assert sample.name == "dummy_000000_000000"
    assert sample.areas().tolist() == [info["area"] for info in infos]
    assert sample.labels.tolist() == [info["category_id"] for info in infos]
    assert sample.is_crowd.tolist() == [False, True, *[False] * 8]


@real("datumaro_format_fixtures")
@pytest.mark.parametrize("layout", ["coco", "coco_instances", "mmdet_coco", "coco_roboflow"])
def test_datumaro_instance_layouts(layout):
    root = DATA / "datumaro_format_fixtures" / "coco_dataset" / layout
    (found,) = CocoInstances.found_in(root)
    sample = CocoInstances("val", **found)[0]
    assert sample.labels.tolist()[:2] == [1, 0]
    assert sample.is_crowd.tolist() == [True, False]
    with pytest.raises(DataError, match="1 of 1 annotations have no `segmentation`"):
        CocoInstances("train", **found)
    train = CocoInstances("train", **found, without_mask="drop")
    assert train.classes.names == ("a", "b", "c")
    assert len(train[0].labels) == 0


@real("datumaro_format_fixtures")
@pytest.mark.parametrize("layout", ["coco", "coco_panoptic"])
def test_datumaro_panoptic_layouts(layout):
    root = DATA / "datumaro_format_fixtures" / "coco_dataset" / layout
    (found,) = CocoPanoptic.found_in(root)
    dataset = CocoPanoptic("train", **found)
    assert (dataset.classes.names, dataset.classes.things) == (("a", "b"), frozenset())


@real("labelme_examples")
def test_labelme_export_with_category_zero():
    root = DATA / "labelme_examples" / "instance_segmentation" / "data_dataset_coco"
    (found,) = CocoInstances.found_in(root)
    dataset = CocoInstances("all", **found, background="_background_", overlap="later")
    assert len(dataset.classes) == 21
    assert dataset.classes.names[0] == "_background_"
    assert 0 not in dataset.classes.things
    content = json.loads((root / "annotations.json").read_text())
    for index, image in enumerate(content["images"]):
        annotations = [a for a in content["annotations"] if a["image_id"] == image["id"]]
        sample = CocoInstances("all", **found)[index]
        assert sample.labels.tolist() == [annotation["category_id"] for annotation in annotations]
        for mask, annotation in zip(masks_of(sample), annotations, strict=True):
            # the declared area counts LabelMe's own pixels, which include the edges
            assert abs(rle.area(rle.from_mask(mask)) / annotation["area"] - 1) < 0.12
        assert dataset[index].target().semantic().unique().tolist()[0] == 0
