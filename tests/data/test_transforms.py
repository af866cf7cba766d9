"""The one warp: exact inverses, exact crops, one geometry for picture and layers, bounded aliasing, reproducible draws."""

import albumentations as A
import cv2
import numpy as np
import pytest

from trimask.data.transforms import Augment, Warp, warp_image
from trimask.types import Sample


def sample(height=37, width=53, num_segments=7, layers=2, seed=0, channels=3):
    draw = np.random.default_rng(seed)
    image = draw.integers(0, 256, (height, width, channels), dtype=np.uint8)
    segments = draw.integers(0, num_segments + 1, (layers, height, width)).astype(np.uint8)
    return Sample(image, segments, np.arange(num_segments) % 3, np.zeros(num_segments, bool), "x")


@pytest.mark.parametrize(("options", "axes"), [({"flip": 1.0}, (2,)), ({"vertical_flip": 1.0}, (1,)), ({}, ())])
def test_flips_are_exact_and_equal_for_picture_and_layers(options, axes):
    before = sample()
    after = Augment([Warp(before.size, fit="native", **options)])(before, (0,))
    np.testing.assert_array_equal(after.segments, np.flip(before.segments, axes))
    np.testing.assert_array_equal(after.image, np.flip(before.image, tuple(axis - 1 for axis in axes)))


def test_crops_of_native_pixels_are_copies_of_them():
    before = sample()
    after = Augment([Warp((16, 20), fit="native")])(before, (3,))
    found = [
        (y, x)
        for y in range(before.size[0] - 15)
        for x in range(before.size[1] - 19)
        if (before.image[y : y + 16, x : x + 20] == after.image).all()
    ]
    assert len(found) == 1
    y, x = found[0]
    np.testing.assert_array_equal(after.segments, before.segments[:, y : y + 16, x : x + 20])


def test_small_pictures_are_placed_whole_and_padded_with_the_fill_and_unlabelled():
    before = sample(10, 12)
    after = Augment([Warp((20, 24), fit="native", fill=(9, 8, 7))])(before, (1,))
    labelled = after.segments.any(0)
    assert labelled.sum() == before.segments.any(0).sum()
    inside = np.zeros((20, 24), bool)
    rows, columns = np.nonzero((after.image != (9, 8, 7)).any(2))
    inside[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] = True
    assert inside.sum() == 120
    assert not after.segments[:, ~inside].any()


def test_stretch_equals_opencv_resize_where_it_enlarges():
    before = sample(20, 30)
    after = Augment([Warp((40, 90), fit="stretch")])(before, (0,))
    reference = cv2.resize(before.image, (90, 40), interpolation=cv2.INTER_LINEAR).astype(int)
    # OpenCV's resize replicates the border where the warp mixes in the fill: compare inside
    assert np.abs(after.image.astype(int) - reference)[2:-2, 2:-2].max() <= 6
    assert np.array_equal(after.segments[:, 1::2, 1::3], before.segments)


def test_picture_and_layers_stay_together_under_rotation_and_scale():
    """A picture painted from its own layer must be found again from the warped layer."""
    draw = np.random.default_rng(0)
    layer = cv2.resize(draw.integers(1, 6, (6, 8)).astype(np.uint8), (160, 120), interpolation=cv2.INTER_NEAREST)
    image = np.repeat((layer * 40)[:, :, None], 3, axis=2)
    before = Sample(image, layer[None], np.arange(5), np.zeros(5, bool), "x")
    warp = Warp((96, 96), fit="native", scale=(0.6, 1.7), rotate=(-40, 40), aspect=(0.8, 1.25), flip=0.5, fill=0)
    for key in range(20):
        after = Augment([warp])(before, (key,))
        wrong = np.abs(after.image[:, :, 0].astype(int) - after.segments[0] * 40) > 2
        edges = cv2.morphologyEx(after.segments[0], cv2.MORPH_GRADIENT, np.ones((5, 5))) > 0
        assert not (wrong & ~edges)[4:-4, 4:-4].any()


def test_strong_reduction_averages_instead_of_aliasing():
    checker = (np.indices((512, 512)).sum(0) % 2 * 255).astype(np.uint8)
    image = np.repeat(checker[:, :, None], 3, axis=2)
    small = warp_image(image, np.array([[0.2, 0, 0], [0, 0.2, 0]]), (100, 100), 0)
    assert small[2:-2, 2:-2].std() < 30


@pytest.mark.parametrize("channels", [1, 3, 4, 6])
def test_any_number_of_channels(channels):
    after = Augment([Warp((24, 24), scale=(0.5, 2), fill=0)])(sample(channels=channels), (0,))
    assert after.image.shape == (24, 24, channels)


def test_many_segments_keep_their_ids():
    ids = np.arange(1, 60_001, dtype=np.int32).reshape(1, 200, 300)
    before = Sample(np.zeros((200, 300, 3), np.uint8), ids, np.zeros(60_000, np.int64), np.zeros(60_000, bool), "x")
    after = Augment([Warp((200, 300), fit="native", flip=1.0)])(before, (0,))
    np.testing.assert_array_equal(after.segments, ids[:, :, ::-1])


def test_category_cap_rejects_windows_of_one_class():
    layer = np.ones((128, 128), np.uint8)
    layer[:, 96:] = 2
    before = Sample(np.zeros((128, 128, 3), np.uint8), layer[None], np.array([0, 1]), np.zeros(2, bool), "x")
    capped = Augment([Warp((64, 64), fit="native", max_class_share=0.75)])
    free = Augment([Warp((64, 64), fit="native")])
    shares = [[(a(before, (key,)).segments == 1).mean() for key in range(60)] for a in (capped, free)]
    assert np.mean(np.array(shares[0]) > 0.8) < 0.1 < np.mean(np.array(shares[1]) > 0.8)


def test_draws_depend_on_the_key_alone():
    augment = Augment([Warp((24, 24), scale=(0.5, 2), flip=0.5), A.ColorJitter(p=0.5), A.GaussNoise(p=0.5)])
    first = augment(sample(), (0, 1, 2))
    augment(sample(), (0, 1, 3))
    again = augment(sample(), (0, 1, 2))
    np.testing.assert_array_equal(first.image, again.image)
    different = {augment(sample(), (0, epoch, index)).image.tobytes() for epoch in range(4) for index in range(8)}
    assert len(different) == 32


def test_albumentations_own_transforms_keep_unlabelled_as_fill():
    before = sample(40, 40)
    rotated = Augment([A.Rotate(limit=(45, 45), p=1.0)])(before, (0,))
    assert (rotated.segments[:, 0, 0] == 0).all()
    assert set(np.unique(rotated.segments)) <= set(range(8))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": (0.0, 1.0)}, "positive"),
        ({"aspect": (2.0, 1.0)}, "positive"),
        ({"fit": "native", "short_side": 5}, "no effect"),
    ],
)
def test_settings_that_cannot_work_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Warp((8, 8), **options)
