"""RegionCriterion: torchvision's losses from the same samples, masks read from id layers, crowds, pictures without objects."""

import pytest
import torch
from torchvision.models.detection.roi_heads import project_masks_on_boxes
from torchvision.ops import roi_align

from trimask.losses.region import NEGATIVE, UNUSED, RegionCriterion, draw, match
from trimask.losses.region_truth import RegionRule, RegionTruth
from trimask.networks.mask_rcnn import MaskRCNN
from trimask.parity.mask_rcnn import ROWS, pyramid
from trimask.parity.row import as_in_training, normalized
from trimask.types import ClassSpec, Target

SIZE = (64, 96)
KEYS = {  # ours -> torchvision's
    "objectness": "loss_objectness",
    "proposal_box": "loss_rpn_box_reg",
    "class": "loss_classifier",
    "box": "loss_box_reg",
    "mask": "loss_mask",
}


def target(*, crowd: int | None = None, seed: int = 0, num: int = 4, layers: int = 2) -> Target:
    """Random ellipses, which overlap from layer to layer."""
    generator = torch.Generator().manual_seed(seed)
    segments = torch.zeros(layers, *SIZE, dtype=torch.uint8)
    y, x = torch.meshgrid(torch.arange(SIZE[0]), torch.arange(SIZE[1]), indexing="ij")
    for number in range(1, num + 1):
        center_y, center_x, radius_y, radius_x = torch.rand(4, generator=generator).tolist()
        inside = ((y - center_y * SIZE[0]) / (8 + 20 * radius_y)) ** 2 + (
            (x - center_x * SIZE[1]) / (8 + 20 * radius_x)
        ) ** 2
        layer = segments[number % layers]
        layer[(inside <= 1) & (layer == 0)] = number
    is_crowd = torch.zeros(num, dtype=torch.bool)
    if crowd is not None:
        is_crowd[crowd] = True
    return Target(segments, torch.randint(0, 5, (num,), generator=generator), is_crowd)


def empty() -> Target:
    nothing = torch.zeros(0, dtype=torch.int64)
    return Target(torch.zeros(1, *SIZE, dtype=torch.uint8), nothing, nothing.bool())


def as_torchvision(one: Target) -> dict[str, torch.Tensor]:
    return {"boxes": one.boxes.double(), "labels": one.labels + 1, "masks": one.masks.to(torch.uint8)}


@pytest.mark.slow
@pytest.mark.parametrize("targets", [[target(), target(seed=1)], [target(), empty()], [empty(), empty()]])
def test_losses_are_those_of_torchvision(targets):
    ours, theirs = ROWS[0].pair()
    ours, theirs = as_in_training(ours.double()), as_in_training(theirs.double())
    images = torch.randint(0, 256, (2, 3, *SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(1)
    found = RegionCriterion()(ours(images), targets)
    torch.manual_seed(1)
    listed, features = pyramid(theirs, normalized(ours, images))
    truth = [as_torchvision(one) for one in targets]
    proposals, first = theirs.rpn(listed, features, truth)
    _, second = theirs.roi_heads(features, proposals, listed.image_sizes, truth)
    expected = first | second
    assert found.keys() == KEYS.keys()
    for name, theirs_name in KEYS.items():
        torch.testing.assert_close(found[name], expected[theirs_name], rtol=1e-6, atol=1e-9, check_dtype=False)
    sum(found.values()).backward()
    sum(expected.values()).backward()
    torch.testing.assert_close(
        ours.neck.laterals[0].weight.grad, theirs.backbone.fpn.inner_blocks[0][0].weight.grad, rtol=1e-6, atol=1e-9
    )


@pytest.mark.parametrize("aligned", [False, True])
def test_masks_are_those_of_roi_align_on_full_size_masks(aligned):
    one = target(num=5, seed=3)
    [truth] = RegionRule()([one], 5)
    corners = (
        torch.rand(40, 2, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([SIZE[1], SIZE[0]]) * 1.2 - 5
    )
    boxes = torch.cat([corners.amin(dim=1), corners.amax(dim=1)], dim=1).double()
    owners = torch.arange(40) % len(truth.labels)
    found = truth.masks(boxes, owners, 28, aligned=aligned)
    masks = one.masks.double()
    expected = roi_align(masks[:, None], torch.cat([owners[:, None], boxes], dim=1), 28, 1.0, 0, aligned)[:, 0]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
    if not aligned:
        torch.testing.assert_close(found, project_masks_on_boxes(masks, boxes, owners, 28), rtol=0, atol=1e-9)
    assert found.std() > 0.1


def test_masks_may_be_taught_in_whole_cells(monkeypatch):
    """As detectron2 and mmdetection cut them out: 1 from a half on."""
    torch.manual_seed(0)
    network = MaskRCNN(5, pretrained=False, **MaskRCNN.tiny, conventions="detectron2").train()
    draft = network(torch.randint(0, 256, (1, 3, *SIZE), dtype=torch.uint8))

    def mask_loss(**settings):
        torch.manual_seed(1)
        return RegionCriterion(**settings)(draft, [target(num=5, seed=3)])["mask"]

    whole, shares = mask_loss(whole_cells=True), mask_loss()
    cut = RegionTruth.masks
    monkeypatch.setattr(RegionTruth, "masks", lambda *args, **options: (cut(*args, **options) >= 0.5).float())
    torch.testing.assert_close(mask_loss(), whole)
    assert (whole - shares).abs() > 1e-6


def test_boxes_that_lie_in_crowds_are_neither_positive_nor_negative():
    segments = torch.zeros(1, *SIZE, dtype=torch.uint8)
    segments[0, :, :48] = 1
    segments[0, 20:40, 60:80] = 2
    one = Target(segments, torch.tensor([0, 0]), torch.tensor([True, False]))
    [truth] = RegionRule()([one], 1)
    boxes = torch.tensor([[5.0, 5, 30, 30], [40, 5, 60, 30], [50, 5, 60, 30], [60, 20, 80, 40]])
    assert truth.is_crowded(boxes).tolist() == [True, False, False, False]
    assert truth.labels.tolist() == [0]
    criterion = RegionCriterion()
    chosen = criterion._chosen_boxes(boxes, truth)
    assert chosen.places.tolist() == [1, 2, 3]
    assert chosen.rows.tolist() == [NEGATIVE, NEGATIVE, 0]


def test_matching():
    objects = torch.tensor([[0.0, 0, 10, 10], [20, 0, 30, 10]])
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 20], [0, 0, 20, 20], [26, 0, 36, 10], [40, 0, 50, 10]])
    assert match(objects, boxes, 0.3, 0.7, best_too=False).tolist() == [0, UNUSED, NEGATIVE, NEGATIVE, NEGATIVE]
    assert match(objects, boxes, 0.3, 0.7, best_too=True).tolist() == [0, UNUSED, NEGATIVE, 1, NEGATIVE]
    assert match(objects[:0], boxes, 0.3, 0.7, best_too=True).tolist() == [NEGATIVE] * 5


def test_drawing_keeps_the_share_of_positives():
    rows = torch.tensor([0, 1, NEGATIVE, UNUSED, NEGATIVE, 2, NEGATIVE, 0])
    torch.manual_seed(0)
    one = draw(rows, 4, 0.5)
    assert (one.rows >= 0).sum() == 2
    assert len(one.places) == 4
    assert 3 not in one.places
    assert torch.equal(rows[one.places], one.rows)
    assert len(draw(rows, 100, 0.5).places) == 7


def test_objects_are_things_alone():
    one = target(num=4, seed=2)
    criterion = RegionCriterion()
    criterion.set_question("instances", ClassSpec(["a", "b", "c", "d", "e"], things=[int(one.labels[0])]))
    [truth] = criterion.rule([one], 5)
    assert set(truth.labels.tolist()) == {int(one.labels[0])}
    with pytest.raises(ValueError, match=r"network has the classes 0\.\.0"):
        criterion.rule([one], 1)


@pytest.mark.parametrize(
    "settings", [{"num_boxes": 0}, {"smooth": -1.0}, {"positive_boxes": 1.5}, {"anchor_overlap": (0.7, 0.3)}]
)
def test_refusals(settings):
    with pytest.raises(ValueError, match="got"):
        RegionCriterion(**settings)


@pytest.mark.parametrize("options", [{}, {"norm": "batch", "box_convs": 1}], ids=["plain", "norms in the heads"])
def test_bf16_trains_everything_with_and_without_objects(options):
    torch.manual_seed(0)
    network = MaskRCNN(5, pretrained=False, **MaskRCNN.tiny, **options).train()
    images = torch.randint(0, 256, (2, 3, *SIZE), dtype=torch.uint8)
    for targets in ([target(), empty()], [empty(), empty()]):
        network.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            losses = RegionCriterion(smooth=0)(network(images), targets)
            sum(losses.values()).backward()
        assert all(loss.dtype == torch.float32 and loss.isfinite() for loss in losses.values())
        assert all(parameter.grad is not None for parameter in network.parameters())
        assert all(buffer.isfinite().all() for buffer in network.buffers())  # statistics of no box at all
