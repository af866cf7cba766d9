"""OCHuman in its own JSON: outlines with holes, boxes as crowds."""

import importlib.util
import json
import os
from pathlib import Path

import numpy as np
import pytest

from trimask.data import rle
from trimask.data.ochuman import OCHuman
from trimask.types import DataError

REAL = Path(os.environ.get("TRIMASK_DATA", "/nonexistent")) / "icevision_samples" / "ochuman"
real = pytest.mark.skipif(not REAL.is_dir(), reason="TRIMASK_DATA holds no icevision_samples/ochuman")


def load_layouts():
    spec = importlib.util.spec_from_file_location("layouts_ochuman", Path(__file__).parent / "layouts" / "ochuman.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


layouts = load_layouts()


@pytest.fixture
def root(tmp_path):
    layouts.write(tmp_path, range(1, 7))
    return tmp_path


def drawn(*polygons):
    return rle.to_mask(rle.from_polygons(polygons, layouts.SIZE), layouts.SIZE)


def test_outlines_have_holes_and_boxes_are_crowds(root):
    sample = OCHuman("all", root=root)[0]
    box = np.zeros(layouts.SIZE, bool)
    box[12:20, 20:] = True
    first = drawn(*layouts.PERSONS[0]["segms"]["outer"]) & ~drawn(*layouts.PERSONS[0]["segms"]["inner"])
    assert not first[6, 6]
    second = drawn(*layouts.PERSONS[1]["segms"]["outer"])
    np.testing.assert_array_equal(sample.target().masks.numpy(), [box, first, second])
    assert sample.is_crowd.tolist() == [True, False, False]
    assert (sample.name, sample.meta) == ("000001", {"image_id": "000001"})


def test_splits(root):
    assert [len(OCHuman(split, root=root)) for split in ("train", "val", "test", "all")] == [4, 2, 2, 6]
    (root / "val.txt").write_text("000003\n000001.jpg\n")
    assert OCHuman("val", root=root, lists={"val": "val.txt"}).names == ["000003", "000001"]
    with pytest.raises(DataError, match="none for the split 'train'"):
        OCHuman("train", root=root, lists={"val": "val.txt"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda image: image["annotations"][0]["segms"].update(width="33"), "person 0 cannot be drawn: .* 33x24"),
        (lambda image: image["annotations"][0]["segms"].update(outer=[[1, 2]]), "person 0 cannot be drawn: .*three"),
        (lambda image: image["annotations"][0]["segms"].pop("inner"), "person 0 cannot be drawn: 'inner'"),
        (lambda image: image["annotations"][0].update(segms=7), "person 0 cannot be drawn"),
        (lambda image: image["annotations"][2].update(bbox=[1, 2]), "person 2 cannot be drawn"),
        (lambda image: image["annotations"][2].update(bbox=[1, 2, float("nan"), 3]), "person 2 .*its box is"),
        (lambda image: image.update(annotations=None), "no list `annotations`"),
        (lambda image: image.update(width=31), r"000001\.jpg is 32x24, but .*says 31x24"),
        (lambda image: image.update(file_name="../1.jpg"), "lies outside"),
        (lambda image: image.update(file_name="000009.jpg"), r"000009\.jpg: cannot be read"),
    ],
)
def test_a_damaged_record_is_named(root, change, message):
    content = json.loads((root / "ochuman.json").read_text())
    change(content["images"][0])
    (root / "ochuman.json").write_text(json.dumps(content))
    dataset = OCHuman("all", root=root)
    with pytest.raises(DataError, match=message) as caught:
        dataset[0]
    assert str(root) in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"images": []}, "pictures in all: 0"),
        ({"images": [{"id": 3}]}, "its own `annotations`"),
        ({"images": [{"file_name": "a.jpg", "annotations": []}] * 2}, r"listed twice: 1 \(a\)"),
        ([], "pictures in all: 0"),
        ({"images": [3]}, "at byte 12 is no picture"),
    ],
)
def test_what_is_not_the_file(root, content, message):
    (root / "ochuman.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=message):
        OCHuman("all", root=root)


def test_a_file_that_changes_or_is_gone(root):
    dataset = OCHuman("all", root=root)
    (root / "ochuman.json").write_text("[" * 4000)
    with pytest.raises(DataError, match="changed while it is in use"):
        dataset[0]
    (root / "ochuman.json").unlink()
    with pytest.raises(DataError, match=r"ochuman\.json: cannot be read"):
        dataset[0]
    with pytest.raises(DataError, match="holds neither"):
        OCHuman("all", root=root)


@real
def test_real_outlines_lie_in_their_boxes():
    dataset = OCHuman("all", root=REAL)
    content = json.loads(Path(dataset.source).read_text())
    persons = [record["annotations"] for record in content["images"]]
    assert len(dataset) == 10
    num_outlines = num_boxes = 0
    for sample, given in zip((dataset[i] for i in range(10)), persons, strict=True):
        outlined = [person for person in given if person["segms"]]
        assert sample.is_crowd.sum() == len(given) - len(outlined)
        assert (~sample.is_crowd).sum() == len(outlined)
        for mask, person in zip(sample.target().masks.numpy()[sample.is_crowd.sum() :], outlined, strict=True):
            x0, y0, x1, y1 = person["bbox"]
            assert mask[y0:y1, x0:x1].sum() > 0.95 * mask.sum()  # boxes were drawn by hand, too
        num_outlines, num_boxes = num_outlines + len(outlined), num_boxes + int(sample.is_crowd.sum())
    assert (num_outlines, num_boxes) == (16, 13)
