import pytest
import timm
import torch
from timm.optim import param_groups_layer_decay
from torch import nn

from trimask.layers.plain_vit import PlainViT
from trimask.optim.groups import ParameterGroups, build_optimizer


class Backbone(nn.Module):
    """As in layers/backbone.py: timm's model is at `body`."""

    def __init__(self, name, **options):
        super().__init__()
        self.body = timm.create_model(name, features_only=True, **options)


class Network(nn.Module):
    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone
        self.head = nn.Sequential(nn.Conv2d(4, 8, 3, bias=False), nn.BatchNorm2d(8), nn.Conv2d(8, 3, 1))
        self.query = nn.Embedding(5, 8)
        self.plane_norm = nn.LayerNorm((8, 8))


class Small(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))


def adamw(groups):
    return torch.optim.AdamW(groups, lr=0.1, weight_decay=0.05)


def settings_of(network, optimizer):
    """{parameter name: (group, lr, weight decay)}; fails on a parameter in two groups."""
    found = {}
    names = {parameter: name for name, parameter in network.named_parameters()}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            assert names[parameter] not in found
            found[names[parameter]] = (group["name"], group["lr"], group["weight_decay"])
    return found


def test_equals_a_naive_assignment():
    network = Network(Small())
    groups = ParameterGroups(backbone_multiplier=0.1, head_multiplier=2.0)
    assert settings_of(network, build_optimizer(network, adamw, groups)) == {
        "backbone.0.weight": ("backbone", pytest.approx(0.01), 0.05),
        "backbone.0.bias": ("backbone_no_decay", pytest.approx(0.01), 0),
        "backbone.1.weight": ("backbone_no_decay", pytest.approx(0.01), 0),
        "backbone.1.bias": ("backbone_no_decay", pytest.approx(0.01), 0),
        "head.0.weight": ("head", 0.2, 0.05),
        "head.1.weight": ("head_no_decay", 0.2, 0),
        "head.1.bias": ("head_no_decay", 0.2, 0),
        "head.2.weight": ("head", 0.2, 0.05),
        "head.2.bias": ("head_no_decay", 0.2, 0),
        "query.weight": ("head_no_decay", 0.2, 0),
        "plane_norm.weight": ("head_no_decay", 0.2, 0),
        "plane_norm.bias": ("head_no_decay", 0.2, 0),
    }


def test_decay_all():
    network = Network(Small())
    found = settings_of(network, build_optimizer(network, adamw, ParameterGroups(decay_all=True)))
    assert len(found) == 12
    assert {(name, decay) for name, _, decay in found.values()} == {("backbone", 0.05), ("head", 0.05)}


def test_frozen_parameters_are_in_no_group_and_shared_ones_in_one():
    network = Network(Small())
    network.backbone.requires_grad_(False)
    network.twin = network.head[0]
    found = settings_of(network, build_optimizer(network, adamw, ParameterGroups()))
    assert not any(name.startswith("backbone") for name in found)
    assert "head.0.weight" in found
    assert not any(name.startswith("twin") for name in found)


@pytest.mark.parametrize(
    "name", ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "convnext_atto", "resnet18", "efficientnet_lite0"]
)
def test_layer_decay_and_undecayed_names_equal_those_of_timm(name):
    """The wrapped feature extractor must get what timm gives to the same parameter of the whole model."""
    whole = timm.create_model(name)
    whole_names = {parameter: key for key, parameter in whole.named_parameters()}
    skipped = whole.no_weight_decay() if hasattr(whole, "no_weight_decay") else ()
    expected = {}
    for group in param_groups_layer_decay(whole, 0.05, no_weight_decay_list=skipped, layer_decay=0.8):
        for parameter in group["params"]:
            expected[whole_names[parameter]] = (pytest.approx(0.1 * group["lr_scale"]), group["weight_decay"])
    network = Network(Backbone(name))
    found = settings_of(network, build_optimizer(network, adamw, ParameterGroups(layer_decay=0.8)))
    levels = ("stem", "stages", "layers")
    for key, (_, rate, decay) in found.items():
        if key.startswith("backbone."):
            original = key.removeprefix("backbone.body.").removeprefix("model.")
            for level in levels:
                original = original.replace(f"{level}_", f"{level}.") if original.startswith(f"{level}_") else original
            assert (rate, decay) == expected[original], key
    assert found["head.0.weight"][1] == 0.1


@pytest.mark.parametrize(("num_stage_layers", "first", "last"), [(6, 0.9**6, 0.9**3), (12, 0.9**12, 0.9**9)])
def test_stage_wise_decay_is_that_of_the_authors_of_convnext(num_stage_layers, first, last):
    """Their rate of a parameter is decay^(layers + 1 - layer): the stages are layers 1 to 4, downsampling 0, the rest of
    the network, norms of the maps among it, one more than there are layers."""
    network = Network(Backbone("convnext_atto"))
    groups = ParameterGroups(layer_decay=0.9, num_stage_layers=num_stage_layers)
    found = settings_of(network, build_optimizer(network, adamw, groups))
    outside = pytest.approx(0.1 * 0.9 ** (num_stage_layers + 1))
    assert found["backbone.body.stem_0.weight"] == ("backbone_0", outside, 0.05)
    assert found["backbone.body.stages_3.downsample.1.weight"] == ("backbone_0", outside, 0.05)
    assert found["backbone.body.stages_0.blocks.1.conv_dw.weight"] == ("backbone_1", pytest.approx(0.1 * first), 0.05)
    assert found["backbone.body.stages_3.blocks.0.gamma"] == ("backbone_4_no_decay", pytest.approx(0.1 * last), 0)
    assert found["backbone.body.stages_3.blocks.1.mlp.fc1.weight"] == ("backbone_4", pytest.approx(0.1 * last), 0.05)
    assert found["head.0.weight"] == ("head", 0.1, 0.05)


def test_rates_of_eomt_are_those_of_its_authors():
    """The last block and the norm learn at the full rate, the embeddings at that of the first block."""
    network = Network(PlainViT("vit_tiny_patch16_224", pretrained=False))
    groups = ParameterGroups(backbone_multiplier=1 / 0.8, layer_decay=0.8, first_layer=1, decay_all=True)
    found = settings_of(network, build_optimizer(network, adamw, groups))
    for name, power in (("norm.weight", 0), ("blocks.11.mlp.fc1.weight", 0), ("blocks.10.norm1.bias", 1)):
        assert found[f"backbone.body.{name}"][1:] == (pytest.approx(0.1 * 0.8**power), 0.05)
    for name in ("blocks.0.mlp.fc1.weight", "pos_embed", "patch_embed.proj.weight"):
        assert found[f"backbone.body.{name}"][1:] == (pytest.approx(0.1 * 0.8**11), 0.05)


def test_biases_outside_of_norms_may_decay():
    network = Network(Backbone("swin_tiny_patch4_window7_224"))
    found = settings_of(network, build_optimizer(network, adamw, ParameterGroups(decay_biases=True)))
    undecayed = {name for name, (_, _, decay) in found.items() if decay == 0}
    assert {"head.1.weight", "head.1.bias", "query.weight", "plane_norm.weight", "plane_norm.bias"} <= undecayed
    assert {"head.2.bias", "head.0.weight"}.isdisjoint(undecayed)
    apart = ("norm", ".relative_position_bias_table")
    in_backbone = {name for name in found if name.startswith("backbone.")}
    assert undecayed & in_backbone == {name for name in in_backbone if any(part in name for part in apart)}


def test_a_neck_learns_at_the_plain_rate():
    network = Network(Small())
    network.neck = nn.Linear(2, 2)
    groups = ParameterGroups(backbone_multiplier=0.1, head_multiplier=10.0)
    found = settings_of(network, build_optimizer(network, adamw, groups))
    assert found["neck.weight"] == ("neck", 0.1, 0.05)
    assert found["neck.bias"] == ("neck_no_decay", 0.1, 0)
    assert found["head.0.weight"] == ("head", 1.0, 0.05)


@pytest.mark.parametrize("layer_decay", [None, 0.9])
def test_norms_of_the_maps_learn_as_the_backbone_whose_part_they_are_elsewhere(layer_decay):
    """In detectron2 and mmsegmentation a Swin's `norm0` to `norm3` are its own; with layer decay, its last layer."""
    network = Network(Backbone("convnext_atto", pretrained=False))
    network.norms = nn.ModuleList([nn.LayerNorm(8), nn.LayerNorm(8)])
    groups = ParameterGroups(backbone_multiplier=0.1, head_multiplier=10.0, layer_decay=layer_decay)
    settings = settings_of(network, build_optimizer(network, adamw, groups))
    name = "backbone_norms_no_decay" if layer_decay else "backbone_no_decay"
    assert settings["norms.1.weight"] == settings["norms.0.bias"] == (name, pytest.approx(0.01), 0)
    assert settings["head.2.weight"][1] == pytest.approx(1)


def test_names_that_alone_do_not_decay():
    network = Network(Small())
    groups = ParameterGroups(undecayed=["backbone.1.*", "*_norm.weight"])
    found = settings_of(network, build_optimizer(network, adamw, groups))
    assert {key for key, (_, _, decay) in found.items() if not decay} == {
        "backbone.1.weight",
        "backbone.1.bias",
        "plane_norm.weight",
    }
    with pytest.raises(ValueError, match=r"no parameter of the name 'backbone\.norm'"):
        ParameterGroups(undecayed=["backbone.norm"]).build(network)


def test_a_backbone_of_ones_own_says_which_layer_is_which():
    backbone = Small()
    backbone.group_matcher = lambda coarse: {"stem": r"^0\.", "blocks": r"^(1)\."}
    network = Network(backbone)
    groups = ParameterGroups(layer_decay=0.5, backbone_multiplier=0.1)
    found = settings_of(network, build_optimizer(network, adamw, groups))
    assert found["backbone.0.weight"] == ("backbone_0", pytest.approx(0.1 * 0.1 * 0.25), 0.05)
    assert found["backbone.1.weight"] == ("backbone_1_no_decay", pytest.approx(0.1 * 0.1 * 0.5), 0)


def test_schedulers_start_from_the_rate_of_the_group():
    network = Network(Small())
    optimizer = build_optimizer(network, adamw, ParameterGroups(backbone_multiplier=0.1))
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5)
    assert scheduler.base_lrs == [group["initial_lr"] for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        assert group["initial_lr"] == pytest.approx(0.1 * group["lr_scale"])
        assert group["lr"] == pytest.approx(0.05 * group["lr_scale"])


def learned(factory):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.Conv2d(8, 2, 1))
    optimizer = build_optimizer(network, factory, ParameterGroups())
    for _ in range(5):
        optimizer.zero_grad()
        network(torch.randn(2, 3, 9, 9)).square().mean().backward()
        optimizer.step()
    return optimizer, torch.cat([p.detach().flatten() for p in network.parameters()])


@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.SGD])
def test_steps_on_a_cpu_are_fused_and_equal_plain_ones(kind):
    fused, found = learned(lambda groups: kind(groups, lr=0.01, weight_decay=0.05))
    plain, expected = learned(lambda groups: kind(groups, lr=0.01, weight_decay=0.05, fused=False))
    assert all(group["fused"] for group in fused.param_groups)
    assert not any(group["fused"] for group in plain.param_groups)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def test_a_network_without_a_backbone():
    network = nn.Conv2d(3, 2, 1)
    assert [group["name"] for group in ParameterGroups().build(network)] == ["head", "head_no_decay"]
    for settings in ({"backbone_multiplier": 0.1}, {"layer_decay": 0.9}):
        with pytest.raises(ValueError, match="Conv2d has no `backbone`"):
            ParameterGroups(**settings).build(network)


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match="layer_decay"):
        ParameterGroups(layer_decay=1.5)
    with pytest.raises(ValueError, match="negative"):
        ParameterGroups(head_multiplier=-1)
    with pytest.raises(ValueError, match="give that too"):
        ParameterGroups(num_stage_layers=6)
    with pytest.raises(ValueError, match="contradict"):
        ParameterGroups(decay_all=True, undecayed=[])
    with pytest.raises(ValueError, match="contradict"):
        ParameterGroups(decay_all=True, decay_biases=True)
    with pytest.raises(ValueError, match="0 stages, which cannot be 6 layers"):
        ParameterGroups(layer_decay=0.9, num_stage_layers=6).build(Network(Small()))
    with pytest.raises(ValueError, match="4 stages, which cannot be 3 layers"):
        ParameterGroups(layer_decay=0.9, num_stage_layers=3).build(Network(Backbone("convnext_atto")))
    with pytest.raises(ValueError, match="does not say which layer"):
        ParameterGroups(layer_decay=0.9).build(Network(Small()))
    with pytest.raises(ValueError, match="no trainable parameter"):
        ParameterGroups().build(nn.Conv2d(3, 2, 1).requires_grad_(False))
