"""Layered id maps: exact inverses, and never more layers than the overlaps need."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from trimask.data import rle
from trimask.data.segments import (
    ValueIndex,
    bitmask_fields,
    bitmask_picture,
    color_ids,
    color_of_ids,
    distinct_bytes,
    from_ids,
    from_semantic,
    pack,
    pack_runs,
    panoptic_ids,
    panoptic_picture,
    renumber,
    segment_dtype,
    unpack,
    unpack_runs,
)
from trimask.types import Sample

masks_of_any_overlap = arrays(np.bool_, array_shapes(min_dims=3, max_dims=3, max_side=7))


@settings(deadline=None, max_examples=200)
@given(masks_of_any_overlap)
def test_unpack_inverts_pack(masks):
    np.testing.assert_array_equal(unpack(pack(masks), len(masks)), masks)


@settings(deadline=None, max_examples=200)
@given(masks_of_any_overlap)
def test_later_rows_lie_on_top_and_no_layer_is_wasted(masks):
    segments = pack(masks)
    last = np.where(masks.any(0), len(masks) - np.argmax(masks[::-1], axis=0), 0)  # naive: the last row wins
    top = segments[0]
    for layer in segments[1:]:
        top = np.where(layer > 0, layer, top)
    np.testing.assert_array_equal(top, last)
    chain = np.zeros(len(masks), int)  # longest chain of overlapping rows: what any order-keeping layering needs
    for row, mask in enumerate(masks):
        below = [chain[k] for k in range(row) if (masks[k] & mask).any()]
        chain[row] = 1 + max(below, default=0)
    assert len(segments) == chain.max(initial=1)


def test_pack_keeps_empty_rows_and_no_rows():
    masks = np.zeros((3, 2, 2), np.bool_)
    masks[2, 0, 0] = True
    np.testing.assert_array_equal(pack(masks), [[[3, 0], [0, 0]]])
    assert pack(np.zeros((0, 4, 5), np.bool_)).shape == (1, 4, 5)


@pytest.mark.parametrize(
    ("num_segments", "dtype"), [(0, "uint8"), (255, "uint8"), (256, "int16"), (32767, "int16"), (32768, "int32")]
)
def test_dtype_is_the_smallest(num_segments, dtype):
    assert np.dtype(segment_dtype(num_segments)) == dtype


def test_more_rows_than_a_byte_holds():
    masks = np.eye(300, dtype=np.bool_).reshape(300, 15, 20)
    segments = pack(masks)
    assert segments.dtype == np.int16
    assert segments.shape == (1, 15, 20)
    np.testing.assert_array_equal(unpack(segments, 300), masks)


def test_pack_refuses_what_is_no_mask_stack():
    with pytest.raises(ValueError, match="boolean"):
        pack(np.zeros((2, 3, 3), np.uint8))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.int64])
@pytest.mark.parametrize("ignore_index", [255, 0])
def test_from_semantic_round_trips_through_the_target(dtype, ignore_index):
    label_map = np.random.default_rng(0).choice([0, 3, 7, 255], (9, 11)).astype(dtype)
    segments, labels = from_semantic(label_map, ignore_index)
    assert segments.dtype == np.uint8
    assert labels.tolist() == [value for value in (0, 3, 7, 255) if value != ignore_index]
    sample = Sample(np.zeros((9, 11, 3), np.uint8), segments, labels, np.zeros(3, np.bool_), "a")
    np.testing.assert_array_equal(sample.target().semantic(ignore_index), label_map)


def test_from_semantic_with_a_negative_ignore_index_and_nothing_else():
    segments, labels = from_semantic(np.full((2, 3), -1, np.int32), -1)
    assert labels.shape == (0,)
    assert labels.dtype == np.int64
    np.testing.assert_array_equal(segments, np.zeros((1, 2, 3)))


@settings(deadline=None)
@given(arrays(np.int32, (5, 6), elements=st.sampled_from([0, 1, 26000, 26001, 2**24 - 1, -5])))
def test_from_ids_keeps_the_ids(id_map):
    segments, ids = from_ids(id_map, unlabelled=0)
    np.testing.assert_array_equal(np.concatenate([[0], ids])[segments[0]], id_map)
    assert ids.tolist() == sorted(set(id_map.ravel().tolist()) - {0})


STACKS = arrays(np.bool_, st.tuples(st.integers(0, 7), st.integers(1, 12), st.integers(1, 12)))


@given(STACKS)
@settings(max_examples=100, deadline=None)
def test_runs_are_packed_as_masks_are(masks):
    runs = [rle.from_mask(mask) for mask in masks]
    segments = pack_runs(runs, masks.shape[1:])
    np.testing.assert_array_equal(segments, pack(masks))
    again = unpack_runs(segments, len(masks))
    assert [one.tolist() for one in again] == [one.tolist() for one in runs]


@given(
    arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(3))),
)
@settings(max_examples=60, deadline=None)
def test_ids_that_are_stored_as_colors(picture):
    np.testing.assert_array_equal(color_of_ids(color_ids(picture)), picture)
    np.testing.assert_array_equal(panoptic_picture(panoptic_ids(picture)), picture)
    red, green, blue = picture.astype(int).transpose(2, 0, 1)
    np.testing.assert_array_equal(color_ids(picture), red << 16 | green << 8 | blue)
    np.testing.assert_array_equal(panoptic_ids(picture), red + 256 * green + 256**2 * blue)
    with_alpha = np.dstack([picture, 255 - picture[..., :1]])
    np.testing.assert_array_equal(color_ids(with_alpha), color_ids(picture))
    np.testing.assert_array_equal(panoptic_ids(with_alpha), panoptic_ids(picture))


def test_ids_without_a_color_are_refused():
    with pytest.raises(ValueError, match=r"0\.\.16777215; got 0\.\.16777216"):
        panoptic_picture(np.array([[0, 1 << 24]]))


@given(arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(4))))
@settings(max_examples=60, deadline=None)
def test_bitmasks_round_trip(picture):
    fields = bitmask_fields(picture)
    np.testing.assert_array_equal(bitmask_picture(fields), picture)
    np.testing.assert_array_equal(fields.instance, picture[..., 2].astype(int) * 256 + picture[..., 3])


def test_a_bitmask_that_was_read_as_rgb_is_refused():
    with pytest.raises(ValueError, match="four channels"):
        bitmask_fields(np.zeros((2, 2, 3), np.uint8))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.int64])
def test_values_are_found_and_replaced(dtype):
    raw = np.random.default_rng(0).integers(0, 200, (13, 17)).astype(dtype)
    index = ValueIndex(raw)
    np.testing.assert_array_equal(index.values, np.unique(raw))
    for kind in (np.uint8, np.int16, np.int32, np.int64):
        new = (index.values * 3 % 101).astype(kind)
        replaced = index.replace(new)
        assert replaced.dtype == kind
        np.testing.assert_array_equal(replaced, raw.astype(int) * 3 % 101)


@settings(deadline=None, max_examples=200)
@given(arrays(np.uint8, array_shapes(min_dims=1, max_dims=3, max_side=40, min_side=0), elements=st.integers(0, 3)))
def test_distinct_bytes_are_those_of_unique(array):
    np.testing.assert_array_equal(distinct_bytes(array), np.unique(array))


@settings(deadline=None, max_examples=100)
@given(
    arrays(np.uint8, array_shapes(min_dims=3, max_dims=3, max_side=40), elements=st.integers(0, 9)),
    st.sampled_from([np.uint8, np.int16, np.int32, np.int64]),
    st.permutations(range(10)),
    st.sampled_from([np.uint8, np.uint16]),
)
def test_renumber_looks_every_id_up_and_leaves_its_argument_alone(segments, kind, ids, ids_kind):
    segments, new = segments.astype(ids_kind), np.array(ids, kind)
    before = segments.copy()
    found = renumber(segments[:, :, ::-1], new)
    np.testing.assert_array_equal(found, new[before[:, :, ::-1]])
    assert found.dtype == kind
    np.testing.assert_array_equal(segments, before)
