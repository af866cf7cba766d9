"""The one warp: exact inverses, exact crops, one geometry for picture and layers, bounded aliasing, reproducible draws, and
the scales and places of the papers' recipes."""

import inspect
import pickle

import albumentations as A
import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimask.data import transforms
from trimask.data.transforms import Augment, ResizeShortSide, Warp, warp_image
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
    first = augment(sample(90, 130), (0, 1, 2))
    augment(sample(90, 130), (0, 1, 3))
    again = augment(sample(90, 130), (0, 1, 2))
    np.testing.assert_array_equal(first.image, again.image)
    different = {
        augment(sample(90, 130), (0, epoch, index)).image.tobytes() for epoch in range(4) for index in range(8)
    }
    assert len(different) == 32


def test_albumentations_own_transforms_keep_unlabelled_as_fill():
    before = sample(40, 40)
    rotated = Augment([A.Rotate(limit=(45, 45), p=1.0)])(before, (0,))
    assert (rotated.segments[:, 0, 0] == 0).all()
    assert set(np.unique(rotated.segments)) <= set(range(8))


def matrices(warp, size, number=300, seed=0, **data):
    """What a warp draws for pictures of a size."""
    given_data = {"masks": np.zeros((1, *size), np.uint8), "labels": np.zeros(0, np.int64), **data}
    warp.set_random_seed(seed)
    params = {"shape": (*size, 3)}
    return np.stack([warp.get_params_dependent_on_data(params, given_data)["matrix"] for _ in range(number)])


def scaled_sizes(drawn, size):
    """(N, 2) height and width that the whole picture has in each result."""
    return np.abs(np.stack([drawn[:, 1, 1] * size[0], drawn[:, 0, 0] * size[1]], axis=1))


def nearest(layers, matrix, size):
    """Literally: the source pixel under the middle of each result pixel. -1 where rounding decides which one that is."""
    result = np.zeros((len(layers), *size), int)
    inverse = np.linalg.inv(np.vstack([matrix, [0, 0, 1]]))
    for y, x in np.ndindex(*size):
        source = (inverse @ (x + 0.5, y + 0.5, 1))[:2]
        column, row = np.floor(source).astype(int)
        if np.abs(source - np.rint(source)).min() < 1e-4:
            result[:, y, x] = -1
        elif 0 <= row < layers.shape[1] and 0 <= column < layers.shape[2]:
            result[:, y, x] = layers[:, row, column]
    return result


OPTIONS = st.fixed_dictionaries(
    {
        "fit": st.sampled_from(["native", "short_side", "stretch", "contain"]),
        "scale": st.sampled_from([(1.0, 1.0), (0.1, 2.0), (0.5, 0.5), (2.0, 3.0)]),
        "aspect": st.sampled_from([(1.0, 1.0), (0.7, 1.4)]),
        "flip": st.sampled_from([0.0, 0.5, 1.0]),
        "vertical_flip": st.sampled_from([0.0, 0.5]),
        "place": st.sampled_from(["random", "corner"]),
        "p": st.sampled_from([1.0, 0.5]),
    }
)
SIDES = st.integers(1, 40)


@settings(max_examples=150, deadline=None)
@given(options=OPTIONS, height=SIDES, width=SIDES, size=st.tuples(SIDES, SIDES), seed=st.integers(0, 2**31))
def test_layers_without_rotation_are_the_nearest_pixels(options, height, width, size, seed):
    before = sample(height, width, seed=seed)
    warp = Warp(size, **options)
    after = Augment([warp])(before, (seed,))
    matrix = warp.params["matrix"]
    expected = nearest(before.segments, matrix, size)
    assert (after.segments == expected)[expected >= 0].all()
    assert transforms._axes(matrix, before.size, size) is not None, "a slow way was taken"
    assert after.image.shape == (*size, 3)
    assert not np.shares_memory(after.image, before.image)
    assert not np.shares_memory(after.segments, before.segments)


@settings(max_examples=60, deadline=None)
@given(options=OPTIONS, size=st.tuples(st.integers(20, 60), st.integers(20, 60)), seed=st.integers(0, 2**31))
def test_the_fast_way_shows_what_one_affine_resampling_would(options, size, seed):
    draw = np.random.default_rng(seed)
    image = cv2.resize(draw.integers(0, 256, (5, 6, 3), dtype=np.uint8), (60, 50), interpolation=cv2.INTER_CUBIC)
    before = Sample(image, np.ones((1, 50, 60), np.uint8), np.zeros(1, np.int64), np.zeros(1, bool), "x")
    warp = Warp(size, fill=77, **options)
    after = Augment([warp])(before, (seed,))
    slow = transforms._warp_freely(before.image, warp.params["matrix"], size, np.full(3, 77.0))
    # at the edges of picture and window the one repeats the last pixel where the other mixes in fill or neighbors
    inside = cv2.erode(np.pad(after.segments[0], 1), np.ones((5, 5)))[1:-1, 1:-1] > 0
    error = np.abs(after.image.astype(int) - slow)[inside]
    assert error.size == 0 or (error.max() <= 12 and error.mean() <= 1.5)
    assert (after.image[after.segments[0] == 0] == 77).all()


def test_a_resized_part_is_what_opencv_makes_of_the_part():
    before = sample(50, 70)
    for scale in (0.55, 0.9, 1.7):
        warp = Warp((24, 30), fit="native", scale=(scale, scale))
        after = Augment([warp])(before, (4,))
        matrix = warp.params["matrix"]
        factor, (left, top) = np.diag(matrix), -matrix[:, 2] / np.diag(matrix)
        np.testing.assert_allclose([left, top], np.rint([left, top]), atol=1e-6)
        part = before.image[round(top) :, round(left) :]
        reference = cv2.resize(part, None, fx=factor[0], fy=factor[1], interpolation=cv2.INTER_LINEAR)[:24, :30]
        np.testing.assert_array_equal(after.image[:-1, :-1], reference[:-1, :-1])


def test_a_flipped_resize_is_the_resize_flipped():
    before = sample(33, 47)
    plain, flipped = (
        Augment([Warp((20, 31), fit="stretch", flip=flip, vertical_flip=flip)])(before, (0,)) for flip in (0, 1)
    )
    np.testing.assert_array_equal(flipped.image, plain.image[::-1, ::-1])
    np.testing.assert_array_equal(flipped.segments, plain.segments[:, ::-1, ::-1])


def test_sources_that_cannot_be_written_are_read_and_copied(tmp_path):
    """Cached pictures are mapped from files."""
    before = sample(40, 60)
    np.save(tmp_path / "image.npy", before.image)
    np.save(tmp_path / "segments.npy", before.segments)
    mapped = Sample(
        np.load(tmp_path / "image.npy", mmap_mode="r"),
        np.load(tmp_path / "segments.npy", mmap_mode="r"),
        before.labels,
        before.is_crowd,
        "x",
    )
    for options in ({}, {"scale": (0.3, 2)}, {"rotate": (-30, 30)}, {"flip": 1.0}):
        augment = Augment([Warp((16, 20), fit="native", **options)])
        for key in range(5):
            a, b = augment(before, (key,)), augment(mapped, (key,))
            np.testing.assert_array_equal(a.image, b.image)
            np.testing.assert_array_equal(a.segments, b.segments)
            assert a.image.flags.writeable
            assert b.image.flags.writeable
            b.image[:] = 0


@pytest.mark.parametrize("size", [(720, 1280), (333, 500), (1280, 720)])
def test_large_scale_jitter_has_the_published_scales_and_places(size):
    """The picture scaled into the window, times 0.1..2, then cropped or padded (Ghiasi et al., detectron2's ResizeScale)."""
    window = (512, 640)
    drawn = matrices(Warp(window, fit="contain", scale=(0.1, 2.0)), size, 2000)
    scaled = scaled_sizes(drawn, size)
    base = min(window[0] / size[0], window[1] / size[1])
    factors = scaled / size / base
    np.testing.assert_allclose(scaled, np.rint(scaled), atol=1e-6)
    assert np.abs(factors[:, 0] - factors[:, 1]).max() < 1 / (0.1 * base * min(size))  # one scale, up to whole pixels
    deciles = np.quantile(factors[:, 0], np.linspace(0, 1, 11))
    np.testing.assert_allclose(deciles, np.linspace(0.1, 2.0, 11), atol=0.1)
    for axis, (length, offset) in enumerate(zip(window, (drawn[:, 1, 2], drawn[:, 0, 2]), strict=True)):
        room = scaled[:, axis] - length
        small, large = room < -20, room > 20
        np.testing.assert_allclose(offset[small], np.rint(offset[small]))
        assert (offset[small] >= 0).all()
        assert (offset[small] <= -room[small] + 1e-6).all()
        assert (offset[large] <= 0).all()
        assert (offset[large] >= -room[large] - 1e-6).all()
        for shares in (offset[small] / -room[small], offset[large] / -room[large]):
            if len(shares) > 200:
                np.testing.assert_allclose(np.quantile(shares, [0.25, 0.5, 0.75]), [0.25, 0.5, 0.75], atol=0.08)


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_padding_at_the_corner_only(flip):
    before = sample(30, 40)
    augment = Augment([Warp((64, 64), fit="contain", scale=(0.1, 1.0), place="corner", flip=flip, fill=0)])
    bright = Sample(np.maximum(before.image, 1), np.maximum(before.segments, 1), before.labels, before.is_crowd, "x")
    for key in range(20):
        after = augment(bright, (key,))
        rows, columns = np.nonzero(after.segments[0])
        assert (rows.min(), columns.min()) == (0, 0)
        assert len(rows) == (rows.max() + 1) * (columns.max() + 1)
        np.testing.assert_array_equal(after.segments[0] > 0, (after.image > 0).all(2))


def shortest_edge(size, short, longest):
    """detectron2's ResizeShortestEdge, step by step."""
    scale = short / min(size)
    new = [scale * side for side in size]
    if max(new) > longest:
        new = [side * longest / max(new) for side in new]
    return [int(side + 0.5) for side in new]


@pytest.mark.parametrize("size", [(720, 1280), (427, 640), (500, 333), (300, 1900)])
@pytest.mark.parametrize("sampling", ["choice", "range"])
def test_short_sides_are_drawn_as_detectron2_does(size, sampling):
    sides = [320, 352, 480, 640] if sampling == "choice" else list(range(320, 331))
    given_sides = {"short_side": sides} if sampling == "choice" else {"short_side_range": (320, 330)}
    drawn = matrices(Warp((256, 256), max_long_side=1333, **given_sides), size, 600)
    expected = [shortest_edge(size, side, 1333) for side in sides]
    found, counts = np.unique(np.rint(scaled_sizes(drawn, size)).astype(int), axis=0, return_counts=True)
    assert found.tolist() == np.unique(expected, axis=0).tolist()
    if len(found) == len(sides):
        assert counts.min() > 0.6 * 600 / len(sides)


@pytest.mark.parametrize("size", [(720, 1280), (480, 360), (200, 1600)])
def test_ratio_range_keeps_the_bounds_of_mmsegmentation(size):
    drawn = matrices(Warp((512, 512), short_side=512, max_long_side=2048, scale=(0.5, 2.0)), size, 500)
    scaled = scaled_sizes(drawn, size)
    base = min(2048 / max(size), 512 / min(size))
    ratio = scaled[:, np.argmax(size)] / (max(size) * base)
    assert np.abs(scaled - np.outer(ratio * base, size)).max() <= 1
    np.testing.assert_allclose(np.quantile(ratio, [0, 0.25, 0.5, 0.75, 1]), [0.5, 0.875, 1.25, 1.625, 2.0], atol=0.12)


def test_every_crop_is_equally_likely():
    drawn = matrices(Warp((8, 8), fit="native"), (10, 8), 1500)
    starts, counts = np.unique(-drawn[:, 1, 2], return_counts=True)
    assert starts.tolist() == [0, 1, 2]
    assert counts.min() > 430


def test_the_cap_redraws_the_window_and_not_the_scale():
    """Or else small scales, whose windows show more, would be preferred."""
    layer = np.ones((200, 300), np.uint8)
    layer[:, 290:] = 2
    data = {"masks": layer[None], "labels": np.array([0, 1])}
    options = {"fit": "native", "scale": (0.5, 2.0)}
    free, capped = (
        matrices(Warp((64, 64), max_class_share=share, **options), (200, 300), 800, **data) for share in (1, 0.75)
    )
    deciles = [np.quantile(drawn[:, 0, 0], np.linspace(0, 1, 6)) for drawn in (free, capped)]
    np.testing.assert_allclose(deciles[0], deciles[1], atol=0.08)


def test_windows_without_labels_are_drawn_again():
    layer = np.zeros((64, 256), np.uint8)
    layer[:, :24] = np.arange(24) // 12 + 1
    before = Sample(np.zeros((64, 256, 3), np.uint8), layer[None], np.array([0, 1]), np.zeros(2, bool), "x")
    empty = []
    for share in (1.0, 0.75):
        augment = Augment([Warp((64, 64), fit="native", max_class_share=share)])
        empty.append(np.mean([not augment(before, (key,)).segments.any() for key in range(80)]))
    assert empty[0] > 0.8
    assert empty[1] < 0.6


@pytest.mark.parametrize("rotate", [(0.0, 0.0), (-30.0, 30.0)])
def test_windows_hold_the_class_that_was_asked_for(rotate):
    layer = np.ones((300, 400), np.uint8)
    layer[250:262, 30:42] = 2  # 144 pixels of class 5
    before = Sample(np.zeros((300, 400, 3), np.uint8), layer[None], np.array([0, 5]), np.zeros(2, bool), "x")
    augment = Augment([Warp((96, 96), fit="native", scale=(0.8, 1.5), rotate=rotate, flip=0.5, rare_class_pixels=60)])
    held = [[(augment(before, (key,), focus=focus).segments == 2).sum() for key in range(40)] for focus in (5, None, 3)]
    assert min(held[0]) >= 60
    assert np.mean(np.array(held[1]) == 0) > 0.5
    assert held[1] == held[2], "a class that the picture does not show changes nothing"
    again = [(augment(before, (key,), focus=5).segments == 2).sum() for key in range(40)]
    assert again == held[0]
    ignored = Augment([Warp((96, 96), fit="native", scale=(0.8, 1.5), rotate=rotate, flip=0.5)])
    assert (ignored(before, (1,), focus=5).segments == ignored(before, (1,)).segments).all()


def test_places_of_the_wanted_class_vary():
    layer = np.ones((200, 200), np.uint8)
    layer[100:104, 100:104] = 2
    before = Sample(np.zeros((200, 200, 3), np.uint8), layer[None], np.array([0, 1]), np.zeros(2, bool), "x")
    augment = Augment([Warp((64, 64), fit="native", rare_class_pixels=16)])
    places = np.array([np.argwhere(augment(before, (k,), focus=1).segments[0] == 2)[0] for k in range(100)])
    assert places.min() < 10
    assert places.max() > 50


# Transforms that ask for more than a picture and its masks, or that answer no 8-bit picture
SPECIAL = {
    *(
        "FDA",
        "HistogramMatching",
        "PixelDistributionAdaptation",
        "TemplateTransform",
        "MixUp",
        "Mosaic",
        "OverlayElements",
    ),
    *("RandomCropNearBBox", "TextImage", "AtLeastOneBBoxRandomCrop", "BBoxSafeRandomCrop", "RandomSizedBBoxSafeCrop"),
    *("MaskDropout", "ToFloat", "FromFloat", "Normalize", "ToTensorV2", "ToTensor3D", "Lambda"),
}
NEEDED = {
    "RandomCrop": {"height": 32, "width": 32},
    "CenterCrop": {"height": 32, "width": 32},
    "RandomResizedCrop": {"size": (32, 32)},
    "RandomSizedCrop": {"min_max_height": (20, 40), "size": (32, 32)},
    "CropNonEmptyMaskIfExists": {"height": 32, "width": 32},
    "Resize": {"height": 32, "width": 32},
    "LongestMaxSize": {"max_size": 32},
    "SmallestMaxSize": {"max_size": 32},
    "GridElasticDeform": {"num_grid_xy": (3, 3), "magnitude": 4},
    "CropAndPad": {"px": 4},
    "Crop": {"x_max": 32, "y_max": 32},
}


def ready_transforms():
    """Whatever albumentations exports, less what is listed above."""
    for name, kind in inspect.getmembers(A, inspect.isclass):
        is_abstract = not kind.__module__.startswith("albumentations.augmentations") or "Base" in name
        is_of_pictures = issubclass(kind, A.ImageOnlyTransform | A.DualTransform) and not issubclass(
            kind, A.Transform3D
        )
        if is_of_pictures and not is_abstract and name not in SPECIAL:
            yield pytest.param(kind, id=name)


@pytest.mark.parametrize("kind", list(ready_transforms()))
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_any_transform_of_albumentations_works(kind):
    draw = np.random.default_rng(0)
    image = cv2.resize(draw.integers(0, 256, (6, 8, 3), dtype=np.uint8), (64, 48), interpolation=cv2.INTER_CUBIC)
    layers = np.repeat(np.repeat(draw.integers(0, 8, (2, 6, 8)), 8, 1), 8, 2).astype(np.uint8)
    before = Sample(image, layers, np.arange(7) % 3, np.zeros(7, bool), "x")
    augment = Augment([kind(**NEEDED.get(kind.__name__, {}), p=1.0)])
    after, again = augment(before, (1, 2)), augment(before, (1, 2))
    np.testing.assert_array_equal(after.image, again.image)
    np.testing.assert_array_equal(after.segments, again.segments)
    assert after.image.dtype == np.uint8
    assert after.segments.dtype == np.uint8
    assert after.segments.shape == (2, *after.image.shape[:2])
    assert set(np.unique(after.segments)) <= set(range(8))
    after.target()


def test_transforms_describe_themselves_and_travel_to_workers():
    warp = Warp((20, 30), fit="contain", scale=(0.1, 2.0), place="corner", max_class_share=0.75, rare_class_pixels=9)
    assert repr(A.from_dict(A.to_dict(warp))) == repr(warp)
    assert "place='corner'" in repr(warp)
    augment, before = Augment([warp]), sample(90, 130)
    again = pickle.loads(pickle.dumps(augment))
    np.testing.assert_array_equal(augment(before, (3,)).image, again(before, (3,)).image)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": (0.0, 1.0)}, "positive"),
        ({"aspect": (2.0, 1.0)}, "positive"),
        ({"fit": "native", "short_side": 5}, "no effect"),
        ({"fit": "contain", "short_side_range": (5, 6)}, "no effect"),
        ({"short_side": 5, "short_side_range": (5, 6)}, "not both"),
        ({"short_side_range": (6, 5)}, "short_side_range.*positive"),
        ({"short_side": [320, 0]}, "at least 1;"),
        ({"short_side": 0}, "at least 1;"),
        ({"short_side": []}, "at least 1;"),
    ],
)
def test_settings_that_cannot_work_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Warp((8, 8), **options)


@pytest.mark.parametrize(
    "transforms",
    [
        [Warp((40, 60), fit="native")],
        [Warp((40, 60), fit="native", flip=1.0), A.CoarseDropout(p=1.0)],
        [Warp((20, 20), fit="native"), A.CoarseDropout(p=1.0)],
        [A.CoarseDropout(p=1.0)],
        [],
    ],
)
def test_what_a_cache_keeps_is_neither_written_to_nor_given_away(transforms):
    one = Sample(*(np.full(s, 7, np.uint8) for s in ((40, 60, 3), (1, 40, 60))), np.arange(7), np.zeros(7, bool), "one")
    for array in (one.image, one.segments):
        array.flags.writeable = False
    found = Augment(transforms)(one, (0,))
    found.image[:] = found.segments[:] = 3
    assert one.image.min() == one.segments.min() == 7


# --- the whole picture at a random scale ---


def test_resizing_the_short_side_keeps_the_aspect_and_draws_among_the_sides():
    before = sample(60, 90)
    sizes = {Augment([ResizeShortSide([30, 40, 120], max_long_side=150)])(before, (i,)).size for i in range(40)}
    assert sizes == {(30, 45), (40, 60), (100, 150)}


def test_resizing_to_the_own_size_changes_nothing_and_a_flip_mirrors():
    before = sample(60, 90)
    same = Augment([ResizeShortSide(60)])(before, (0,))
    np.testing.assert_array_equal(same.image, before.image)
    np.testing.assert_array_equal(same.segments, before.segments)
    mirrored = Augment([ResizeShortSide(60, flip=1.0)])(before, (0,))
    np.testing.assert_array_equal(mirrored.image, before.image[:, ::-1])
    np.testing.assert_array_equal(mirrored.segments, before.segments[:, :, ::-1])


def test_resizing_equals_a_warp_into_a_window_of_that_size():
    before = sample(60, 90)
    found = Augment([ResizeShortSide(40)])(before, (0,))
    expected = Augment([Warp((40, 60), fit="stretch")])(before, (0,))
    np.testing.assert_array_equal(found.image, expected.image)
    np.testing.assert_array_equal(found.segments, expected.segments)


def test_sides_below_one_are_refused():
    with pytest.raises(ValueError, match="at least 1"):
        ResizeShortSide([0, 5])
