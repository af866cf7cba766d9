"""UNet beside segmentation_models_pytorch.Unet, beyond the rows of trimask.parity: gradients and left-over weights."""

import pytest
import torch

from trimask.convert import load_released
from trimask.parity.row import normalized
from trimask.parity.unet import ROWS


@pytest.fixture
def pair():
    (row,) = [row for row in ROWS if row.variant == "resnet18"]
    ours, theirs = row.pair()
    return ours, theirs


def test_gradients_equal_smp(pair) -> None:
    ours, theirs = (network.double().train() for network in pair)
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    theirs(normalized(ours, images)).square().sum().backward()
    ours(images).logits.square().sum().backward()
    block = theirs.decoder.blocks[1].conv1[0].weight
    assert torch.allclose(ours.decoder[1].up.weight.grad, block.grad, rtol=1e-7)
    assert torch.allclose(ours.backbone.body.conv1.weight.grad, theirs.encoder.conv1.weight.grad, rtol=1e-6)


def test_left_over_weights_are_refused(pair) -> None:
    ours, theirs = pair
    weights = theirs.state_dict()
    weights["stranger"] = weights.pop("segmentation_head.0.bias")
    with pytest.raises(ValueError, match=r"missing segmentation_head.0.bias; left over stranger"):
        load_released(ours, weights, "smp")
    with pytest.raises(ValueError, match=r"UNet has no rename table for 'keras'; it has one for: smp, smp_timm"):
        load_released(ours, weights, "keras")
