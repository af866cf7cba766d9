"""LinearHead: strides, what learns and what does not, weights of DINOv2, and what it refuses."""

import pytest
import torch

from trimask.convert import load_released
from trimask.networks import untrained
from trimask.networks.linear import LinearHead
from trimask.optim.groups import ParameterGroups
from trimask.weights import source_names

IMAGES = torch.zeros(2, 3, 64, 96, dtype=torch.uint8)


def build(**options: object) -> LinearHead:
    return untrained(LinearHead, {"num_classes": 3, "backbone": "test_vit", **options})


def test_logits_have_the_stride_of_the_patch() -> None:
    assert build()(IMAGES).logits.shape == (2, 3, 4, 6)
    assert build(num_layers=4).classify.weight.shape == (3, 4 * 64, 1, 1)


def test_a_frozen_backbone_leaves_the_head_to_learn() -> None:
    network = build().train()
    assert {name for name, p in network.named_parameters() if p.requires_grad} == {
        "norm.weight",
        "norm.bias",
        "classify.weight",
        "classify.bias",
    }
    assert not network.backbone.body.training
    before = {name: value.clone() for name, value in network.backbone.state_dict().items()}
    optimizer = torch.optim.SGD([group["params"][0] for group in ParameterGroups().build(network)], lr=1.0)
    network(IMAGES).logits.square().sum().backward()
    optimizer.step()
    assert network.classify.weight.grad.abs().sum() > 0
    assert all(torch.equal(value, before[name]) for name, value in network.backbone.state_dict().items())


def test_features_are_not_kept_for_gradients() -> None:
    network = build().train()
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x.numel()) or x, lambda x: x):
        network(IMAGES)
    assert sum(saved) < 20 * 2 * 64 * 24  # a few maps of the head, not those of six blocks


def test_names_of_dinov2() -> None:
    network = build(frozen_backbone=False)
    names = source_names(network.state_dict(), LinearHead.RENAMES["dinov2"])
    weights = {theirs: torch.full_like(network.state_dict()[ours], 0.5) for ours, theirs in names.items()}
    assert {"backbone.blocks.0.attn.qkv.weight", "backbone.pos_embed", "decode_head.bn.running_var"} <= set(weights)
    load_released(network, {**weights, "backbone.mask_token": torch.zeros(1, 64)}, "dinov2")
    assert network.classify.weight.eq(0.5).all()
    with pytest.raises(ValueError, match=r"left over backbone\.extra"):
        load_released(network, {**weights, "backbone.extra": torch.zeros(1)}, "dinov2")


def test_refusals() -> None:
    with pytest.raises(ValueError, match="at least one layer of the backbone; got num_layers=0"):
        build(num_layers=0)
    with pytest.raises(ValueError, match="not a plain vision transformer"):
        build(backbone="test_resnet")
