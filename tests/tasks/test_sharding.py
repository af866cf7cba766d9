"""Sharding on one process, where arithmetic and calls are those of many; tests/end_to_end/test_sharding.py has two."""

from copy import deepcopy

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from trimask.layers.backbone import Backbone
from trimask.networks import all_networks, untrained
from trimask.networks.segformer import SegFormer
from trimask.networks.segmenter import Segmenter
from trimask.parity.row import logits_of, randomize
from trimask.tasks.sharding import gather_weights, release_weights, shard, sharding_units, share_like, shares, whole

CPU = torch.device("cpu")


@pytest.fixture
def one_process(tmp_path):
    dist.init_process_group("gloo", store=dist.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def tiny(kind):
    torch.manual_seed(0)
    return randomize(untrained(kind, {"num_classes": 3, **getattr(kind, "tiny", {"backbone": "test_resnet"})}))


def test_units_are_the_blocks_of_transformers_and_convnext():
    segmenter, segformer = tiny(Segmenter), tiny(SegFormer)
    assert sharding_units(segmenter) == list(segmenter.backbone.body.blocks)
    assert len(sharding_units(segformer)) == sum(len(stage.blocks) for stage in segformer.backbone.stages) > 4
    assert {type(unit).__name__ for unit in sharding_units(Backbone("test_convnext", pretrained=False))} == {
        "ConvNeXtBlock"
    }
    assert sharding_units(Backbone("test_resnet", pretrained=False)) == []


@pytest.mark.slow
def test_units_are_the_blocks_of_swin():
    swin = Backbone("swin_tiny_patch4_window7_224", pretrained=False)
    assert [type(unit).__name__ for unit in sharding_units(swin)] == ["PaddedBlock"] * 12


def test_a_unit_that_two_name_comes_once():
    class Owner(nn.Module):
        def __init__(self, unit):
            super().__init__()
            self.unit = unit

        def sharding_units(self):
            return [self.unit]

    unit = nn.Linear(2, 2)
    assert sharding_units(nn.Sequential(Owner(unit), Owner(unit))) == [unit]


def test_what_is_not_sharded_stays_as_it_is():
    layer = nn.Linear(2, 2)
    gather_weights(layer)
    release_weights(layer)
    state = layer.state_dict()
    assert shares(state, layer) == state
    assert whole({"a": [1, None, layer.weight]}) == {"a": [1, None, layer.weight]}


def test_weights_are_gathered_cut_and_loaded(one_process):
    network = tiny(Segmenter)
    state = {name: value.clone() for name, value in network.state_dict().items()}
    shard(network, CPU)
    assert all(isinstance(unit, FSDPModule) for unit in [network, *sharding_units(network)])
    assert all(isinstance(weight, DTensor) for weight in network.parameters())
    found = whole(network.state_dict())
    assert all(type(value) is torch.Tensor and torch.equal(value, state[name]) for name, value in found.items())

    doubled = {name: value * 2 for name, value in state.items()}
    network.load_state_dict(shares(doubled, network))
    assert all(torch.equal(value, doubled[name]) for name, value in whole(network.state_dict()).items())
    weight = next(network.parameters())
    assert share_like(torch.tensor(3), weight) == 3

    with torch.inference_mode():  # as in evaluation
        gather_weights(network)
        assert not any(isinstance(weight, DTensor) for weight in network.parameters())
        network.eval()(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))
        assert not any(isinstance(weight, DTensor) for weight in network.parameters())
    release_weights(network)
    assert all(isinstance(weight, DTensor) for weight in network.parameters())
    release_weights(network)


def test_channels_innermost_are_refused(one_process):
    layer = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    with pytest.raises(ValueError, match=r"set model\.channels_last to false"):
        shard(layer, CPU)


@pytest.mark.slow
@pytest.mark.parametrize("kind", all_networks(), ids=lambda kind: kind.__name__)
def test_a_sharded_network_computes_and_learns_the_same(kind, one_process):
    """A part that is used in another way than by calling it would find its weights cut."""
    plain = tiny(kind).train()
    sharded = deepcopy(plain)
    if any(weight.ndim == 0 for weight in plain.parameters()):
        with pytest.raises(ValueError, match="is a single number"):
            shard(sharded, CPU)
        return
    shard(sharded, CPU)
    images = torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    gradients = []
    for network in (plain, sharded):
        torch.manual_seed(0)
        logits = logits_of(network(images))
        sum((one * torch.linspace(-1, 1, one.numel()).view_as(one)).sum() for one in logits).backward()
        gradients.append({name: whole(weight.grad) for name, weight in network.named_parameters()})
    expected, found = gradients
    assert expected.keys() == found.keys()
    for name, gradient in expected.items():
        assert torch.allclose(found[name], gradient, rtol=1e-4, atol=1e-5 * gradient.abs().max()), name
