"""FCN: strides, the auxiliary head, and what it refuses."""

import pytest
import torch

from trimask.networks.fcn import FCN

IMAGES = torch.zeros(2, 3, 64, 96, dtype=torch.uint8)


@pytest.mark.parametrize(("output_stride", "size"), [(8, (8, 12)), (None, (2, 3))])
def test_logits_have_the_output_stride(output_stride: int | None, size: tuple[int, int]) -> None:
    network = FCN(3, backbone="test_resnet", pretrained=False, output_stride=output_stride)
    output = network(IMAGES)
    assert output.logits.shape == (2, 3, *size)
    assert [len(network(IMAGES).aux), len(network.eval()(IMAGES).aux)] == [1, 0]


def test_without_an_auxiliary_head() -> None:
    assert FCN(3, backbone="test_resnet", pretrained=False, aux_channels=None)(IMAGES).aux == ()


def test_refusals() -> None:
    with pytest.raises(ValueError, match="at least one convolution; got num_convs=0"):
        FCN(3, backbone="test_resnet", pretrained=False, num_convs=0)
