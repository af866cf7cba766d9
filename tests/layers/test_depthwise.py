"""Depthwise convolutions under CPU autocast: fp32 results, same parameters, same names, survive copying and pickling."""

import copy
import pickle

import torch

from trimask.layers.backbone import Backbone
from trimask.layers.depthwise import DepthwiseConv2dSame, keep_depthwise_in_fp32


def test_only_depthwise_convolutions_run_in_fp32():
    network = torch.nn.Sequential(torch.nn.Conv2d(4, 8, 1), torch.nn.Conv2d(8, 8, 3, groups=8))
    names = list(network.state_dict())
    keep_depthwise_in_fp32(network)
    assert list(network.state_dict()) == names
    x = torch.randn(1, 4, 9, 9)
    with torch.autocast("cpu", torch.bfloat16):
        middle = network[0](x)
        assert middle.dtype == torch.bfloat16
        assert network[1](middle).dtype == torch.float32
    plain = torch.nn.functional.conv2d(middle.float(), network[1].weight, network[1].bias, groups=8)
    assert torch.equal(network[1](middle.float()), plain)


def test_backbones_have_them_and_can_be_copied_and_pickled():
    backbone = Backbone("tf_efficientnet_lite0", pretrained=False)
    assert any(isinstance(module, DepthwiseConv2dSame) for module in backbone.modules())
    for twin in (copy.deepcopy(backbone), pickle.loads(pickle.dumps(backbone))):
        assert twin.state_dict().keys() == backbone.state_dict().keys()
