"""Synthetic pictures: exact truth, pure in (seed, index), and not solvable by color."""

import pickle
import time

import numpy as np
import pytest

from trimask.data.shapes import STUFF, Shapes
from trimask.types import SegmentationDataset


def semantic(sample):
    return np.concatenate([[255], sample.labels])[sample.segments[0]]


def test_a_sample_is_a_pure_function_of_seed_and_index():
    dataset = Shapes(length=8, size=(48, 64), seed=3)
    first = pickle.loads(pickle.dumps(dataset))[5]
    dataset[2]
    again = dataset[5]
    for field in ("image", "segments", "labels", "is_crowd"):
        np.testing.assert_array_equal(getattr(first, field), getattr(again, field))
    assert first.name == again.name == "train-00005"
    others = [dataset[4], Shapes(length=8, size=(48, 64), seed=4)[5], Shapes("val", size=(48, 64), seed=3)[5]]
    assert all((other.image != first.image).any() for other in others)
    np.testing.assert_array_equal(Shapes(length=800, size=(48, 64), seed=3)[5].image, first.image)


def test_sample_invariants():
    dataset = Shapes(length=60, size=(64, 96))
    assert isinstance(dataset, SegmentationDataset)
    assert dataset.offers == {"semantic", "instances", "panoptic"}
    seen = np.zeros(len(dataset.classes), int)
    for sample in map(dataset.__getitem__, range(60)):
        assert sample.image.shape == (64, 96, 3)
        assert sample.image.dtype == np.uint8
        assert sample.segments.shape == (1, 64, 96)
        assert (sample.areas() > 0).all()  # the wholly hidden ones are gone
        assert (sample.segments > 0).all()  # every pixel is labelled
        stuff = [label for label in sample.labels if label < len(STUFF)]
        assert len(set(stuff)) == len(stuff)
        assert 2 <= len(stuff) <= 3
        assert len(sample.labels) - len(stuff) <= 5
        seen[np.unique(sample.labels)] += 1
    assert (seen > 10).all()


def test_a_thing_has_its_id_exactly_where_it_is_painted():
    dataset = Shapes(length=1, num_things=(1, 1))
    for seed in range(20):
        canvas, ids = np.full((128, 128, 3), np.nan, np.float32), np.zeros((128, 128), np.uint8)
        labels = dataset._paint_things(canvas, ids, np.random.default_rng(seed))
        assert len(labels) == 1
        np.testing.assert_array_equal(ids > 0, np.isfinite(canvas).all(axis=2))


def test_things_overlap_in_some_pictures():
    num_touching = 0
    for sample in map(Shapes(length=30, num_things=(5, 5)).__getitem__, range(30)):
        left, right = sample.segments[0][:, :-1], sample.segments[0][:, 1:]
        is_thing = sample.labels >= len(STUFF)
        num_touching += int(((left != right) & is_thing[left - 1] & is_thing[right - 1]).any())
    assert num_touching > 10


def color_lookup_miou(dataset: Shapes, bins: int = 8) -> float:
    """Quantized RGB -> the most frequent class over 50 pictures, scored on 20 others."""

    def codes(sample):
        quantized = sample.image.astype(int) * bins // 256
        return (quantized @ [bins * bins, bins, 1]).ravel(), semantic(sample).ravel()

    num_classes = len(dataset.classes)
    votes = np.zeros(bins**3 * num_classes)
    for i in range(50):
        code, label = codes(dataset[i])
        votes += np.bincount(code * num_classes + label, minlength=len(votes))
    lookup = votes.reshape(bins**3, num_classes).argmax(1)
    confusion = np.zeros((num_classes, num_classes))
    for i in range(50, 70):
        code, label = codes(dataset[i])
        np.add.at(confusion, (label, lookup[code]), 1)
    intersection = np.diag(confusion)
    return float((intersection / (confusion.sum(0) + confusion.sum(1) - intersection)).mean())


@pytest.mark.parametrize("noise", [0.0, 0.06])
def test_color_says_little_about_the_class(noise):
    assert color_lookup_miou(Shapes(length=70, noise=noise)) < 0.25


def test_noise_and_sizes_are_arguments():
    calm, noisy = Shapes(length=1, noise=0)[0], Shapes(length=1, noise=0.2)[0]
    np.testing.assert_array_equal(calm.segments, noisy.segments)
    assert np.abs(calm.image.astype(int) - noisy.image).mean() > 20
    assert len(Shapes(length=1, num_things=(0, 0))[0].labels) <= len(STUFF)


def test_index_beyond_the_end_stops_iteration():
    assert len(list(Shapes(length=3, size=(32, 32)))) == 3


@pytest.mark.parametrize(
    "arguments",
    [
        {"length": 0},
        {"split": "tset"},
        {"seed": -1},
        {"size": (16, 64)},
        {"noise": -1},
        {"num_things": (3, 2)},
        {"radius": (0.1, 0.9)},
    ],
)
def test_arguments_that_are_refused(arguments):
    with pytest.raises(ValueError, match="got"):
        Shapes(**{"length": 1, **arguments})


def test_a_picture_takes_milliseconds():
    dataset = Shapes(length=40)
    dataset[0]  # warms up
    times = []
    for i in range(40):
        start = time.process_time()
        dataset[i]
        times.append(time.process_time() - start)
    assert min(times) < 0.004, "of processor time; neighbors slow a processor down, none makes it faster"
