"""Class and object of every pixel -> segments: exact small pictures, and the definition pixel by pixel on random ones."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from trimask.data.objects import from_maps, from_values, object_numbers
from trimask.data.segments import ValueIndex
from trimask.types import ClassSpec, DataError

CLASSES = ClassSpec(["road", "car", "sky", "person"], things=[1, 3])


def described(truth, classes=CLASSES):
    """(H, W) of (class or None, pixels of its segment, crowd): what the truth says, without the order of its rows."""
    segments, labels, is_crowd = truth
    shown = np.empty(segments.shape[1:], object)
    for position, row in np.ndenumerate(segments[0]):
        mask = tuple(map(tuple, np.argwhere(segments[0] == row)))
        shown[position] = (labels[row - 1], mask, bool(is_crowd[row - 1])) if row else None
    return shown


def test_stuff_objects_crowd_and_unlabelled():
    labels = np.array([[0, 0, 1, 1, 1], [255, 2, 3, 1, 0]], np.uint8)
    objects = np.array([[0, 9, 4, 4, 0], [7, 0, 2, 9, 0]], np.uint8)
    segments, found, crowd = from_maps(labels, objects, CLASSES, "x.png")
    assert found.tolist() == [0, 1, 1, 1, 2, 3]
    assert crowd.tolist() == [False, True, False, False, False, False]
    assert segments.dtype == np.uint8
    np.testing.assert_array_equal(segments, [[[1, 1, 3, 3, 2], [0, 5, 6, 4, 1]]])


def test_values_carry_class_and_object_in_one_number():
    index = ValueIndex(np.array([[1000, 1000, 3001], [3002, 1001, 65535]], np.uint16))
    truth = from_values(index, np.array([0, 0, 3, 3, 255]), np.array([0, 1, 1, 2, 0]), CLASSES)
    np.testing.assert_array_equal(truth.segments, [[[1, 1, 2], [3, 1, 0]]])
    assert truth.labels.tolist() == [0, 3, 3]
    assert truth.labels.dtype == np.int64
    assert truth.is_crowd.dtype == np.bool_


def test_an_object_of_two_classes_is_named():
    labels = np.array([[1, 1, 3, 0]], np.uint8)
    with pytest.raises(DataError, match=r"objects/x\.png: object 70000 has pixels of 2 classes .*\(car, person\)"):
        from_maps(labels, np.full((1, 4), 70000, np.int32), CLASSES, "objects/x.png")


def test_nothing_labelled_is_no_segment():
    truth = from_maps(np.full((2, 3), 255, np.uint8), np.ones((2, 3), np.uint8), CLASSES, "x.png")
    assert (truth.segments.shape, truth.segments.max(), len(truth.labels), len(truth.is_crowd)) == ((1, 2, 3), 0, 0, 0)


def test_many_objects_take_a_wider_type():
    objects = np.arange(1, 40001, dtype=np.int32).reshape(200, 200)
    truth = from_maps(np.full((200, 200), 3, np.uint8), objects, CLASSES, "x.png")
    assert truth.segments.dtype == np.int32
    np.testing.assert_array_equal(truth.segments[0], objects)


def test_colors_are_numbers_too():
    picture = np.array([[[1, 2, 0], [0, 0, 3]]], np.uint8)
    np.testing.assert_array_equal(object_numbers(picture), [[513, 196608]])
    np.testing.assert_array_equal(object_numbers(picture[..., 0]), [[1, 0]])


@given(
    labels=arrays(np.int64, (3, 5), elements=st.integers(-1, 3)),
    objects=arrays(np.uint16, (3, 5), elements=st.sampled_from([0, 1, 2, 300])),
    ignore=st.sampled_from([-1, 255]),
)
def test_equals_the_definition_pixel_by_pixel(labels, objects, ignore):
    classes = ClassSpec(CLASSES.names, things=[1, 3], ignore_index=ignore)
    objects = np.where(objects > 0, objects + 1000 * (labels == 3), 0)  # no number with two classes
    known = np.where(labels < 0, ignore, labels).astype(np.int32)
    truth = from_maps(known, objects, classes, "x.png")
    key = {}
    for position in np.ndindex(labels.shape):
        label, number = int(labels[position]), int(objects[position])
        if label >= 0:
            key.setdefault((label, number if label in (1, 3) else 0), []).append(position)
    expected = np.empty(labels.shape, object)
    for (label, number), pixels in key.items():
        for position in pixels:
            expected[position] = (label, tuple(pixels), label in (1, 3) and number == 0)
    shown = described(truth)
    assert all(shown[position] == expected[position] for position in np.ndindex(labels.shape))
    assert len(truth.labels) == len(key)
