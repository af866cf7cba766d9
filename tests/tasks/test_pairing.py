"""A criterion that scores something else than the network answers is refused; where nothing is said, nothing is refused."""

import pytest
import torch
from torch import nn

from trimask.losses import DenseCriterion, Dice, RegionCriterion
from trimask.networks.mask_rcnn import MaskRCNN
from trimask.outputs import DenseOutput, QueryOutput
from trimask.tasks import SemanticModule
from trimask.tasks.pairing import require_scored
from trimask.types import ClassSpec


class Encoded(DenseOutput):
    """A kind of output of one's own."""


class Dense(nn.Module):
    def forward(self, images: torch.Tensor) -> Encoded: ...


class Query(nn.Module):
    def forward(self, images: torch.Tensor) -> QueryOutput: ...


class Silent(nn.Module):
    def forward(self, images): ...


class Unresolved(nn.Module):
    def forward(self, images) -> "OnlyForTypeCheckers": ...  # noqa: F821


class LastAlone(nn.Module):
    def forward(self, output, targets: list) -> dict: ...


@pytest.mark.parametrize("network", [Dense(), Silent(), Unresolved()])
@pytest.mark.parametrize(
    "criterion", [DenseCriterion([Dice()]), Silent(), LastAlone(), nn.Identity(), lambda output, targets: {}]
)
def test_what_fits_or_says_nothing(network, criterion):
    require_scored(network, criterion)


def test_one_of_several_answers_is_scored():
    require_scored(MaskRCNN.__new__(MaskRCNN), RegionCriterion())


@pytest.mark.parametrize(
    ("criterion", "message"),
    [
        (DenseCriterion([Dice()]), "DenseCriterion scores DenseOutput; Query answers QueryOutput"),
        (nn.CrossEntropyLoss(), "CrossEntropyLoss scores Tensor; Query answers QueryOutput"),
        (Dice(), "`criterion` is Dice, which has no forward.*`terms` of trimask.losses.DenseCriterion"),
    ],
)
def test_what_does_not_fit(criterion, message):
    with pytest.raises(ValueError, match=message):
        require_scored(Query(), criterion)


def test_a_network_that_does_not_say_what_it_answers():
    with pytest.raises(ValueError, match="Silent does not say with a class attribute `output`"):
        SemanticModule(ClassSpec(["a", "b"]), lambda num_classes: Silent(), DenseCriterion([Dice()]))
