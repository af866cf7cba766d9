"""Mix Transformer: maps, initial weights in every format, what it refuses, and what the optimizer is told of it."""

import logging

import pytest
import torch
from torch import nn
from torchvision.ops import StochasticDepth

from trimask.layers import mit
from trimask.layers.mit import MixTransformer
from trimask.optim.groups import ParameterGroups
from trimask.parity.row import normalized, picture, randomize
from trimask.weights import source_names


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    return randomize(MixTransformer(pretrained=False)).eval()


def under_other_names(encoder, table):
    weights = encoder.state_dict()
    names = source_names([f"backbone.{name}" for name in weights], table)
    return {theirs: weights[ours.removeprefix("backbone.")] for ours, theirs in names.items()}


def test_maps_are_as_promised(encoder):
    with torch.inference_mode():
        maps = encoder(torch.randint(0, 256, (2, 3, 65, 97), dtype=torch.uint8))
    assert encoder.strides == [4, 8, 16, 32]
    assert [tuple(x.shape[1:]) for x in maps] == [(32, 17, 25), (64, 9, 13), (160, 5, 7), (256, 3, 4)]
    assert encoder.channels == [32, 64, 160, 256]
    assert all(x.is_contiguous(memory_format=torch.channels_last) for x in maps)


def test_mean_and_std_repeat_over_channels():
    encoder = MixTransformer(pretrained=False, in_channels=4)
    assert encoder.mean.flatten().tolist() == pytest.approx([123.675, 116.28, 103.53, 123.675])
    assert encoder.std.flatten().tolist() == pytest.approx([58.395, 57.12, 57.375, 58.395])
    assert {"mean", "std"} <= encoder.state_dict().keys()


def test_stochastic_depth_grows_linearly_to_its_rate():
    encoder = MixTransformer(pretrained=False, drop_path=0.7)
    rates = [module.p for module in encoder.modules() if isinstance(module, StochasticDepth)]
    assert rates == pytest.approx([0.1 * block for block in range(8)])
    images = torch.cat([picture((32, 32))] * 16)
    dropped = encoder.train()(images)[3]
    assert (dropped[0] - dropped[1:]).abs().amax(dim=(1, 2, 3)).max() > 1e-3  # per picture
    kept = encoder.eval()(images)[3]
    assert torch.allclose(kept[0], kept[1], atol=1e-5)


# --- initial weights ---


def test_the_file_of_transformers(tmp_path, caplog):
    transformers = pytest.importorskip("transformers")
    theirs = randomize(transformers.SegformerForImageClassification(transformers.SegformerConfig(num_labels=7))).eval()
    theirs.save_pretrained(tmp_path)
    with caplog.at_level(logging.WARNING):
        ours = MixTransformer(pretrained=str(tmp_path / "model.safetensors"), eps=1e-5).eval()
    assert "the classifier (classifier.bias, classifier.weight) is not used" in caplog.text
    images = picture((64, 96))
    with torch.inference_mode():
        expected = theirs(normalized(ours, images), output_hidden_states=True).hidden_states
        for x, y in zip(ours(images), expected, strict=True):
            assert torch.allclose(x, y, atol=1e-4)


def test_the_official_file(tmp_path):
    smp = pytest.importorskip(
        "segmentation_models_pytorch"
    )  # its encoder is a copy of the official one, names included
    theirs = randomize(smp.encoders.get_encoder("mit_b1", weights=None)).eval()
    torch.save(
        theirs.state_dict() | {"head.weight": torch.zeros(9, 512), "head.bias": torch.zeros(9)}, tmp_path / "b1.pth"
    )
    ours = MixTransformer("mit_b1", pretrained=str(tmp_path / "b1.pth")).eval()
    images = picture((64, 96))
    with torch.inference_mode():
        for x, y in zip(ours(images), theirs(normalized(ours, images))[2:], strict=True):
            assert torch.allclose(x, y, atol=1e-4)


def test_the_file_of_mmsegmentation(tmp_path, encoder):
    """As its own converter writes it: query, key and value joined, the MLP as 1x1 convolutions, no classifier."""
    weights = under_other_names(encoder, mit.MMSEG)
    for kind in ("weight", "bias"):
        for name in [name for name in weights if name.endswith(f"attn.query.{kind}")]:
            parts = [weights.pop(name.replace("query", part)) for part in ("query", "key_value")]
            weights[name.replace("query.", "attn.in_proj_")] = torch.cat(parts)
    for name in [name for name in weights if name.endswith(("ffn.layers.0.weight", "ffn.layers.4.weight"))]:
        weights[name] = weights[name][:, :, None, None]
    path = tmp_path / "mit_b0.pth"
    torch.save({name.removeprefix("backbone."): value for name, value in weights.items()}, path)
    loaded = MixTransformer(pretrained=str(path)).state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in encoder.state_dict().items())


@pytest.mark.parametrize(("in_channels", "repeats"), [(1, 3), (6, 0.5)])
def test_other_numbers_of_channels_keep_the_scale(tmp_path, encoder, in_channels, repeats):
    path = tmp_path / "official.pth"
    torch.save(
        {name.removeprefix("backbone."): value for name, value in under_other_names(encoder, mit.NVLABS).items()}, path
    )
    other = MixTransformer(pretrained=str(path), in_channels=in_channels)
    gray = torch.randn(1, 1, 32, 32)
    with torch.inference_mode():
        expected = encoder.stages[0].embed.conv(gray.repeat(1, 3, 1, 1))
        assert torch.allclose(other.stages[0].embed.conv(gray.repeat(1, in_channels, 1, 1)), expected, atol=1e-4)


def test_a_hub_is_refused_with_what_to_do():
    for pretrained in (True, "pypi"):
        with pytest.raises(
            ValueError, match=r"No hub .*'mit_b2'; set `pretrained` to the path .*mit_b2\.pth of NVlabs.*nvidia/mit-b2"
        ):
            MixTransformer("mit_b2", pretrained=pretrained)


def test_what_does_not_fit_is_refused(tmp_path, encoder):
    with pytest.raises(ValueError, match="no Mix Transformer 'mit_b6'; there are mit_b0, mit_b1"):
        MixTransformer("mit_b6", pretrained=False)
    with pytest.raises(ValueError, match=r"There is no weights file 'nowhere\.pth'"):
        MixTransformer(pretrained="nowhere.pth")
    path = tmp_path / "weights.pth"
    torch.save({"conv1.weight": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match=r"weights\.pth: no weights of a Mix Transformer as NVlabs, .*conv1\.weight"):
        MixTransformer(pretrained=str(path))
    weights = {name.removeprefix("backbone."): value for name, value in under_other_names(encoder, mit.NVLABS).items()}
    torch.save(weights, path)
    with pytest.raises(ValueError, match=r"weights\.pth does not fit MixTransformer: size mismatch"):
        MixTransformer("mit_b1", pretrained=str(path))
    weights["stranger"] = weights.pop("norm4.bias")
    torch.save(weights, path)
    with pytest.raises(ValueError, match=r"missing backbone\.norm4\.bias; left over backbone\.stranger"):
        MixTransformer(pretrained=str(path))


# --- what the optimizer is told ---


def groups_of(network, **settings):
    names = {parameter: name for name, parameter in network.named_parameters()}
    return {
        names[parameter]: (group["name"], group["lr_scale"], group.get("weight_decay"))
        for group in ParameterGroups(**settings).build(network)
        for parameter in group["params"]
    }


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = MixTransformer(pretrained=False)
        self.head = nn.Conv2d(256, 2, 1)


def test_norms_and_biases_do_not_decay():
    found = groups_of(Network(), head_multiplier=10.0)
    undecayed = {name for name, (_, _, decay) in found.items() if decay == 0}
    assert undecayed == {name for name in found if "norm" in name or name.endswith(".bias")}
    assert found["head.weight"] == ("head", 10.0, None)
    assert found["backbone.stages.0.embed.conv.weight"] == ("backbone", 1.0, None)


def test_layers_are_the_stem_and_the_blocks():
    found = groups_of(Network(), layer_decay=0.5)
    layers = {name: int(group.split("_")[1]) for name, (group, _, _) in found.items() if name.startswith("backbone.")}
    prefix = "backbone.stages."
    assert {layer for name, layer in layers.items() if name.startswith(f"{prefix}0.embed.")} == {0}
    for block in range(8):
        stage, number = divmod(block, 2)
        inside = {layer for name, layer in layers.items() if name.startswith(f"{prefix}{stage}.blocks.{number}.")}
        assert inside == {block + 1}
    assert layers[f"{prefix}2.embed.conv.weight"] == 5  # with the first block of the stage
    assert layers[f"{prefix}2.norm.weight"] == 6  # with its last
    assert found[f"{prefix}3.norm.weight"][1] == pytest.approx(0.5)
    assert found[f"{prefix}0.embed.conv.weight"][1] == pytest.approx(0.5**9)
