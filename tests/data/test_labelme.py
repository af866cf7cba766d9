"""LabelMe: shapes as its own export draws them, exact on generated files."""

import base64
import importlib.util
import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from trimask.data import rle
from trimask.data.decode import read_mask
from trimask.data.labelme import LabelMe, _pixels, _runs
from trimask.types import DataError

EXAMPLES = Path(os.environ.get("TRIMASK_DATA", "/nonexistent")) / "labelme_examples"
real = pytest.mark.skipif(not EXAMPLES.is_dir(), reason="TRIMASK_DATA holds no labelme_examples")


def load_layouts():
    spec = importlib.util.spec_from_file_location("layouts_labelme", Path(__file__).parent / "layouts" / "labelme.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


layouts = load_layouts()
CLASSES = layouts.LABELS
SIZE = layouts.SIZE


def dataset(tmp_path, *shapes, classes=CLASSES, inside=False, **arguments):
    layouts.write(tmp_path, 1, shapes=list(shapes), inside=inside)
    return LabelMe("all", root=tmp_path, classes=classes, **arguments)


def masks_of(sample):
    return sample.target().masks.numpy()


def box(left, top, right, bottom):
    """Pixels from left to right and from top to bottom, both included."""
    mask = np.zeros(SIZE, bool)
    mask[top : bottom + 1, left : right + 1] = True
    return mask


CAR, PERSON, IGNORED = box(2, 2, 12, 9), box(8, 5, 18, 14), box(0, 16, 9, 19)


def test_shapes_are_objects_and_overlap(tmp_path):
    data = dataset(tmp_path, *layouts.SHAPES)
    assert (data.classes.names, data.classes.things) == (("_background_", "car", "person"), {1, 2})
    assert data.offers == {"semantic", "instances"}
    sample = data[0]
    assert sample.labels.tolist() == [1, 2, 1, 0]
    masks = masks_of(sample)
    np.testing.assert_array_equal(masks[:2], [CAR, PERSON])
    assert masks[2][10:15, 22:28].all()
    assert masks[2][2, 22:28].all()
    assert masks[2][7:10].sum() == 0
    np.testing.assert_array_equal(masks[3], ~(masks[:3].any(0) | IGNORED))
    assert (sample.target().semantic().numpy() == 255).sum() == IGNORED.sum()


@pytest.mark.parametrize("overlap", ["later", "smaller", "ignore"])
def test_one_layer_by_a_rule(tmp_path, overlap):
    data = dataset(tmp_path, *layouts.SHAPES, overlap=overlap)
    assert data.offers == {"semantic", "instances", "panoptic"}
    sample = data[0]
    assert len(sample.segments) == 1
    both = CAR & PERSON
    assert CAR.sum() < PERSON.sum()
    car = CAR if overlap == "smaller" else CAR & ~both
    person = PERSON if overlap == "later" else PERSON & ~both
    np.testing.assert_array_equal(masks_of(sample)[:2], [car, person])


def test_what_is_ignored_erases_what_was_drawn_before_and_not_after(tmp_path):
    before = layouts.polygon("car", (2, 2), (20, 2), (20, 12), (2, 12))
    ignore = layouts.polygon("__ignore__", (10, 0), (25, 0), (25, 19), (10, 19))
    after = layouts.polygon("person", (18, 4), (23, 4), (23, 8), (18, 8))
    for overlap in (None, "later"):
        sample = dataset(tmp_path, before, ignore, after, overlap=overlap)[0]
        expected = np.zeros(SIZE, int)
        expected[box(2, 2, 20, 12)] = 1
        expected[box(10, 0, 25, 19)] = 255
        expected[box(18, 4, 23, 8)] = 2
        np.testing.assert_array_equal(sample.target().semantic().numpy(), expected)
        assert sample.labels.tolist() == [1, 2, 0]


def test_without_background_the_rest_is_unlabelled(tmp_path):
    data = dataset(tmp_path, *layouts.SHAPES, classes=["car", "person"])
    assert data.offers == {"instances"}
    assert data[0].labels.tolist() == [0, 1, 0]


def test_a_picture_inside_is_the_one_that_counts(tmp_path):
    beside, inside = (
        dataset(tmp_path / name, *layouts.SHAPES, inside=name == "inside") for name in ("beside", "inside")
    )
    np.testing.assert_array_equal(beside[0].image, inside[0].image)
    assert [Path(file).name for file in beside.files(0)] == ["1.png", "1.json"]
    assert [Path(file).name for file in inside.files(0)] == ["1.json"]


def test_a_path_may_leave_the_folder_of_its_json_but_not_the_data_set(tmp_path):
    layouts.write(tmp_path / "images", 1)
    content = json.loads((tmp_path / "images" / "1.json").read_text())
    (tmp_path / "labels").mkdir()
    file = tmp_path / "labels" / "a.json"
    for path in ("../images/1.png", "..\\images\\1.png"):
        file.write_text(json.dumps({**content, "imagePath": path}))
        data = LabelMe("all", root=tmp_path, annotations="labels", classes=CLASSES)
        assert data[0].image.shape == (*SIZE, 3)
        assert data.files(0) == (str(tmp_path / "images" / "1.png"), str(file))
    for path in ("../../1.png", "/etc/passwd"):
        file.write_text(json.dumps({**content, "imagePath": path}))
        with pytest.raises(DataError, match=rf"a\.json names the file .*{path}', which lies outside"):
            data[0]


corner = st.tuples(st.floats(-40, 60), st.floats(-40, 60))


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(["polygon", "rectangle", "circle"]), st.lists(corner, min_size=3, max_size=9))
def test_shapes_cover_what_pillow_draws_on_the_whole_picture(kind, points):
    canvas = Image.new("L", SIZE[::-1])
    draw = ImageDraw.Draw(canvas)
    if kind == "polygon":
        draw.polygon(points, fill=1, outline=1)
    elif kind == "rectangle":
        points = points[:2]
        (x0, y0), (x1, y1) = points
        draw.rectangle([min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)], fill=1, outline=1)
    else:
        points = points[:2]
        (x, y), edge = points
        radius = np.hypot(edge[0] - x, edge[1] - y)
        draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill=1, outline=1)
    pixels = _pixels({"shape_type": kind, "points": points}, SIZE, "a shape")
    np.testing.assert_array_equal(rle.to_mask(_runs(pixels, SIZE), SIZE), np.asarray(canvas) > 0)


def test_a_mask_of_its_own(tmp_path):
    mask = np.random.default_rng(0).random((6, 5)) < 0.5
    buffer = io.BytesIO()
    Image.fromarray(mask).save(buffer, "PNG")
    shape = {
        "label": "car",
        "points": [[10.4, 3.0], [14.0, 8.9]],
        "shape_type": "mask",
        "mask": base64.b64encode(buffer.getvalue()).decode(),
    }
    sample = dataset(tmp_path, shape)[0]
    expected = np.zeros(SIZE, bool)
    expected[3:9, 10:15] = mask
    np.testing.assert_array_equal(masks_of(sample)[0], expected)
    for points, message in (([[10, 3], [15, 8]], "has 5x6 pixels, but its box 6x6"), ([[26, 3], [30, 8]], "leads out")):
        with pytest.raises(DataError, match=rf"1\.json: shape 0 \(car\): its mask {message}"):
            dataset(tmp_path, {**shape, "points": points})[0]
    with pytest.raises(DataError, match="its mask is no base64 text"):
        dataset(tmp_path, {**shape, "mask": "%%"})[0]


def test_points_and_lines_are_refused_or_passed_over(tmp_path):
    point = {"label": "car", "points": [[3, 3]], "shape_type": "point", "group_id": None}
    line = {"label": "car", "points": [[3, 3], [9, 9], [12, 4]], "shape_type": "linestrip"}
    for shape, kind in ((point, "point"), (line, "linestrip")):
        with pytest.raises(DataError, match=rf"1\.json: shape 0 \(car\) is a {kind} .*leave_out: \[{kind}\]"):
            dataset(tmp_path, shape)[0]
    sample = dataset(tmp_path, point, line, layouts.SHAPES[0], leave_out=["point", "linestrip"])[0]
    assert sample.labels.tolist() == [1, 0]


def test_a_shape_outside_the_picture_is_cut_off(tmp_path):
    outside = layouts.polygon("car", (100, 100), (120, 100), (110, 120))
    across = layouts.polygon("person", (25, -5), (40, -5), (40, 3), (25, 3))
    sample = dataset(tmp_path, outside, across)[0]
    assert sample.labels.tolist() == [2, 0]
    np.testing.assert_array_equal(masks_of(sample)[0], box(25, 0, 29, 3))


SHAPE = layouts.SHAPES[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda c: c["shapes"][0].update(label="cart"),
            r"shape 0 has the label 'cart'; the list of labels is \['_background_'",
        ),
        (lambda c: c["shapes"][0].pop("label"), "shape 0 has no label"),
        (lambda c: c["shapes"][0].pop("points"), r"shape 0 \(car\) has no `points`"),
        (lambda c: c["shapes"][0].update(points=[[1, 2, 3], [4]]), "has no `points`"),
        (lambda c: c["shapes"][0].update(points=[[1, 2], [4, 5]]), "is a polygon with 2 points"),
        (lambda c: c["shapes"][0].update(points=[[1, float("nan")], [4, 5], [7, 8]]), "no number"),
        (lambda c: c["shapes"][0].update(points=[[1, 1e12], [4, 5], [7, 8]]), "pixels off"),
        (lambda c: c["shapes"].__setitem__(0, 5), "shape 0 has no label"),
        (lambda c: c.update(shapes=None), "no file of LabelMe"),
        (lambda c: c.update(imageWidth=31), r"was drawn on 31x20 pixels, but its picture has 30x20"),
        (lambda c: c.update(imagePath=None), "neither `imageData` nor `imagePath`"),
        (lambda c: c.update(imagePath="gone.png"), r"gone\.png: cannot be read"),
        (lambda c: c.update(imageData="%%%"), "imageData is no base64 text"),
        (lambda c: c.update(imageData="aGVsbG8="), r"\(imageData\): not a picture"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, change, message):
    data = dataset(tmp_path, SHAPE)
    file = tmp_path / "1.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))
    with pytest.raises(DataError, match=message) as caught:
        data[0]
    assert str(tmp_path) in str(caught.value)


def test_what_is_no_json_is_named(tmp_path):
    data = dataset(tmp_path, SHAPE)
    for text in ("", '{"shapes": [', "[" * 100_000, "[]"):
        (tmp_path / "1.json").write_text(text)
        with pytest.raises(DataError, match=r"1\.json: no"):
            data[0]
        with pytest.raises(DataError, match=r"1\.json: no"):
            data.files(0)
    (tmp_path / "1.json").unlink()
    with pytest.raises(DataError, match=r"1\.json: cannot be read"):
        data[0]


def test_labels_from_a_file_or_a_list(tmp_path):
    for number in range(5):
        layouts.write(tmp_path / "set", number)
    with pytest.raises(DataError, match=r"There is no labels\.txt in .*set or above it"):
        LabelMe(root=tmp_path / "set")
    (tmp_path / "labels.txt").write_text("\ufeff" + "\r\n".join(CLASSES) + "\n\n")
    above = LabelMe(root=tmp_path / "set")
    assert above.classes.names == ("_background_", "car", "person")
    (tmp_path / "set" / "mine.txt").write_text("person\ncar\n")
    assert LabelMe(root=tmp_path / "set", classes="mine.txt").classes.names == ("person", "car")
    with pytest.raises(DataError, match="must be unique"):
        LabelMe(root=tmp_path / "set", classes=["car", "car"])
    with pytest.raises(DataError, match="must be unique and name a class"):
        LabelMe(root=tmp_path / "set", classes=["__ignore__"])


def test_splits(tmp_path):
    for number in range(5):
        layouts.write(tmp_path / "all", number)
        layouts.write(tmp_path / ("train" if number else "val"), number)
    arguments = {"root": tmp_path, "classes": CLASSES}
    by_folder = [LabelMe(split, annotations="{split}", **arguments).names for split in ("train", "val")]
    assert by_folder == [["1", "2", "3", "4"], ["0"]]
    drawn = [LabelMe(split, annotations="all", **arguments).names for split in ("train", "val", "test")]
    assert [len(names) for names in drawn] == [4, 1, 1]
    assert sorted(drawn[0] + drawn[1]) == ["0", "1", "2", "3", "4"]
    assert LabelMe("all", annotations="all/[12].json", **arguments).names == ["all/1", "all/2"]
    (tmp_path / "some.txt").write_text("3\n1\n")
    assert LabelMe("val", annotations="all", lists={"val": "some.txt"}, **arguments).names == ["3", "1"]
    for wrong, message in (({"annotations": "gone"}, "no folder"), ({"annotations": "all/x*.json"}, "no JSON file")):
        with pytest.raises(DataError, match=message):
            LabelMe(**wrong, **arguments)
    with pytest.raises(DataError, match="none for the split 'train'"):
        LabelMe(annotations="all", lists={"val": "some.txt"}, **arguments)


@real
@pytest.mark.parametrize("kind", ["instance_segmentation", "semantic_segmentation"])
def test_examples_equal_the_export_of_labelme_but_for_one_pixel(kind):
    """The export was drawn by another Pillow; the installed one differs from it in one pixel of 2011_000006 as well."""
    (found,) = LabelMe.found_in(EXAMPLES / kind)
    data = LabelMe("all", **found, overlap="later")
    export = EXAMPLES / kind / "data_dataset_voc"
    different = 0
    for index in range(len(data)):
        sample = data[index]
        classes = read_mask(export / "SegmentationClass" / f"{sample.name}.png")
        different += (sample.target().semantic().numpy() != classes).sum()
        if kind == "instance_segmentation":
            objects = read_mask(export / "SegmentationObject" / f"{sample.name}.png")
            is_thing = np.isin(sample.labels, list(data.classes.things))
            things = masks_of(sample)[is_thing]
            assert len(things) == len(set(objects.ravel().tolist()) - {0, 255})
            for mask in things:
                values, counts = np.unique(objects[mask], return_counts=True)
                number = values[counts.argmax()]
                assert (mask != (objects == number)).sum() <= 1
    assert (len(data), different) == (3, 1)


@real
def test_video_frames():
    data = LabelMe("all", root=EXAMPLES / "video_annotation")
    assert len(data) == 5
    assert data[0].labels.tolist() == [2, 2, 1, 0]
