"""SegNet beside its second writing in trimask.parity.segnet: gradients, unpooling on odd maps, the number of parameters."""

import pytest
import torch
from torch.nn import functional as F

from trimask.networks import untrained
from trimask.networks.segnet import SegNet
from trimask.parity.row import normalized, picture
from trimask.parity.segnet import ROWS, pool, unpool


@pytest.mark.slow
def test_gradients_equal_those_of_the_second_writing():
    ours, theirs = (network.double().train() for network in ROWS[0].pair())
    images = torch.cat([picture((45, 60)), picture((45, 60)).flip(3)])
    upstream = torch.randn(2, 11, 45, 60, dtype=torch.float64)
    ours(images).logits.backward(upstream)
    theirs(normalized(ours, images)).backward(upstream)
    pairs = {
        "the first convolution": (ours.backbone.body.features_0, theirs.features["0"]),
        "the last of the encoder": (ours.backbone.body.features_40, theirs.features["40"]),
        "the first of the decoder": (ours.decoder[0][0], theirs.decoder["0"]["0"]),
        "the classifier": (ours.classify, theirs.classify),
    }
    for place, (one, other) in pairs.items():
        assert torch.allclose(one.weight.grad, other.weight.grad, rtol=1e-7, atol=1e-12), place
        assert one.weight.grad.abs().max() > 1e-6, place


@pytest.mark.parametrize("size", [(8, 8), (7, 5), (1, 3)])
def test_the_second_writing_pools_and_unpools_as_torch(size):
    x = torch.randn(2, 3, *size)
    expected, indices = F.max_pool2d(x, 2, ceil_mode=True, return_indices=True)
    pooled, rows, columns = pool(x)
    assert torch.equal(pooled, expected)
    assert torch.equal(rows * size[1] + columns, indices)
    assert torch.equal(
        unpool(pooled, x.shape, rows, columns), F.max_unpool2d(pooled, indices, [2, 2], output_size=size)
    )


def test_parameters_of_the_paper():
    with torch.device("meta"):
        network = untrained(SegNet, {"num_classes": 11})
    # 29.5 M in the paper, rounded from 29.45
    assert sum(parameter.numel() for parameter in network.parameters()) == 29_449_355


@pytest.mark.parametrize(("backbone", "depths"), [("vgg11_bn", [2, 2, 2, 1, 0]), ("vgg13_bn", [2, 2, 2, 2, 1])])
def test_the_decoder_mirrors_the_encoder(backbone, depths):
    with torch.device("meta"):
        network = untrained(SegNet, {"num_classes": 2, "backbone": backbone})
    assert [len(block) // 3 for block in network.decoder] == depths


def test_values_come_back_where_they_were():
    """A decoder that changes nothing leaves, of a picture of two peaks, the peaks at their places."""
    network = untrained(SegNet, {"num_classes": 1, "backbone": "vgg11_bn"}).eval()
    identity = torch.zeros(3, 3)
    identity[1, 1] = 1.0
    with torch.no_grad():
        network.backbone.mean.zero_()
        network.backbone.std.fill_(1.0)
        layers = [*network.backbone.body.children(), *network.decoder.modules(), network.classify]
        for layer in layers:
            if isinstance(layer, torch.nn.Conv2d):
                layer.weight.zero_()
                layer.weight[0, 0] = identity
                layer.bias.zero_()
            elif isinstance(layer, torch.nn.BatchNorm2d):
                layer.eps = 0.0
                layer.bias.zero_()
    images = torch.zeros(1, 3, 40, 70)
    images[0, 0, 3, 5], images[0, 0, 39, 69] = 100.0, 50.0
    with torch.inference_mode():
        assert torch.equal(network(images).logits, images[:, :1])


@pytest.mark.parametrize("backbone", ["vgg16", "resnet18"])
def test_other_backbones_are_refused(backbone):
    with pytest.raises(
        ValueError, match=f"SegNet mirrors a VGG with batch norms, such as 'vgg16_bn'; got '{backbone}'"
    ):
        SegNet(2, backbone=backbone, pretrained=False)
