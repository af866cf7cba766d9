"""The truth of a sample, drawn: exact colors where they follow from the rules, and where lines may lie."""

import numpy as np
import pytest

from trimask.types import ClassSpec, Sample
from trimask.visualise.draw import PAPER
from trimask.visualise.samples import Content, contents, draw, flat, panel, segment_colors, unlabelled_share

CLASSES = ClassSpec(["road", "car", "sky"], things=[1], colors=[[100, 40, 200], [0, 240, 80], [9, 9, 9]])


def sample(segments, labels, crowds=()):
    """A grey picture with these segments."""
    layers = np.asarray(segments, np.uint8)
    layers = layers[None] if layers.ndim == 2 else layers
    is_crowd = np.array([row in crowds for row in range(len(labels))], bool)
    return Sample(np.full((*layers.shape[1:], 3), 60, np.uint8), layers, np.array(labels, np.int64), is_crowd, "one")


def halves():
    """Left half road, right half one car above another; a corner of nothing."""
    ids = np.ones((40, 40), np.uint8)
    ids[:20, 20:], ids[20:, 20:] = 2, 3
    ids[:6, :6] = 0
    return sample(ids, [0, 1, 1])


def test_fill_is_the_color_of_the_class_and_a_shade_for_further_instances():
    drawing = draw(halves(), CLASSES, side=40)
    assert drawing.fill[30, 5].tolist() == [100, 40, 200, 255]
    assert drawing.fill[10, 30].tolist() == [0, 240, 80, 255]
    assert drawing.fill[2, 2].tolist() == [0, 0, 0, 0]
    shade = drawing.fill[30, 30]
    assert shade[3] == 255
    assert shade[1] == max(shade[:3]), "still green"
    assert np.abs(shade[:3].astype(int) - [0, 240, 80]).max() > 20, "but not the same"


def test_shades_of_many_instances_differ():
    cars = sample(np.ones((4, 4)), [1] * 30)
    assert len(np.unique(segment_colors(cars, CLASSES), axis=0)) == 30
    grey = ClassSpec(["black"], things=[0], colors=[[0, 0, 0]])
    assert len(np.unique(segment_colors(sample(np.ones((4, 4)), [0] * 9), grey), axis=0)) == 9


def test_lines_lie_on_the_edges_of_things_alone():
    lines = draw(halves(), CLASSES, names=["", "", ""], side=40).lines
    outlined = lines[..., 3] == 255
    assert outlined[19, 22:38].all()
    assert outlined[20, 22:38].all()
    assert outlined[25, 20]
    assert not outlined[:, :20].any(), "road is stuff"
    inner = np.ones((40, 40), bool)
    inner[:, :20] = inner[19:21] = inner[:, 20] = False
    assert not lines[inner][:, 3].any()


def test_without_instances_only_the_unlabelled_corner_is_drawn_over():
    lines = draw(halves(), CLASSES, instances=False, side=40).lines
    assert lines[:6, :6, 3].any()
    lines[:6, :6] = 0
    assert not lines.any()


def test_crowds_are_hatched():
    one = sample(np.ones((48, 48)), [1], crowds=[0])
    hatched = draw(one, CLASSES, instances=False, side=48).lines[..., 3] > 0
    assert 0.15 < hatched.mean() < 0.4
    assert not draw(sample(np.ones((48, 48)), [1]), CLASSES, instances=False, side=48).lines.any()


def test_the_higher_layer_is_filled_and_the_outlines_of_both_are_seen():
    layers = np.zeros((2, 40, 40), np.uint8)
    layers[0, 5:35, 5:35], layers[1, 15:25, 15:25] = 1, 2
    drawing = draw(
        sample(layers, [0, 1]), ClassSpec(["below", "above"], things=[0, 1], colors=[[200, 0, 0], [0, 0, 200]]), side=40
    )
    assert drawing.fill[20, 20].tolist() == [0, 0, 200, 255]
    assert drawing.fill[10, 10].tolist() == [200, 0, 0, 255]
    assert drawing.lines[5, 7:33, 3].min() == 255
    assert drawing.lines[15, 16:24, 3].min() == 255


def test_a_name_is_written_where_it_has_room():
    def ink(size):
        lines = draw(sample(np.ones((size, size)), [1]), CLASSES, side=size).lines
        return int((lines[3:-3, 3:-3, 3] > 0).sum())

    assert ink(200) > 100
    assert ink(20) == 0


@pytest.mark.parametrize(
    ("size", "side", "shown"), [((30, 60), 200, (90, 180)), ((30, 60), 59, (30, 59)), ((1, 500), 50, (1, 50))]
)
def test_sizes(size, side, shown):
    drawing = draw(sample(np.ones(size), [0]), CLASSES, side=side)
    assert {layer.shape[:2] for layer in drawing} == {shown}


def test_small_pictures_grow_without_blur():
    one = sample([[1, 2], [0, 1]], [0, 2])
    fill = draw(one, CLASSES, side=8).fill
    assert fill[0, :, 0].tolist() == [100] * 4 + [9] * 4
    assert fill[7, :, 3].tolist() == [0] * 4 + [255] * 4


@pytest.mark.parametrize("num_channels", [1, 3, 5])
def test_any_number_of_channels(num_channels):
    one = halves()
    image = np.full((40, 40, num_channels), 60, np.uint8)
    drawing = draw(Sample(image, one.segments, one.labels, one.is_crowd, "x"), CLASSES, side=40)
    assert drawing.image.shape == (40, 40, 3)


def test_a_sample_without_segments():
    drawing = draw(sample(np.zeros((32, 32)), []), CLASSES, side=32)
    assert not drawing.fill.any()
    assert drawing.lines.any()


def test_flat_lays_the_layers_over_each_other():
    drawing = draw(sample(np.ones((8, 8)), [0]), CLASSES, side=8)
    assert flat(drawing, alpha=0.25)[4, 4].tolist() == [70, 55, 95]
    assert (flat(drawing, alpha=0) == 60).all()


def test_contents_counts_what_a_crop_dropped():
    cropped = sample([[2, 2], [0, 3]], [0, 1, 1, 1])
    assert contents(cropped) == [Content(0, 0, 1), Content(1, 2, 1)]
    assert unlabelled_share(cropped) == 0.25


def test_panel_puts_tiles_side_by_side_over_a_legend():
    one = halves()
    drawing, small = draw(one, CLASSES, side=40), draw(one, CLASSES, side=20)
    picture = panel(
        [("as it is", drawing), ("a caption that is far too long for its tile", small)],
        contents(one),
        CLASSES,
        title="one",
    )
    assert picture.shape[1] == 40 + 6 + 20
    tile = picture[40:80, :40]
    np.testing.assert_array_equal(tile, flat(drawing))
    np.testing.assert_array_equal(picture[40:60, 46:], flat(small))
    assert (picture[60:80, 46:] == PAPER).all()
    for color in ([100, 40, 200], [0, 240, 80]):
        assert (picture[80:] == color).all(axis=2).sum() == 144


def written(segments, labels, names=None, **settings):
    """(h, w) where the names are: what differs from a drawing whose names are empty."""
    one = sample(segments, labels)
    named = draw(one, CLASSES, names=names, **settings).lines
    return (named != draw(one, CLASSES, names=[""] * len(labels), **settings).lines).any(axis=2)


@pytest.mark.parametrize("corner", [np.s_[:9, :90], np.s_[-9:, -90:]])
def test_no_name_is_cut_at_the_border(corner):
    """There it is moved inwards: it has as many rows and columns as in the middle."""
    middle, border = np.zeros((200, 200)), np.zeros((200, 200))
    middle[96:105, 55:145], border[corner] = 1, 1
    expected, found = (np.nonzero(written(ids, [1], ["car 0.9"], side=200)) for ids in (middle, border))
    assert len(found[0]) > 100
    assert [np.ptp(axis) for axis in found] == [np.ptp(axis) for axis in expected]


def test_a_name_gets_smaller_before_it_is_left_out():
    def height(width):
        ids = np.zeros((200, 200))
        ids[60:140, 100 - width // 2 : 100 + width // 2] = 1
        rows = np.flatnonzero(written(ids, [1], names=["wide car"], side=200).any(axis=1))
        return int(np.ptp(rows)) if len(rows) else 0

    large, small, none = height(120), height(50), height(20)
    assert large > small > 6
    assert none == 0


def test_names_that_are_given_are_of_stuff_as_well():
    ids = np.ones((200, 200))
    assert not written(ids, [0], side=200).any()
    assert written(ids, [0], names=["road 0.8"], side=200).sum() > 200


def test_names_grow_with_the_picture():
    def height(side):
        return int(np.ptp(np.flatnonzero(written(np.ones((side, side)), [1], names=["car"], side=side).any(axis=1))))

    assert height(400) == height(900)
    assert height(1800) == pytest.approx(2 * height(900), abs=4)
