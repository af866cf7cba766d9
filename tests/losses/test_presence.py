"""The loss of which classes a picture shows: equal to counting by hand and to mmsegmentation's formula."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from trimask.losses import CrossEntropy, DenseCriterion
from trimask.losses.presence import PresenceCriterion, presence_loss, shown_classes
from trimask.outputs import DenseOutput
from trimask.types import Target

IGNORED = 255


@dataclass(frozen=True)
class Saying(DenseOutput):
    presence: Tensor | None = None


def make_targets(labels):
    segments = torch.where(labels == IGNORED, 0, labels + 1).to(torch.uint8)
    classes = torch.arange(5)
    return [Target(layer[None], classes, torch.zeros(5, dtype=torch.bool)) for layer in segments]


@pytest.fixture
def labels():
    labels = torch.zeros(3, 8, 8, dtype=torch.long)
    labels[0, :4] = 3
    labels[0, 7, 7] = 4
    labels[1] = 2
    labels[1, 0] = IGNORED
    labels[2] = IGNORED
    return labels


def test_shown_classes(labels):
    shown = shown_classes(labels.clamp(max=4), labels != IGNORED, 5)
    assert [row.nonzero().flatten().tolist() for row in shown] == [[0, 3, 4], [2], []]


def test_equals_the_plain_formula(labels):
    logits = torch.randn(3, 5, requires_grad=True)
    value = presence_loss(logits, labels.clamp(max=4), labels != IGNORED)
    # as mmsegmentation makes the truth, of the pictures with a valid pixel
    truth = torch.stack([(picture.float().histc(bins=5, min=0, max=4) > 0).float() for picture in labels[:2]])
    other = logits.detach()[:2].requires_grad_()
    plain = F.binary_cross_entropy_with_logits(other, truth)
    assert torch.allclose(value, plain)
    value.backward()
    plain.backward()
    assert torch.allclose(logits.grad[:2], other.grad)
    assert not logits.grad[2].any()


def test_one_logit_asks_for_class_1():
    labels = torch.tensor([[[0, 0]], [[0, 1]]])
    logits = torch.tensor([[-20.0], [20.0]])
    assert presence_loss(logits, labels, torch.ones_like(labels, dtype=torch.bool)) < 1e-6
    assert presence_loss(-logits, labels, torch.ones_like(labels, dtype=torch.bool)) > 10


def test_nothing_valid_is_zero():
    logits = torch.randn(2, 5, requires_grad=True)
    value = presence_loss(logits, torch.zeros(2, 4, 4, dtype=torch.long), torch.zeros(2, 4, 4, dtype=torch.bool))
    value.backward()
    assert value == 0
    assert not logits.grad.any()


def test_criterion_adds_it_to_what_a_dense_criterion_says(labels):
    dense, presence = torch.randn(3, 5, 4, 4), torch.randn(3, 5)
    targets = make_targets(labels)
    output = Saying(dense, (dense,), presence=presence)
    plain = DenseCriterion([CrossEntropy()])(output, targets)
    answer = PresenceCriterion([CrossEntropy()], presence_weight=0.5)(output, targets)
    assert answer.keys() == {*plain, "presence"}
    assert all(torch.equal(answer[name], value) for name, value in plain.items())
    valid = labels != IGNORED
    assert torch.allclose(answer["presence"], 0.5 * presence_loss(presence, labels * valid, valid))
    assert PresenceCriterion([CrossEntropy()])(Saying(dense, (dense,)), targets).keys() == plain.keys()


def test_refusals(labels):
    with pytest.raises(ValueError, match="does not say which classes a picture shows"):
        PresenceCriterion([CrossEntropy()])(DenseOutput(torch.randn(3, 5, 4, 4)), make_targets(labels))
    with pytest.raises(ValueError, match="'presence' is taken"):
        PresenceCriterion([CrossEntropy(name="presence")])
