"""FCN: strides, the auxiliary head, and what it refuses."""

import pytest
import torch

from trimask.convert import load_released
from trimask.networks.fcn import FCN
from trimask.weights import source_names

IMAGES = torch.zeros(2, 3, 64, 96, dtype=torch.uint8)


@pytest.mark.parametrize(("output_stride", "size"), [(8, (8, 12)), (None, (2, 3))])
def test_logits_have_the_output_stride(output_stride: int | None, size: tuple[int, int]) -> None:
    network = FCN(3, backbone="test_resnet", pretrained=False, output_stride=output_stride)
    output = network(IMAGES)
    assert output.logits.shape == (2, 3, *size)
    assert [len(network(IMAGES).aux), len(network.eval()(IMAGES).aux)] == [1, 0]


def test_without_an_auxiliary_head() -> None:
    assert FCN(3, backbone="test_resnet", pretrained=False, aux_channels=None)(IMAGES).aux == ()


def test_weights_of_mmsegmentation_on_a_plain_resnet() -> None:
    """Those of torchvision's ResNets ("r50b") have a stem of one convolution, whose names stay as they are."""
    first, second = (FCN(3, backbone="test_resnet", pretrained=False) for _ in range(2))
    names = source_names(first.state_dict(), FCN.RENAMES["mmseg"])
    theirs = {name.replace("stem.7", "bn1"): first.state_dict()[ours] for ours, name in names.items()}
    assert "backbone.bn1.weight" in theirs
    assert load_released(second, theirs) == "mmseg"
    images = torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8)
    assert torch.equal(second.eval()(images).logits, first.eval()(images).logits)


def test_refusals() -> None:
    with pytest.raises(ValueError, match="at least one convolution; got num_convs=0"):
        FCN(3, backbone="test_resnet", pretrained=False, num_convs=0)
