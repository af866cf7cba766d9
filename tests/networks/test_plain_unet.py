"""PlainUNet: any picture size, upsampling behind the convolution, and refusals."""

import pytest
import torch
from torch.nn import functional as F

from trimask.networks.plain_unet import DecoderBlock, PlainUNet


@pytest.mark.parametrize(("size", "half"), [((65, 97), (33, 49)), ((32, 48), (16, 24)), ((3, 1), (2, 1))])
def test_logits_have_the_size_of_the_picture(size: tuple[int, int], half: tuple[int, int]) -> None:
    network = PlainUNet(2, **PlainUNet.tiny)
    images = torch.zeros(2, 3, *size, dtype=torch.uint8)
    assert network.eval()(images).logits.shape == (2, 2, *size)
    if min(size) > 16:  # batch norms learn from several cells
        [aux] = network.train()(images).aux
        assert aux.shape == (2, 2, *half)


def test_upsampling_behind_the_convolution_equals_the_plain_way() -> None:
    block = DecoderBlock(6, 4).double()  # in training mode: normalized by the statistics of the upsampled map
    x, skip = torch.randn(2, 6, 3, 5).double(), torch.randn(2, 4, 6, 9).double()
    upsampled = F.interpolate(x, (6, 9), mode="bilinear", align_corners=False)
    expected = block.convs(torch.cat([skip, block.up(upsampled)], dim=1))
    assert torch.allclose(block(x, skip), expected, rtol=0, atol=1e-12)


def test_without_auxiliary_head() -> None:
    network = PlainUNet(2, widths=(4, 8), aux_channels=None).train()
    assert network(torch.zeros(2, 3, 8, 8)).aux == ()


def test_refuses_a_single_stage() -> None:
    with pytest.raises(ValueError, match=r"at least two stages; got widths=\(64,\)"):
        PlainUNet(2, widths=(64,))
