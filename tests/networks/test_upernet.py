"""UPerNet: its head beside the plain way of computing it, norms of maps, and what it refuses."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from trimask.layers.map_norms import ChannelNorm
from trimask.networks.upernet import AS_SMP, UPerHead, UPerNet

IMAGES = torch.zeros(2, 3, 64, 96, dtype=torch.uint8)
SMALL = {"pretrained": False, "channels": 16, "aux_channels": 8}
SWIN = "swin_tiny_patch4_window7_224"


def plain_head(head: UPerHead, maps: list[torch.Tensor]) -> torch.Tensor:
    """With every map upsampled and joined before it is convolved, as the references have it."""

    def upsample(x, size):
        return F.interpolate(x, size, mode="bilinear", align_corners=head.align_corners)

    *finer, coarsest = maps
    size, pyramid = coarsest.shape[-2:], head.pyramid
    pooled = [
        upsample(branch(F.adaptive_avg_pool2d(coarsest, scale)), size)
        for scale, branch in zip(pyramid.scales, pyramid.branches, strict=True)
    ]
    levels = [lateral(x) for lateral, x in zip(head.laterals, finer, strict=True)]
    levels.append(pyramid.mix(torch.cat([coarsest, *pooled], dim=1)))
    for level in (2, 1, 0):
        levels[level] = levels[level] + upsample(levels[level + 1], levels[level].shape[-2:])
    smooth = [*(smooth(x) for smooth, x in zip(head.smooth, levels[:3], strict=True)), levels[3]]
    fused = head.fuse(torch.cat([upsample(x, levels[0].shape[-2:]) for x in smooth], dim=1))
    return head.classify(head.dropout(fused))


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("sizes", [[(16, 24), (8, 12), (4, 6), (2, 3)], [(17, 9), (9, 5), (5, 3), (3, 2)]])
def test_head_and_its_gradients_are_those_of_the_plain_way(sizes, align_corners) -> None:
    torch.manual_seed(0)
    widths = (3, 4, 5, 6)
    head = UPerHead(widths, 7, channels=8, scales=(1, 2, 3, 6), dropout=0.0, align_corners=align_corners).double()
    maps = [torch.randn(2, width, *size, dtype=torch.double) for width, size in zip(widths, sizes, strict=True)]
    answers, gradients = [], []
    for function in (head, lambda maps: plain_head(head, maps)):
        leaves = [x.clone().requires_grad_() for x in maps]
        answers.append(function(leaves))
        inputs = [*leaves, *head.parameters()]
        gradients.append(torch.autograd.grad(answers[-1].square().sum(), inputs))
    assert torch.allclose(*answers, atol=1e-12)
    assert all(torch.allclose(ours, theirs, atol=1e-10) for ours, theirs in zip(*gradients, strict=True))


def test_logits_have_stride_4() -> None:
    network = UPerNet(3, backbone="test_resnet", **SMALL)
    assert network(IMAGES).logits.shape == (2, 3, 16, 24)
    assert network(IMAGES).aux[0].shape == (2, 3, 4, 6)
    assert network.eval()(IMAGES).aux == ()


@pytest.mark.parametrize(("backbone", "published"), [("test_resnet", None), ("convnext_atto", 1e-6), (SWIN, 1e-5)])
def test_norms_of_maps(backbone, published) -> None:
    with torch.device("meta"):
        network = UPerNet(3, backbone=backbone, **SMALL)
    assert (network.norms and {norm.eps for norm in network.norms}) == (None if published is None else {published})
    assert network.backbone.channels[-4:] == [head.conv.in_channels for head in network.head.laterals] + [
        network.backbone.channels[-1]
    ]


def test_norm_of_a_map_is_over_channels() -> None:
    x = torch.randn(2, 5, 3, 4)
    norm = ChannelNorm(5, eps=1e-6)
    expected = (x - x.mean(1, keepdim=True)) / (x.var(1, keepdim=True, correction=0) + 1e-6).sqrt()
    assert torch.allclose(norm(x), expected, atol=1e-5)


def test_norms_can_be_chosen() -> None:
    assert UPerNet(3, backbone="test_convnext", map_norm=None, **SMALL).norms is None
    assert len(UPerNet(3, backbone="test_resnet", **{**SMALL, **AS_SMP}).norms) == 4


def test_drop_path_reaches_the_backbone() -> None:
    rates = [
        [getattr(m, "drop_prob", 0) for m in UPerNet(3, backbone="test_convnext", drop_path=rate, **SMALL).modules()]
        for rate in (0.0, 0.3)
    ]
    assert [max(found) for found in rates] == [0, pytest.approx(0.3)]


@pytest.mark.slow
def test_swin_of_any_size() -> None:
    network = UPerNet(3, backbone=SWIN, **SMALL).eval()
    with torch.inference_mode():
        for size in ((65, 97), (33, 64)):
            logits = network(torch.zeros(1, 3, *size, dtype=torch.uint8)).logits
            assert logits.shape[-2:] == tuple(-(-side // 4) for side in size)


def test_refusals() -> None:
    with pytest.raises(ValueError, match="at least two pictures a training batch"):
        UPerNet(3, backbone="test_resnet", **SMALL)(IMAGES[:1])


def test_initialization() -> None:
    head = UPerNet(3, backbone="test_resnet", pretrained=False, channels=128).head
    assert head.fuse.conv.weight.std().item() == pytest.approx((2 / (128 * 9)) ** 0.5, rel=0.05)
    assert head.classify.weight.std().item() == pytest.approx(0.01, rel=0.2)
    assert not any(isinstance(m, nn.Conv2d) and m.bias is not None for m in head.modules() if m is not head.classify)
