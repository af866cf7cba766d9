"""Semantic FPN: its pyramid step by step, the published variants, and what it refuses."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from trimask.layers.fpn_neck import FPNNeck
from trimask.networks.fpn import FPN

IMAGES = torch.zeros(2, 3, 64, 96, dtype=torch.uint8)


def build(**options) -> FPN:
    return FPN(3, backbone="test_resnet", pretrained=False, **options)


def test_logits_have_stride_4_and_no_auxiliary_head() -> None:
    output = build()(IMAGES)
    assert output.logits.shape == (2, 3, 16, 24)
    assert output.aux == ()


def test_a_coarser_level_goes_through_more_convolutions() -> None:
    levels = build().head.levels
    assert [sum(isinstance(m, nn.Conv2d) for m in level.modules()) for level in levels] == [1, 1, 2, 3]
    assert [sum(isinstance(m, nn.Upsample) for m in level.modules()) for level in levels] == [0, 1, 2, 3]


def test_pyramid_adds_from_above() -> None:
    torch.manual_seed(0)
    pyramid = FPNNeck([2, 3, 4], 5, smooth=False).double()
    maps = [torch.randn(1, width, *size, dtype=torch.double) for width, size in ((2, (9, 7)), (3, (5, 4)), (4, (3, 2)))]
    fine, middle, coarse = pyramid(maps)
    assert torch.equal(coarse, pyramid.laterals[2](maps[2]))
    assert torch.allclose(middle, pyramid.laterals[1](maps[1]) + F.interpolate(coarse, (5, 4)))
    assert torch.allclose(fine, pyramid.laterals[0](maps[0]) + F.interpolate(middle, (9, 7)))


def test_variants() -> None:
    as_smp = build(norm="group", smooth=False, align_corners=True)
    kinds = {type(module) for module in as_smp.head.modules()}
    assert nn.GroupNorm in kinds
    assert nn.BatchNorm2d not in kinds
    assert as_smp.pyramid.smooth is None
    assert as_smp(IMAGES).align_corners
    assert not build()(IMAGES).align_corners


def test_refusals() -> None:
    with pytest.raises(ValueError, match="multiple of 32 channels; got 48"):
        build(norm="group", channels=48)
