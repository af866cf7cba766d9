"""SegFormer beyond the rows of trimask.parity: the merged head beside the plain one, its widths and its initialization."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from trimask.networks import untrained
from trimask.networks.segformer import SegFormer, SegFormerHead
from trimask.parity.row import randomize

WIDTHS, CHANNELS = (4, 6, 8, 10), 12


def head_and_maps(level_norm, size=(13, 18)):
    torch.manual_seed(0)
    head = SegFormerHead(WIDTHS, 3, channels=CHANNELS, level_norm=level_norm, dropout=0.0)
    randomize(head).double()
    sizes = [(-(-size[0] // 2**level), -(-size[1] // 2**level)) for level in range(4)]
    return head, [torch.randn(2, width, *size).double() for width, size in zip(WIDTHS, sizes, strict=True)]


def plainly(head, maps):
    """As the paper has it: project each level, upsample, join, fuse."""
    upsampled = []
    for level, x in zip(head.levels, maps, strict=True):
        x = F.conv2d(x, level.linear.weight[:, :, None, None], level.linear.bias)
        if level.norm is not None:
            x = F.relu(level.norm(x))
        upsampled.append(F.interpolate(x, maps[0].shape[-2:], mode="bilinear", align_corners=False))
    return head.classify(F.relu(head.norm(head.fuse(torch.cat(upsampled[::-1], dim=1)))))


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("level_norm", [False, True])
def test_the_merged_head_is_the_plain_one(level_norm, training):
    head, maps = head_and_maps(level_norm)
    head.train(training)
    inputs = [*head.parameters(), *(x.requires_grad_() for x in maps)]
    upstream = torch.randn(2, 3, 13, 18).double()
    ours, theirs = head(maps), plainly(head, maps)
    assert (ours - theirs).abs().max() < 1e-12
    assert ours.std() > 0.02
    for one, other in zip(*(torch.autograd.grad(x, inputs, upstream) for x in (ours, theirs)), strict=True):
        assert torch.allclose(one, other, rtol=1e-8, atol=1e-10)


def test_in_fp32_they_differ_by_rounding_alone():
    head, maps = head_and_maps(level_norm=False)
    head, maps = head.float().eval(), [x.float() for x in maps]
    assert (head(maps) - plainly(head, maps)).abs().max() < 1e-6


@pytest.mark.parametrize(
    ("arguments", "width"),
    [
        ({"backbone": "mit_b1"}, 256),
        ({"backbone": "mit_b2"}, 768),
        ({"backbone": "mit_b2", "decoder_channels": 256}, 256),
    ],
)
def test_width_of_the_decoder(arguments, width):
    with torch.device("meta"):
        network = untrained(SegFormer, {"num_classes": 3, **arguments})
    assert network.head.fuse.weight.shape == (width, 4 * width, 1, 1)


def test_logits_have_a_quarter_of_the_size_rounded_up():
    network = untrained(SegFormer, {"num_classes": 3, **SegFormer.tiny}).eval()
    with torch.inference_mode():
        output = network(torch.zeros(1, 3, 65, 98, dtype=torch.uint8))
    assert output.logits.shape == (1, 3, 17, 25)
    assert not output.align_corners


def test_initialization_is_the_one_of_the_reference():
    official, other = (SegFormerHead(WIDTHS, 50, channels=512, level_norm=norm, dropout=0.1) for norm in (False, True))
    assert official.fuse.weight.std().item() == pytest.approx((2 / 512) ** 0.5, rel=0.02)
    assert official.classify.weight.abs().max() <= 512**-0.5  # torch's own
    assert official.classify.weight.std() > 0.02
    assert other.classify.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert other.levels[3].linear.weight.std().item() == pytest.approx((2 / 512) ** 0.5, rel=0.05)


def test_whole_channels_are_dropped():
    head, maps = head_and_maps(level_norm=False)
    assert isinstance(head.dropout, nn.Dropout2d)
    head.dropout.p = 1.0
    constant = head.train()(maps)  # nothing is left but the bias
    assert torch.equal(constant, head.classify.bias[None, :, None, None].expand_as(constant))
