import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from pycocotools import mask as coco

from trimask.data import rle
from trimask.data.segments import pack
from trimask.metrics.run_lengths import _changes, encode_masks, encode_segments


def split(codes):
    stops = np.cumsum(codes.lengths)
    assert stops[-1] == len(codes.text) if len(stops) else len(codes.text) == 0
    return [codes.text[stop - length : stop].tobytes() for stop, length in zip(stops, codes.lengths, strict=True)]


def official(masks):
    return [coco.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"] for mask in masks]


def some_masks(shape):
    return arrays.arrays(np.bool_, shape)


@given(arrays.array_shapes(min_dims=3, max_dims=3, max_side=9).flatmap(some_masks))
@settings(deadline=None)
def test_masks_have_the_codes_of_pycocotools(masks):
    assert split(encode_masks(torch.from_numpy(masks))) == official(masks)


def test_large_masks_in_several_chunks():
    """Runs of more than 2^15 pixels, and more pixels than are compared together."""
    masks = torch.zeros(5, 700, 900, dtype=torch.bool)
    masks[1, 650:, 20:880] = True
    masks[2] = True
    masks[3, ::7, ::3] = True
    masks[4, -1, -1] = True
    assert split(encode_masks(masks)) == official(masks.numpy())


@pytest.mark.parametrize("view", [lambda m: m.transpose(1, 2), lambda m: m[:, :, 1:-1], lambda m: m[::2]])
def test_masks_need_not_be_contiguous(view):
    masks = view(torch.rand(6, 20, 30, generator=torch.Generator().manual_seed(0)) < 0.3)
    assert split(encode_masks(masks)) == official(masks.numpy())


@given(arrays.array_shapes(min_dims=3, max_dims=3, max_side=8).flatmap(some_masks), st.randoms())
@settings(deadline=None)
def test_segments_of_layers_have_the_codes_of_their_masks(masks, random):
    keep = np.array([random.random() < 0.7 for _ in masks], np.bool_)
    segments = torch.from_numpy(pack(masks))
    assert split(encode_segments(segments, keep)) == official(masks[keep])


def test_a_segment_in_several_layers_is_one_mask():
    segments = torch.tensor([[[1, 1, 0], [1, 2, 0]], [[0, 0, 0], [0, 1, 1]]])
    expected = np.array([[[1, 1, 0], [1, 1, 1]], [[0, 0, 0], [0, 1, 0]]], bool)
    assert split(encode_segments(segments, np.ones(2, bool))) == official(expected)


def test_nothing():
    empty = torch.zeros(0, 4, 5, dtype=torch.bool)
    assert split(encode_masks(empty)) == []
    assert split(encode_segments(torch.zeros(1, 4, 5, dtype=torch.uint8), np.zeros(0, bool))) == []


def test_codes_are_those_that_the_data_read():
    masks = torch.rand(3, 11, 17, generator=torch.Generator().manual_seed(1)) < 0.5
    for code, mask in zip(split(encode_masks(masks)), masks.numpy(), strict=True):
        np.testing.assert_array_equal(rle.to_mask(rle.from_string(code), mask.shape), mask)


@given(arrays.array_shapes(min_dims=3, max_dims=3, max_side=9).flatmap(some_masks))
@settings(deadline=None)
def test_a_device_finds_the_places_that_the_host_finds(masks):
    on_host, on_device = _changes(masks), _changes(torch.from_numpy(masks))
    np.testing.assert_array_equal(np.sort(on_host), np.sort(on_device))
