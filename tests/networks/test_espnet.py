"""ESPNet beside its second writing in trimask.parity.espnet: gradients, and its authors' released weights."""

import os
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from trimask.convert import load_released, read_released
from trimask.networks.espnet import ESPNet
from trimask.parity.espnet import ROWS, LiteralESPNet, answer, convolved, doubled, halved
from trimask.parity.row import normalized, picture

WEIGHTS = Path(os.environ.get("TRIMASK_WEIGHTS", "no such folder"), "espnet_p_2_q_8_camvid.pth")
INPUT = {"mean": [105.033, 108.409, 110.331], "std": [17825.52, 18536.205, 18392.13], "bgr": True}


@pytest.mark.skipif(not WEIGHTS.is_file(), reason="TRIMASK_WEIGHTS does not name a folder with ESPNet's weights")
def test_both_take_the_released_weights_and_answer_the_same():
    released = read_released(WEIGHTS).weights
    assert len(released) == 189
    ours, theirs = ESPNet(12, **INPUT).eval(), LiteralESPNet(12).eval()
    assert load_released(ours, released) == "espnet"
    theirs.load_state_dict(released)
    images = picture((45, 70))
    with torch.inference_mode():
        logits = ours(images).logits
        [expected] = answer(theirs, normalized(ours, images))
    assert (logits - expected).abs().max() < 1e-4
    assert expected.std() > 0.1


@pytest.mark.slow
def test_gradients_equal_those_of_the_second_writing():
    ours, theirs = (network.double() for network in ROWS[1].pair())
    images = picture((24, 30))
    upstream = torch.randn(1, 20, 24, 30, dtype=torch.float64)
    ours(images).logits.backward(upstream)
    [logits] = answer(theirs, normalized(ours, images))
    logits.backward(upstream)
    theirs_by_name = dict(theirs.named_parameters())
    pairs = {
        "level1.conv.weight": "encoder.level1.conv.weight",
        "down2.branches.4.weight": "encoder.level2_0.d16.conv.weight",
        "pyramids3.2.norm.act.weight": "encoder.level3.2.bn.act.weight",
        "up1.weight": "classifier.weight",
    }
    for one, other in pairs.items():
        gradient = ours.get_parameter(one).grad
        assert torch.allclose(gradient, theirs_by_name[other].grad, rtol=1e-7, atol=1e-12), one
        assert gradient.abs().max() > 1e-6, one


def test_the_second_writing_convolves_pools_and_doubles_as_torch():
    x, weight = torch.randn(2, 3, 12, 16), torch.randn(4, 3, 3, 3)
    for settings in ({"stride": 2, "dilation": 1}, {"stride": 1, "dilation": 4}):
        padding = settings["dilation"]
        expected = F.conv2d(x, weight, padding=padding, **settings)
        assert torch.allclose(convolved(x, weight, **settings), expected, atol=1e-5)
    assert torch.allclose(halved(x), F.avg_pool2d(x, 3, stride=2, padding=1), atol=1e-6)
    weight = torch.randn(3, 5, 2, 2)
    assert torch.allclose(doubled(x, weight), F.conv_transpose2d(x, weight, stride=2), atol=1e-5)
