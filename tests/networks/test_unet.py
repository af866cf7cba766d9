"""UNet: which backbones it takes, and the folded upsampling against the plain way."""

import pytest
import torch
from torch.nn import functional as F

from trimask.networks import unet
from trimask.networks.unet import UNet, UpsampleConv


@pytest.mark.parametrize("pixels", [0, 10**9])  # from which on it folds
@pytest.mark.parametrize("skip_channels", [0, 3])
def test_folded_upsampling_equals_the_plain_way(
    skip_channels: int, pixels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unet, "FEW_PIXELS", pixels)
    layer = UpsampleConv(5, skip_channels, 4).double()
    torch.nn.init.normal_(layer.weight)
    x = torch.randn(2, 5, 3, 4, dtype=torch.float64)
    skip = torch.randn(2, skip_channels, 6, 8, dtype=torch.float64) if skip_channels else None
    plain = F.interpolate(x, scale_factor=2)
    plain = plain if skip is None else torch.cat([plain, skip], dim=1)
    assert torch.allclose(layer(x, skip), F.conv2d(plain, layer.weight, padding=1), atol=1e-12)


@pytest.mark.parametrize("backbone", ["test_convnext", "vgg11"])  # begin at the strides 4 and 1
def test_logits_have_the_size_of_the_picture(backbone: str) -> None:
    network = UNet(2, backbone=backbone, pretrained=False).eval()
    with torch.inference_mode():
        assert network(torch.zeros(1, 3, 65, 97, dtype=torch.uint8)).logits.shape == (1, 2, 65, 97)


def test_refusals() -> None:
    with pytest.raises(ValueError, match="4 decoder_channels for 'test_resnet', which halves the size 5 times; give 5"):
        UNet(2, backbone="test_resnet", pretrained=False, decoder_channels=(64, 32, 16, 8))
    with pytest.raises(ValueError, match="levels halve the size; this one has strides"):
        UNet(2, backbone="test_vit", pretrained=False)
