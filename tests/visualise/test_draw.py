import numpy as np
import pytest

from trimask.types import ClassSpec
from trimask.visualise.draw import PAPER, UNLABELLED, WRONG, colorize, error_map, overlay, panel, rgb

CLASSES = ClassSpec(["road", "car"], colors=[[100, 40, 200], [0, 240, 80]])
TRUTH = np.array([[0, 0, 1], [1, 255, 255]])
PREDICTION = np.array([[0, 1, 1], [0, 0, 1]])
IMAGE = np.full((2, 3, 3), 60, np.uint8)


def test_colorize():
    colored = colorize(TRUTH, CLASSES)
    assert colored.shape == (2, 3, 3)
    assert colored.dtype == np.uint8
    assert colored[0].tolist() == [[100, 40, 200], [100, 40, 200], [0, 240, 80]]
    assert tuple(colored[1, 1]) == UNLABELLED


def test_colorize_takes_any_ignore_index_and_type():
    expected = colorize(TRUTH, CLASSES)
    assert (colorize(np.where(TRUTH == 255, -1, TRUTH), CLASSES) == expected).all()
    assert (colorize(TRUTH.astype(np.uint8), CLASSES) == expected).all()


def test_overlay_blends_classes_and_leaves_the_rest():
    blended = overlay(IMAGE, TRUTH, CLASSES, alpha=0.25)
    assert blended[0, 0].tolist() == [70, 55, 95]
    assert (blended[1, 1:] == 60).all()
    assert (overlay(IMAGE, TRUTH, CLASSES, alpha=0) == IMAGE).all()


def test_error_map():
    errors = error_map(PREDICTION, TRUTH, CLASSES)
    assert errors[0].tolist() == [[25, 10, 50], list(WRONG), [0, 60, 20]]
    assert tuple(errors[1, 0]) == WRONG
    assert tuple(errors[1, 1]) == tuple(errors[1, 2]) == UNLABELLED


@pytest.mark.parametrize("shape", [(5, 4), (5, 4, 1), (5, 4, 2), (5, 4, 3), (5, 4, 8)])
def test_rgb(shape):
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    shown = rgb(image)
    assert shown.shape == (5, 4, 3)
    channels = image.reshape(5, 4, -1)
    for i in range(3):
        assert (shown[..., i] == channels[..., i if channels.shape[2] >= 3 else 0]).all()


@pytest.mark.parametrize("size", [(400, 700), (90, 60), (30, 20)])
def test_panel_is_bounded_and_shows_the_picture(size):
    generator = np.random.default_rng(0)
    image = generator.integers(100, 256, (*size, 3), dtype=np.uint8)
    truth, prediction = (generator.integers(0, 2, size) for _ in range(2))
    drawn = panel(image, truth, prediction, CLASSES, title="street 7", max_side=128)
    assert drawn.dtype == np.uint8
    assert drawn.shape[1] <= 4 * 128 + 3 * 6
    assert drawn.shape[0] <= 128 + 7 * 20
    assert (drawn == WRONG).all(axis=-1).any()
    if max(size) <= 128:
        assert (drawn[40 : 40 + size[0], : size[1]] == image).all()


def test_the_legend_names_only_the_classes_that_occur():
    def legend(labels):
        return panel(IMAGE, labels, labels, CLASSES, max_side=64)[22:]

    both, road = legend(np.array([[0, 0, 0], [1, 1, 1]])), legend(np.zeros((2, 3), int))
    assert (both == CLASSES.colors[1]).all(axis=-1).any()
    assert not (road == CLASSES.colors[1]).all(axis=-1).any()
    assert (road == CLASSES.colors[0]).all(axis=-1).any()
    assert (road != PAPER).any()


def test_sizes_must_agree():
    with pytest.raises(ValueError, match="must have one size"):
        panel(IMAGE, TRUTH[:1], PREDICTION, CLASSES)
