"""The paper's merge, step by step on pictures of a few pixels."""

import pytest
import torch

from trimask.decode.merging import USUAL_AREA, merge_panoptic
from trimask.types import Instances, mask_boxes

SIZE = (8, 12)
STUFF = torch.full((4,), 0.75)  # labels 0 and 1 are things, 2 and 3 stuff, 4 is "a thing"


def instances(*areas: tuple[slice, slice], scores: list[float], labels: list[int]) -> Instances:
    masks = torch.zeros(len(areas), *SIZE, dtype=torch.bool)
    for mask, area in zip(masks, areas, strict=True):
        mask[area] = True
    return Instances(masks, torch.tensor(labels), torch.tensor(scores), mask_boxes(masks))


def merge(found: Instances, labels: torch.Tensor, **options):
    return merge_panoptic(found, labels, STUFF, things=[0, 1], **options)


def test_better_instances_lie_on_top_and_stuff_fills_the_rest():
    found = instances((slice(0, 4), slice(0, 4)), (slice(0, 4), slice(2, 7)), scores=[0.9, 0.8], labels=[1, 0])
    labels = torch.full(SIZE, 2)
    labels[:, 10:] = 4
    answer = merge(found, labels)
    expected = torch.full(SIZE, 3)
    expected[:, 10:] = 0
    expected[:4, 2:7] = 2
    expected[:4, :4] = 1
    assert torch.equal(answer.segments, expected.int())
    assert answer.labels.tolist() == [1, 0, 2]
    torch.testing.assert_close(answer.scores, torch.tensor([0.9, 0.8, 0.75]))


@pytest.mark.parametrize(("covered", "kept"), [(2, True), (3, False)])
def test_an_instance_that_is_mostly_covered_is_left_out(covered, kept):
    found = instances(
        (slice(0, 4), slice(0, 4)),
        (slice(0, 4), slice(4 - covered, 8 - covered)),
        scores=[0.9, 0.8],
        labels=[0, 0],
    )
    answer = merge(found, torch.full(SIZE, 4))
    assert len(answer.labels) == 1 + kept


def test_uncertain_instances_are_left_out():
    found = instances((slice(0, 4), slice(0, 4)), (slice(4, 8), slice(0, 4)), scores=[0.9, 0.4], labels=[0, 0])
    assert len(merge(found, torch.full(SIZE, 4)).labels) == 1
    assert len(merge(found, torch.full(SIZE, 4), score_threshold=0.3).labels) == 2


def test_small_stuff_and_the_pixels_of_things_stay_empty():
    labels = torch.full(SIZE, 0)
    labels[0, :10] = 2
    labels[1, 0] = 3
    nothing = instances(scores=[], labels=[])
    least = round(4096 * SIZE[0] * SIZE[1] / USUAL_AREA)
    assert least == 1
    assert merge(nothing, labels).labels.tolist() == [2, 3]
    labels = labels.repeat(80, 80)  # as large as COCO's pictures: 4,096 pixels
    answer = merge(Instances(torch.zeros(0, *labels.shape, dtype=torch.bool), *nothing_else()), labels, stuff_area=6401)
    assert answer.labels.tolist() == [2]
    assert not answer.segments[labels != 2].any()


def nothing_else():
    return torch.zeros(0, dtype=torch.int64), torch.zeros(0), torch.zeros(0, 4)


def test_nothing_found():
    answer = merge(instances(scores=[], labels=[]), torch.full(SIZE, 4))
    assert not answer.segments.any()
    assert len(answer.labels) == len(answer.scores) == 0
