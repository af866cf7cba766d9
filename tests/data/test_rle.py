"""Run lengths: inverses of each other, and equal to pycocotools in text, area, box and drawing."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools import mask as coco

from trimask.data import rle

MASKS = hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=24))


def reference(mask):
    return coco.encode(np.asfortranarray(mask.astype(np.uint8)))


@given(MASKS)
@settings(max_examples=200, deadline=None)
def test_every_form_round_trips_and_equals_pycocotools(mask):
    runs, theirs = rle.from_mask(mask), reference(mask)
    np.testing.assert_array_equal(rle.to_mask(runs, mask.shape), mask)
    assert rle.to_string(runs) == theirs["counts"].decode()
    np.testing.assert_array_equal(rle.from_string(theirs["counts"]), runs)
    assert rle.area(runs) == coco.area(theirs)
    x0, y0, x1, y1 = rle.box(runs, mask.shape)
    if mask.any():
        assert (x0, y0, x1, y1) == (*mask.any(0).nonzero()[0][[0]], *mask.any(1).nonzero()[0][[0]], x1, y1)
        rows, columns = np.nonzero(mask)
        assert (x0, y0, x1, y1) == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    flat = mask.ravel(order="F")
    np.testing.assert_array_equal(rle.pixels(runs), np.flatnonzero(flat))


def test_boxes_equal_those_of_pycocotools_where_a_run_fills_no_whole_column():
    draw = np.random.default_rng(0)
    for _ in range(200):
        height, width = draw.integers(2, 40, 2)
        mask = np.zeros((height, width), bool)
        y, x = draw.integers(0, height - 1), draw.integers(0, width - 1)
        mask[y : y + draw.integers(1, 9), x : x + draw.integers(1, 9)] = True
        box_x, box_y, box_w, box_h = coco.toBbox(reference(mask))
        assert rle.box(rle.from_mask(mask), mask.shape) == (box_x, box_y, box_x + box_w, box_y + box_h)


def test_large_runs_keep_all_their_digits():
    runs = np.array([0, 2**31, 5, 2**33, 1, 7, 123456789], np.int64)
    np.testing.assert_array_equal(rle.from_string(rle.to_string(runs)), runs)


@given(st.lists(st.tuples(st.floats(-30, 80), st.floats(-30, 80)), min_size=3, max_size=12))
@settings(max_examples=100, deadline=None)
def test_polygons_are_drawn_as_pycocotools_draws_them(corners):
    polygon = [value for corner in corners for value in corner]
    other = [5, 5, 20.5, 5, 20.5, 30]
    runs = rle.from_polygons([polygon, other], (50, 60))
    theirs = coco.merge(coco.frPyObjects([polygon, other], 50, 60))
    assert rle.to_string(runs) == theirs["counts"].decode()
    assert rle.area(runs) == coco.area(theirs)


def test_the_three_forms_of_a_segmentation():
    mask = np.zeros((7, 9), bool)
    mask[2:5, 3:8] = True
    runs = rle.from_mask(mask)
    forms = [
        [[3, 2, 8, 2, 8, 5, 3, 5]],
        [3, 2, 8, 2, 8, 5, 3, 5],
        {"size": [7, 9], "counts": runs.tolist()},
        {"size": [7, 9], "counts": rle.to_string(runs)},
        {"size": ["7", "9"], "counts": rle.to_string(runs).encode()},
        rle.to_coco(runs, (7, 9)),
    ]
    for form in forms:
        np.testing.assert_array_equal(rle.to_mask(rle.from_coco(form, (7, 9)), (7, 9)), mask)
    assert rle.area(rle.from_coco([], (7, 9))) == 0


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ([[1, 1, 2, 2]], "three vertices or more; this one has 4"),
        ([[1, 1, 2, 2, 3, 3, 4]], "has 7 numbers"),
        ([[1, 1, 2, 2, float("nan"), 3]], "no number"),
        ([[1, 1, 2, 2, 1e12, 3]], "pixels off"),
        ({"size": [7, 9]}, "`counts`"),
        ({"counts": [63]}, "size None"),
        ({"size": [9, 7], "counts": [63]}, r"size \[9, 7\], the picture is \[7, 9\]"),
        ({"size": [7, 9], "counts": [60]}, "add up to 60 pixels, the picture has 63"),
        ({"size": [7, 9], "counts": [70, -7]}, "add up to 63"),
        ({"size": [7, 9], "counts": [2**63 - 1, 2**63 - 1, 2 + 63]}, "add up to 18446744073709551679"),
        ({"size": [7, 9], "counts": ""}, "no compressed"),
        ({"size": [7, 9], "counts": "o" * 40}, "no compressed"),
        ({"size": [7, 9], "counts": "äö"}, "no compressed"),
        ("hello", "polygons or run lengths; this one is a str"),
        (None, "NoneType"),
    ],
)
def test_what_is_no_segmentation_is_refused(segmentation, message):
    with pytest.raises(ValueError, match=message):
        rle.from_coco(segmentation, (7, 9))
