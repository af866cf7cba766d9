"""The pyramid is torchvision's: with its pooled level, with its P6 and P7, with norms, at odd sizes."""

import pytest
import torch
from torch import nn
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool, LastLevelP6P7

from trimask.layers.fpn_neck import FPNNeck

IN_CHANNELS = [4, 6, 8]


def maps():
    generator = torch.Generator().manual_seed(0)
    sizes = [(17, 22), (9, 11), (5, 6)]
    return [torch.randn(2, width, *size, generator=generator) for width, size in zip(IN_CHANNELS, sizes, strict=True)]


@pytest.mark.parametrize("norm", [None, nn.BatchNorm2d])
@pytest.mark.parametrize(
    ("settings", "blocks"),
    [
        ({}, None),
        ({"num_extra": 1}, LastLevelMaxPool()),
        ({"num_extra": 2, "extra": "convs"}, LastLevelP6P7(8, 8)),
    ],
    ids=["plain", "pool", "convs"],
)
def test_equal_to_torchvision(settings, blocks, norm):
    theirs = FeaturePyramidNetwork(IN_CHANNELS, 8, extra_blocks=blocks, norm_layer=norm)
    if blocks is not None and settings.get("extra"):
        blocks.use_P5 = True
    ours = FPNNeck(IN_CHANNELS, 8, norm=norm, **settings)
    # both are made of laterals, 3x3 convolutions and extra ones, in this order
    ours.load_state_dict(dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True)))
    expected = list(theirs({str(i): x for i, x in enumerate(maps())}).values())
    found = ours(maps())
    assert len(found) == ours.num_levels
    for x, y in zip(found, expected, strict=True):
        assert torch.equal(x, y)


def test_without_smoothing_levels_are_sums():
    neck = FPNNeck(IN_CHANNELS, 8, smooth=False)
    coarse = neck.laterals[2](maps()[2])
    assert torch.equal(neck(maps())[2], coarse)
