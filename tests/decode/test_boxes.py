"""Boxes as deltas and back, anchors, and which boxes are kept: as torchvision has it, and by hand."""

import pytest
import torch
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList

from trimask.decode.boxes import (
    MAX_LOG_SCALE,
    best_detections,
    best_proposals,
    cell_anchors,
    decode_boxes,
    encode_boxes,
    grid_anchors,
)

WEIGHTS = (10.0, 10.0, 5.0, 5.0)


def boxes(num: int, seed: int = 0) -> torch.Tensor:
    corner, size = torch.rand(2, num, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.double).unbind(0)
    return torch.cat([50 * corner, 50 * corner + 1 + 30 * size], dim=1)


def test_decoding_is_the_inverse_of_encoding():
    deltas = encode_boxes(boxes(20), boxes(20, seed=1), WEIGHTS)
    torch.testing.assert_close(decode_boxes(deltas, boxes(20, seed=1), WEIGHTS), boxes(20))


def test_scales_are_limited():
    anchor = torch.tensor([[0.0, 0, 10, 10]])
    [found] = decode_boxes(torch.tensor([[0.0, 0, 1000, 0]]), anchor, (1.0, 1.0, 1.0, 1.0)).tolist()
    assert found[2] - found[0] == pytest.approx(10 * torch.tensor(MAX_LOG_SCALE).exp())


def test_anchors_are_those_of_torchvision():
    theirs = AnchorGenerator(((32,), (64,)), ((0.5, 1.0, 2.0),) * 2)
    maps = [torch.zeros(1, 1, 8, 12), torch.zeros(1, 1, 4, 6)]
    [expected] = theirs(ImageList(torch.zeros(1, 3, 64, 96), [(64, 96)]), maps)
    found = [
        grid_anchors(cell_anchors(side, (0.5, 1.0, 2.0), rounded=True), size, (stride, stride))
        for side, size, stride in ((32, (8, 12), 8), (64, (4, 6), 16))
    ]
    assert torch.equal(torch.cat(found), expected)


def test_anchors_of_detectron2_keep_their_area():
    cell = cell_anchors(32, (0.5, 1.0, 2.0), rounded=False)
    sides = cell[:, 2:] - cell[:, :2]
    torch.testing.assert_close(sides.prod(dim=1), torch.full((3,), 1024.0))
    torch.testing.assert_close(sides[:, 1] / sides[:, 0], torch.tensor([0.5, 1.0, 2.0]))


def test_proposals_are_the_best_of_each_level_without_near_copies():
    anchors = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9.9], [20, 20, 30, 30], [100, 100, 110, 110]])
    logits = torch.tensor([[1.0, 2.0, 0.5, 9.0], [0.0, -1.0, 3.0, 9.0]])
    [first, second] = best_proposals(
        [logits], [torch.zeros(2, 4, 4)], [anchors], (50, 40), per_level=4, in_all=2, overlap=0.7
    )
    assert first.tolist() == [anchors[1].tolist(), anchors[2].tolist()]  # the last one lies outside the picture
    assert second.tolist() == [anchors[2].tolist(), anchors[0].tolist()]
    [one, _] = best_proposals([logits], [torch.zeros(2, 4, 4)], [anchors], (50, 40), per_level=1, in_all=2, overlap=0.7)
    assert len(one) == 0


def test_detections_of_different_classes_do_not_suppress_each_other():
    proposals = torch.tensor([[0.0, 0, 10, 10], [1, 0, 11, 10], [30, 30, 60, 60]])
    probability = torch.tensor([[0.6, 0.3, 0.1], [0.5, 0.04, 0.46], [0.01, 0.9, 0.09]])
    found = best_detections(
        probability.log(),
        torch.zeros(3, 2, 4),
        proposals,
        (50, 50),
        weights=WEIGHTS,
        least_score=0.05,
        overlap=0.5,
        top=10,
    )
    assert found.labels.tolist() == [1, 0, 1]
    torch.testing.assert_close(found.scores, torch.tensor([0.9, 0.6, 0.3]))
    assert found.boxes.tolist() == [[30, 30, 50, 50], [0, 0, 10, 10], [0, 0, 10, 10]]
