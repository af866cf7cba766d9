"""Photometric transforms: equal to slow literal references, to albumentations and to torchvision, and faster to refuse."""

import albumentations as A
import cv2
import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as torchvision

from trimask.data import color
from trimask.data.color import ColorJitter, PhotometricDistortion
from trimask.data.transforms import Augment
from trimask.types import DataError, Sample

NAMES = ("brightness", "contrast", "saturation", "hue")
RANGES = {"brightness": (0.6, 1.4), "contrast": (0.6, 1.4), "saturation": (0.0, 2.0), "hue": (-0.1, 0.1)}


def picture(seed=0, size=(48, 64), channels=3):
    """Every color, in smooth areas and in noise."""
    draw = np.random.default_rng(seed)
    coarse = draw.integers(0, 256, (6, 8, channels), dtype=np.uint8)
    image = cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC).reshape(*size, channels)
    image[: size[0] // 2] = draw.integers(0, 256, (size[0] // 2, size[1], channels), dtype=np.uint8)
    return image


def sample(image):
    return Sample(image, np.zeros((1, *image.shape[:2]), np.uint8), np.zeros(0, np.int64), np.zeros(0, bool), "x")


def by_torchvision(image, name, factor):
    tensor = torch.from_numpy(image).permute(2, 0, 1)
    return getattr(torchvision, f"adjust_{name}")(tensor, factor).permute(1, 2, 0).numpy()


def difference(a, b):
    return np.abs(a.astype(int) - b.astype(int))


@pytest.mark.parametrize("factor", [0.0, 0.3, 0.99, 1.0, 1.37, 4.0])
@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_each_adjustment_is_torchvisions(name, factor):
    image = picture()
    error = difference(getattr(color, f"adjust_{name}")(image, factor), by_torchvision(image, name, factor))
    # torchvision drops the fraction of the grey value, which then counts |1 - factor| times, and that of the result
    assert error.max() <= (0 if name == "brightness" else 1 + np.ceil(abs(1 - factor)))


@pytest.mark.parametrize("turn", [-0.5, -0.13, -0.01, 0.0, 0.004, 0.2, 0.5])
def test_hue_is_nearer_to_torchvisions_than_albumentations_is(turn):
    image = picture()
    exact = by_torchvision(image, "hue", turn)
    ours = difference(color.adjust_hue(image, turn), exact)
    theirs = difference(A.augmentations.pixel.functional.adjust_hue_torchvision(image.copy(), turn), exact)
    assert ours.mean() <= theirs.mean() + 0.1
    assert ours.max() <= 10  # a step of the circle is six levels of 255, the rest is rounding of saturation and value
    assert ours.mean() < 2


def test_color_jitter_draws_and_answers_as_albumentations_does():
    ours, theirs = ColorJitter(**RANGES, p=1.0), A.ColorJitter(**RANGES, p=1.0)
    for key in range(40):
        before = sample(picture(key))
        a, b = (Augment([transform])(before, (key,)).image for transform in (ours, theirs))
        assert ours.get_applied_params() == theirs.get_applied_params()
        assert difference(a, b).mean() < 3  # their hue has steps of two degrees, cut off downward
    no_hue = {**RANGES, "hue": (0.0, 0.0)}
    for key in range(20):
        before = sample(picture(key))
        a, b = (Augment([kind(**no_hue, p=1.0)])(before, (key,)).image for kind in (ColorJitter, A.ColorJitter))
        assert difference(a, b).max() <= 4  # each rounding may be stretched by what follows
        assert difference(a, b).mean() < 0.8


def test_color_jitter_of_grey_pictures_has_no_color():
    before = sample(picture(channels=1))
    options = {**RANGES, "p": 1.0}
    ours, theirs = (Augment([kind(**options)])(before, (1,)).image for kind in (ColorJitter, A.ColorJitter))
    assert ours.shape == before.image.shape
    assert difference(ours, theirs).max() <= 1


def literal_distortion(image, added, contrast, saturation, turned, contrast_last):
    """Step by step as the recipe is published, each step for itself; None leaves a step out."""

    def convert(values, factor=1.0, offset=0.0):
        return np.clip(values.astype(np.float32) * factor + offset, 0, 255).astype(np.uint8)

    bgr = np.ascontiguousarray(image[..., ::-1])
    if added is not None:
        bgr = convert(bgr, offset=added)
    if contrast is not None and not contrast_last:
        bgr = convert(bgr, factor=contrast)
    if saturation is not None:
        hsv = cv2.cvtColor(bgr, cv2.COLOR_BGR2HSV)
        hsv[..., 1] = convert(hsv[..., 1], factor=saturation)
        bgr = cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)
    if turned is not None:
        hsv = cv2.cvtColor(bgr, cv2.COLOR_BGR2HSV)
        hsv[..., 0] = (hsv[..., 0].astype(int) + turned) % 180
        bgr = cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)
    if contrast is not None and contrast_last:
        bgr = convert(bgr, factor=contrast)
    return bgr[..., ::-1]


@pytest.mark.parametrize("contrast_last", [False, True])
@pytest.mark.parametrize("added", [None, -32.0, 11.7])
@pytest.mark.parametrize("contrast", [None, 0.5, 1.43])
@pytest.mark.parametrize(("saturation", "turned"), [(None, None), (0.5, None), (1.5, None), (None, -18), (None, 17)])
def test_distortion_equals_the_published_steps(added, contrast, saturation, turned, contrast_last):
    image = picture()
    ours = PhotometricDistortion().apply(
        image.copy(), added or 0.0, contrast or 1.0, saturation or 1.0, turned or 0, contrast_last
    )
    np.testing.assert_array_equal(ours, literal_distortion(image, added, contrast, saturation, turned, contrast_last))


def test_one_visit_to_hsv_differs_from_two_by_rounding():
    image = picture()
    ours = PhotometricDistortion().apply(image.copy(), 0.0, 1.0, 1.4, 9, False)
    error = difference(ours, literal_distortion(image, None, None, 1.4, 9, False))
    assert error.mean() < 1
    assert np.quantile(error, 0.99) <= 6


def test_distortion_draws_the_published_ranges_at_the_published_chances():
    distortion = PhotometricDistortion()
    distortion.set_random_seed(0)
    draws = [distortion.get_params() for _ in range(4000)]
    for name, neutral in {"added": 0.0, "contrast": 1.0, "saturation": 1.0, "turned": 0}.items():
        assert 0.45 < np.mean([draw[name] != neutral for draw in draws]) < 0.55, name
    assert 0.47 < np.mean([draw["contrast_last"] for draw in draws]) < 0.53
    for name, (low, high) in {"added": (-32, 32), "contrast": (0.5, 1.5), "saturation": (0.5, 1.5)}.items():
        values = [draw[name] for draw in draws]
        assert low <= min(values) < low + 0.02 * (high - low)
        assert high - 0.02 * (high - low) < max(values) <= high
    assert {draw["turned"] for draw in draws} == set(range(-18, 18))


@pytest.mark.parametrize("transform", [ColorJitter(p=1.0), PhotometricDistortion()])
def test_sources_are_left_alone_even_if_they_could_be_written(transform):
    image = picture()
    before = image.copy()
    frozen = image.copy()
    frozen.setflags(write=False)
    for key in range(12):
        results = [Augment([transform])(sample(source), (key,)).image for source in (image, frozen)]
        np.testing.assert_array_equal(results[0], results[1])
        np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize(
    ("transform", "channels"),
    [(ColorJitter(p=1.0), 4), (PhotometricDistortion(), 1), (PhotometricDistortion(), 6)],
)
def test_other_channels_are_refused_by_name(transform, channels):
    with pytest.raises(DataError, match=rf"{type(transform).__name__} works on pictures .*\(48, 64, {channels}\)"):
        Augment([transform])(sample(picture(channels=channels)), (0,))


@pytest.mark.parametrize(
    "options", [{"contrast": (1.5, 0.5)}, {"saturation": (-1, 1)}, {"hue": 100}, {"brightness": 300}]
)
def test_ranges_that_cannot_be_are_refused(options):
    with pytest.raises(ValueError, match=f"{next(iter(options))}.*got"):
        PhotometricDistortion(**options)


@pytest.mark.parametrize("transform", [ColorJitter(p=0.3, hue=0.1), PhotometricDistortion(hue=9, p=0.5)])
def test_transforms_describe_themselves(transform):
    again = A.from_dict(A.to_dict(transform))
    assert repr(again) == repr(transform)
