"""Rules for overlapping objects, against a loop over the pixels."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimask.data import rle
from trimask.data.overlaps import VOID, Object, arrange, check_rule
from trimask.types import DataError, Sample

LABELS = (VOID, 0, 1, 2)


@st.composite
def pictures(draw):
    height, width = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    masks = generator.random((draw(st.integers(0, 5)), height, width)) < draw(st.sampled_from([0.1, 0.5, 1.0]))
    labels, crowds = generator.choice(LABELS, len(masks)), generator.random(len(masks)) < 0.3
    under = generator.choice([3, 4, 255], (height, width)).astype(np.uint8)
    return masks, labels, crowds, under


def winner(stack, masks, below, overlap):
    """The object of a pixel, of those that cover it."""
    counted = [row for row in stack if row not in below]
    if not counted or overlap in (None, "later"):
        return stack[-1]
    if overlap == "smaller":
        return min(counted, key=lambda row: (masks[row].sum(), -row))
    return counted[0] if len(counted) == 1 else None


def naive(masks, labels, crowds, under, overlap):
    """For each pixel its object, or None; and its class, or 255."""
    lead = 0
    while lead < len(masks) and (crowds[lead] or labels[lead] == VOID or not masks[lead].any()):  # or it is empty
        lead += 1
    objects = np.full(under.shape, None)
    classes = under.copy()
    for at in np.ndindex(under.shape):
        stack = [row for row in range(len(masks)) if masks[row][at]]
        if stack:
            row = winner(stack, masks, range(lead), overlap)
            objects[at] = None if row is None or labels[row] == VOID else row
            classes[at] = 255 if objects[at] is None else labels[row]
    return objects, classes


@settings(max_examples=300, deadline=None)
@given(pictures(), st.sampled_from([None, "smaller", "later", "ignore"]), st.booleans())
def test_every_pixel_belongs_to_whom_the_rule_says(picture, overlap, is_filled):
    masks, labels, crowds, under = picture
    if not is_filled:
        under = np.full_like(under, 255)
    given_objects = [
        Object(int(label), bool(crowd), rle.from_mask(mask))
        for label, crowd, mask in zip(labels, crowds, masks, strict=True)
    ]
    truth = arrange(given_objects, under.shape, overlap=overlap, under=under if is_filled else None)
    sample = Sample(np.zeros((*under.shape, 3), np.uint8), *truth, name="x")
    assert (sample.areas() > 0).all()
    objects, classes = naive(masks, labels, crowds, under, overlap)
    np.testing.assert_array_equal(sample.target().semantic(255).numpy(), classes)
    if overlap:
        assert len(truth.segments) == 1
        shown = [row for row in range(len(masks)) if (objects == row).any()]
        expected = [objects == row for row in shown]
    else:  # masks stay whole but for what is void above them
        void = [row for row in range(len(masks)) if labels[row] == VOID]
        left = [mask & ~masks[[k for k in void if k > row]].any(0) for row, mask in enumerate(masks)]
        shown = [row for row in range(len(masks)) if labels[row] != VOID and left[row].any()]
        expected = [left[row] for row in shown]
    found = sample.target().masks.numpy()
    assert truth.labels[: len(shown)].tolist() == labels[shown].tolist()
    assert truth.is_crowd[: len(shown)].tolist() == crowds[shown].tolist()
    for mask, row in zip(found, expected, strict=False):
        np.testing.assert_array_equal(mask, row)
    covered = np.unique(classes[~masks.any(0)]) if len(masks) else np.unique(classes)
    assert truth.labels[len(shown) :].tolist() == [label for label in covered if label != 255]
    assert not truth.is_crowd[len(shown) :].any()


@pytest.mark.parametrize("overlap", [None, "later"])
def test_more_objects_than_a_byte_holds(overlap):
    masks = np.eye(300, dtype=np.bool_).reshape(300, 15, 20)
    objects = [Object(k % 7, False, rle.from_mask(mask)) for k, mask in enumerate(masks)]
    truth = arrange(objects, (15, 20), overlap=overlap, under=np.full((15, 20), 9, np.uint8))
    assert truth.segments.shape == (1, 15, 20)
    np.testing.assert_array_equal(truth.segments[0], np.arange(1, 301).reshape(15, 20))
    one_less = arrange(objects[:-1], (15, 20), overlap=overlap, under=np.full((15, 20), 9, np.uint8))
    assert one_less.segments.max() == 300
    assert one_less.labels[-1] == 9


def test_there_is_no_other_rule():
    check_rule(None)
    check_rule("smaller")
    with pytest.raises(DataError, match="one of smaller, later, ignore, or null to keep overlaps; got 'largest'"):
        check_rule("largest")
