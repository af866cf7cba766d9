import numpy as np
import torch

from trimask.types import ClassSpec, Instances, Panoptic, Target
from trimask.visualise.answers import instance_panel, panoptic_panel
from trimask.visualise.draw import GAP, LINE

CLASSES = ClassSpec(["sky", "car", "dog"], things=[1, 2], colors=[[0, 0, 200], [200, 0, 0], [0, 200, 0]])
SIZE = (200, 256)  # shown twice as large
IMAGE = np.full((*SIZE, 3), 60, np.uint8)


def boxed(*boxes):
    masks = torch.zeros(len(boxes), *SIZE, dtype=torch.bool)
    for mask, (top, left, bottom, right) in zip(masks, boxes, strict=True):
        mask[top:bottom, left:right] = True
    return masks


def truth():
    segments = torch.ones(1, *SIZE, dtype=torch.uint8)
    segments[0, 20:120, 20:120], segments[0, 150:] = 2, 0
    return Target(segments, torch.tensor([0, 1]), torch.zeros(2, dtype=torch.bool))


def tiles(panel):
    """Picture, truth and prediction, each (400, 512, 3)."""
    return [panel[LINE : LINE + 400, left : left + 512] for left in (0, 512 + GAP, 1024 + 2 * GAP)]


def color_at(tile, y, x):
    """What lies over the picture, whose color is 60 and whose weight is half."""
    return (2 * tile[2 * y, 2 * x].astype(int) - 60).tolist()


def test_instances_are_drawn_from_a_score_on_the_best_on_top():
    masks = boxed((20, 20, 100, 100), (60, 60, 140, 140), (150, 150, 190, 250), (0, 200, 40, 250))
    answer = Instances(masks, torch.tensor([1, 2, 2, 1]), torch.tensor([0.6, 0.9, 0.4, 0.5]), torch.zeros(4, 4))
    picture, true, found = tiles(instance_panel(IMAGE, truth(), answer, CLASSES))
    assert (picture == 60).all()
    assert color_at(true, 30, 30) == [200, 0, 0]
    assert color_at(true, 140, 30) == [60, 60, 60], "the sky is no thing, and nothing is hatched"
    assert (true[300:] == 60).all()
    assert color_at(found, 25, 25) == [200, 0, 0]
    assert color_at(found, 70, 70) == [0, 200, 0], "the better one is on top"
    assert color_at(found, 170, 155) == [60, 60, 60], "0.4 is left out"
    assert color_at(found, 5, 205) != [60, 60, 60], "0.5 is not"


def test_names_come_with_their_scores():
    answers = [
        Instances(boxed((20, 20, 180, 240)), torch.tensor([1]), torch.tensor([score]), torch.zeros(1, 4))
        for score in (0.93, 0.71)
    ]
    one, other = (tiles(instance_panel(IMAGE, truth(), answer, CLASSES)) for answer in answers)
    assert (one[1] == other[1]).all()
    y, x = np.nonzero((one[2] != other[2]).any(axis=2))
    assert 0 < len(y) < 2000, "only digits differ"
    assert np.ptp(y) < 30
    assert np.ptp(x) < 60


def test_nothing_to_draw():
    answer = Instances(boxed(), torch.zeros(0).long(), torch.zeros(0), torch.zeros(0, 4))
    empty = Target(torch.zeros(1, *SIZE, dtype=torch.uint8), torch.zeros(0).long(), torch.zeros(0, dtype=torch.bool))
    for tile in tiles(instance_panel(IMAGE, empty, answer, CLASSES)):
        assert (tile == 60).all()


def test_panoptic_answers_show_stuff_things_and_what_is_in_no_segment():
    segments = torch.ones(SIZE, dtype=torch.int32)
    segments[20:120, 20:120], segments[150:] = 2, 0
    answer = Panoptic(segments, torch.tensor([0, 2]), torch.tensor([0.7, 0.8]))
    panel = panoptic_panel(IMAGE, truth(), answer, CLASSES)
    _, true, found = tiles(panel)
    assert color_at(true, 10, 10) == color_at(found, 10, 10) == [0, 0, 200]
    assert color_at(true, 30, 30) == [200, 0, 0]
    assert color_at(found, 30, 30) == [0, 200, 0]
    assert 0.05 < (found[310:] != 60).any(axis=2).mean() < 0.5, "hatched"
    legend = panel[LINE + 400 :].reshape(-1, 3)
    for color in CLASSES.colors:
        assert (legend == color).all(axis=1).any()
