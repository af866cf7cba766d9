"""Segmenter: strides, decoders, released weights of both sources, and what it refuses."""

import pytest
import torch

from trimask.convert import fitting_source, load_released
from trimask.networks import untrained
from trimask.networks.segmenter import Segmenter
from trimask.optim.groups import ParameterGroups
from trimask.weights import source_names

IMAGES = torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def build(num_classes: int = 3, **options: object) -> Segmenter:
    torch.manual_seed(0)
    return untrained(Segmenter, {"num_classes": num_classes, "backbone": "test_vit", **options})


@pytest.mark.parametrize("decoder", ["mask", "linear"])
def test_logits_have_the_stride_of_the_patch(decoder: str) -> None:
    assert build(decoder=decoder)(IMAGES).logits.shape == (2, 3, 4, 6)


def test_mask_logits_are_normalized_over_the_classes() -> None:
    logits = build(5).eval()(IMAGES).logits
    assert torch.allclose(logits.mean(dim=1), torch.zeros(2, 4, 6), atol=1e-5)
    assert logits.var(dim=1, correction=0).max() <= 1
    assert logits.std() > 0.1


def test_one_class_is_a_cosine() -> None:
    network = build(1).eval()
    logits = network(IMAGES).logits
    assert logits.abs().max() <= 1
    with torch.no_grad():
        network.decoder.mask_norm.weight.fill_(10)
        network.decoder.mask_norm.bias.fill_(-2)
    assert torch.allclose(network(IMAGES).logits, 10 * logits - 2, atol=1e-5)


@pytest.mark.parametrize("decoder", ["mask", "linear"])
@pytest.mark.parametrize("source", ["mmseg", "segmenter"])
def test_released_weights(decoder: str, source: str) -> None:
    """What each file holds beyond ours goes; the matrices that the official code keeps bare are transposed."""
    network = build(decoder=decoder)
    torch.nn.init.zeros_(network.backbone.body.patch_embed.proj.bias)
    state = network.state_dict()
    released = {theirs: state[ours] for ours, theirs in source_names(state, Segmenter.RENAMES[source]).items()}
    if source == "segmenter":
        released |= {"encoder.head.weight": torch.zeros(3, 64), "encoder.head.bias": torch.zeros(3)}
        released |= {
            name: released[name].T for name in ("decoder.proj_patch", "decoder.proj_classes") if name in released
        }
    else:
        del released["backbone.patch_embed.projection.bias"]
        if decoder == "linear":
            released["decode_head.conv_seg.weight"] = released["decode_head.conv_seg.weight"][..., None, None]
    other = build(decoder=decoder)
    torch.nn.init.normal_(other.backbone.body.cls_token)
    assert fitting_source(other, released) == source
    load_released(other, released)
    assert all(torch.equal(value, state[name]) for name, value in other.state_dict().items())


def test_official_names() -> None:
    names = set(source_names(build().state_dict(), Segmenter.RENAMES["segmenter"]).values())
    assert {
        "encoder.patch_embed.proj.weight",
        "encoder.blocks.5.attn.qkv.bias",
        "encoder.norm.weight",
        "decoder.cls_emb",
        "decoder.proj_dec.bias",
        "decoder.proj_patch",
        "decoder.proj_classes",
        "decoder.blocks.1.mlp.fc2.weight",
        "decoder.decoder_norm.weight",
        "decoder.mask_norm.bias",
    } <= names


def test_class_tokens_do_not_decay() -> None:
    network = build()
    undecayed = [p for g in ParameterGroups().build(network) if g["name"] == "head_no_decay" for p in g["params"]]
    assert any(parameter is network.decoder.class_tokens for parameter in undecayed)
    assert not any(parameter is network.decoder.project.weight for parameter in undecayed)


def test_stochastic_depth_and_dropout_act_in_training_only() -> None:
    network = build(drop_path=0.5, decoder_drop_path=0.5, dropout=0.5)
    assert not torch.equal(network.train()(IMAGES).logits, network(IMAGES).logits)
    assert torch.equal(network.eval()(IMAGES).logits, network(IMAGES).logits)


def test_refusals() -> None:
    with pytest.raises(ValueError, match="decoders 'mask' and 'linear'; got 'masks'"):
        build(decoder="masks")
    with pytest.raises(ValueError, match="at least one block; got num_layers=0"):
        build(num_layers=0)
