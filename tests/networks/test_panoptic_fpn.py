"""Panoptic-FPN: its three answers, the classes of pixels that its criterion teaches, and detectron2's format."""

import pytest
import torch
from torch import Tensor

from trimask.convert import load_released
from trimask.losses import PanopticRegionCriterion
from trimask.networks.panoptic_fpn import PanopticFPN
from trimask.outputs import PanopticRegionDraft, PanopticRegionOutput, RegionOutput
from trimask.types import ClassSpec, Target
from trimask.weights import is_counter, source_names

SIZE = (65, 97)
IMAGES = torch.randint(0, 256, (2, 3, *SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
CLASSES = ClassSpec(["cell", "dot", "sky", "road"], things=[0, 1])


def build(num_classes: int = 4, **options: object) -> PanopticFPN:
    torch.manual_seed(0)
    return PanopticFPN(num_classes, pretrained=False, **{**PanopticFPN.tiny, **options})


def painted() -> PanopticRegionOutput:
    """64 x 64: the upper half sky but for a "thing" at the left, the lower half road; one dot in the left upper corner."""
    logits = torch.full((1, 5, 16, 16), -9.0)
    logits[0, 2, :8] = 9
    logits[0, 3, 8:] = 9
    logits[0, :, :8, :8] = torch.tensor([-9.0, -8, -9, -9, 9])[:, None, None]
    regions = RegionOutput(
        torch.tensor([[[0.0, 0, 16, 16], [0, 0, 0, 0]]]),
        torch.tensor([[0.9, 0.0]]),
        torch.tensor([[0, 0]]),
        torch.full((1, 2, 28, 28), 9.0),
        (64, 64),
        4,
    )
    return PanopticRegionOutput(regions, logits, 4)


def test_what_is_answered_when() -> None:
    network = build()
    assert isinstance(network.train()(IMAGES), PanopticRegionDraft)
    output = network.eval()(IMAGES)
    assert output.logits.shape == (2, 5, 24, 32)
    assert output.semantic((130, 190))[1].labels.shape == (130, 190)
    assert output.panoptic((130, 190), classes=CLASSES)[0].segments.shape == (130, 190)
    assert output.picture(1).regions.size == SIZE


def test_a_thing_is_what_the_best_instance_there_is() -> None:
    [answer] = painted().semantic((64, 64))
    assert (answer.labels[:15, :15] == 0).all()  # a cell by its instance
    assert (answer.labels[2:28, 18:28] == 1).all()  # "a thing" without an instance: the class that comes next
    assert (answer.labels[4:28, 36:] == 2).all()
    assert (answer.labels[36:] == 3).all()
    [scored] = painted().semantic((64, 64), scores=True)
    assert torch.equal(scored.labels, answer.labels)
    assert (scored.scores.sum(0) <= 1 + 1e-6).all()


def test_panoptic_leaves_things_without_an_instance_empty() -> None:
    [answer] = painted().panoptic((64, 64), classes=CLASSES)
    assert answer.labels.tolist() == [0, 2, 3]
    assert (answer.segments[:15, :15] == 1).all()
    assert (answer.segments[2:28, 18:28] == 0).all()
    assert (answer.segments[36:] == 3).all()


def test_rows_are_those_of_the_whole() -> None:
    output = build().eval()(IMAGES)
    whole = output.score_rows((80, 120), (0, 80))
    torch.testing.assert_close(output.score_rows((80, 120), (13, 29)), whole[:, :, 13:29], atol=1e-5, rtol=0)


@pytest.mark.parametrize(("question", "expected"), [("panoptic", [4, 2, 4]), ("semantic", [0, 2, 1])])
def test_things_are_one_class_of_pixels_unless_classes_are_asked_for(question, expected) -> None:
    criterion = PanopticRegionCriterion()
    criterion.set_question(question, CLASSES)
    segments = torch.zeros(1, *SIZE, dtype=torch.uint8)
    target = Target(segments, torch.tensor([0, 2, 1]), torch.tensor([False, False, True]))
    truth = criterion._of_pixels(target, 4, [96, 128])
    assert truth.labels.tolist() == expected
    assert truth.size == (96, 128)


def test_weights_of_losses() -> None:
    network = build().train()
    segments = torch.ones(1, *SIZE, dtype=torch.uint8)
    targets = [Target(segments, torch.tensor([2]), torch.tensor([False]))] * 2
    once, twice = PanopticRegionCriterion(semantic_weight=0.5), PanopticRegionCriterion(semantic_weight=1.0)
    for criterion in (once, twice):
        criterion.set_question("panoptic", CLASSES)
    draft = network(IMAGES)
    assert twice(draft, targets)["semantic"].item() == pytest.approx(2 * once(draft, targets)["semantic"].item())
    with pytest.raises(ValueError, match="not negative"):
        PanopticRegionCriterion(semantic_weight=-1)


def test_detectron2_has_things_first_and_rows_for_them_alone() -> None:
    network = build(backbone="resnet18")
    names = source_names(network.state_dict(), network.RENAMES["detectron2"])
    weights: dict[str, Tensor] = {
        theirs: network.state_dict()[ours].clone() for ours, theirs in names.items() if not is_counter(ours)
    }
    score, pixels = "roi_heads.box_predictor.cls_score.", "sem_seg_head.predictor."
    for kind in ("weight", "bias"):  # of 2 things and 2 kinds of stuff
        weights[score + kind] = weights[score + kind][[0, 1, 4]]
        weights[pixels + kind] = weights[pixels + kind][[4, 2, 3]]
        for name, rows in (("roi_heads.box_predictor.bbox_pred.", 8), ("roi_heads.mask_head.predictor.", 2)):
            weights[name + kind] = weights[name + kind][:rows]
    other = build(backbone="resnet18", semantic_channels=32)
    load_released(other, weights, "detectron2")
    ours, theirs = network.heads.classify, other.heads.classify
    assert torch.equal(theirs.bias[[0, 1, 4]], ours.bias[[0, 1, 4]])
    assert theirs.bias[[2, 3]].tolist() == [-100, -100]
    assert torch.equal(other.semantic.classify.weight[2:], network.semantic.classify.weight[2:])
    assert other.semantic.classify.bias[:2].tolist() == [-100, -100]
    output = other.eval()(IMAGES)
    assert set(output.regions.labels.unique().tolist()) <= {0, 1}
