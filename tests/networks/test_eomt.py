"""EoMT: the attention of its queries, the masks that it lets go of, other libraries' names."""

import copy

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from trimask.convert import __main__ as command
from trimask.convert import load_released, read_released
from trimask.layers.plain_vit import PlainViT, let_in_front
from trimask.networks.eomt import EoMT, _Products, mask_shares
from trimask.parity.row import logits_of, picture, randomize
from trimask.weights import source_names

DINOV3 = "vit_tiny_patch16_dinov3_qkvb"


def build(**options):
    torch.manual_seed(0)
    return randomize(EoMT(3, pretrained=False, **{**EoMT.tiny, **options}))


# --- attention ---


@pytest.mark.parametrize("name", ["test_vit", pytest.param(DINOV3, marks=pytest.mark.slow)])
def test_tokens_in_front_attend_as_under_one_mask_of_all_tokens(name):
    """Beside timm's own blocks with a mask (B, 1, N, N), which is True but in the rows of the tokens in front."""
    torch.manual_seed(0)
    backbone, num_tokens = randomize(PlainViT(name, pretrained=False)).eval(), 5
    plain = copy.deepcopy(backbone.body.blocks[-1])
    let_in_front(backbone, 2, num_tokens)
    block = backbone.body.blocks[-1]
    assert type(block.attn) is not type(backbone.body.blocks[-3].attn) is type(plain.attn)
    if hasattr(plain.attn, "num_prefix_tokens"):
        plain.attn.num_prefix_tokens += num_tokens
    x, besides, _ = backbone.embed(picture((48, 64)).expand(2, -1, -1, -1))
    x = torch.cat([torch.randn(2, num_tokens, x.shape[2]), x], dim=1)
    mask = torch.rand(2, 1, num_tokens, x.shape[1]) > 0.4
    mask[..., 0] = True
    full = torch.cat([mask, torch.ones(2, 1, x.shape[1] - num_tokens, x.shape[1], dtype=torch.bool)], dim=2)
    expected = plain(x, attn_mask=full, **besides[-1])
    torch.testing.assert_close(block(x, attn_mask=mask, **besides[-1]), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(block(x, **besides[-1]), plain(x, **besides[-1]), rtol=1e-4, atol=1e-5)
    assert (expected - plain(x, **besides[-1])).abs().max() > 1e-3


def test_what_goes_into_the_blocks_is_what_timm_puts_in():
    backbone = PlainViT("test_vit", pretrained=False).eval()
    images = picture((65, 97))
    x, besides, size = backbone.embed(images)
    for block, positions in zip(backbone.body.blocks, besides, strict=True):
        x = block(x, **positions)
    patches, prefix, expected_size = backbone.tokens(images)
    assert size == expected_size
    assert torch.equal(backbone.body.norm(x), torch.cat([prefix[0], patches[0]], dim=1))


def test_a_query_looks_at_the_inside_of_its_mask():
    network = build()
    masks = torch.full((1, 8, 8, 12), -1.0)
    masks[0, 2, :4, 6:] = 1.0
    mask = network._attention_mask(masks, torch.tensor(1.0), (4, 6))
    assert mask.shape == (1, 1, 8, 8 + 1 + 24)
    assert mask[..., :9].all()  # queries, and the class token
    inside = mask[0, 0, :, 9:].unflatten(1, (4, 6))
    assert inside[2].nonzero().tolist() == [[y, x] for y in range(2) for x in range(3, 6)]
    assert inside.sum() == 6


def test_this_share_of_the_queries_is_held_to_its_mask():
    network, masks = build(), torch.full((50, 8, 8, 12), -1.0)
    torch.manual_seed(0)
    held = ~network._attention_mask(masks, torch.tensor(0.25), (4, 6))[:, 0, :, -1]
    assert held.float().mean() == pytest.approx(0.25, abs=0.05)
    assert network._attention_mask(masks, torch.tensor(0.0), (4, 6)).all()


# --- letting go ---


@pytest.mark.parametrize(
    ("total", "starts", "ends"),
    [
        (88_692, [14782, 29564, 44346, 59128], [29564, 44346, 59128, 73910]),
        (19_902, [3317, 8292, 13268], [6634, 11609, 16585]),
    ],
)
def test_masks_are_let_go_of_as_published(total, starts, ends):
    for step in range(0, total, 97):
        published = [
            (1 - min(max((step - start) / (end - start), 0), 1)) ** 0.9 for start, end in zip(starts, ends, strict=True)
        ]
        assert mask_shares(step / total, len(starts)) == pytest.approx(published, abs=2e-3)
    assert mask_shares(0.0, 1) == [1.0]
    assert mask_shares(1.0, 3) == [0.0] * 3


def test_training_without_masks_answers_as_evaluation_does():
    network, images = build(), picture((64, 96))
    expected = logits_of(network.eval()(images))
    with_masks = network.train()(images)
    assert len(with_masks.aux) == 2
    assert (with_masks.masks - expected[0]).abs().max() > 1e-3
    network.set_progress(1.0)
    torch.testing.assert_close(logits_of(network(images))[:2], expected)
    torch.testing.assert_close(logits_of(network(images))[2:4], logits_of(with_masks)[2:4])  # before any mask
    network.set_progress(0.0)
    torch.testing.assert_close(logits_of(network(images)), logits_of(with_masks))
    assert all(torch.equal(x, y) for x, y in zip(logits_of(network.eval()(images)), expected, strict=True))


def test_masks_can_be_kept_to_the_end():
    network = build(annealing=False)
    network.set_progress(1.0)
    assert network.mask_shares.tolist() == [1, 1]


# --- sizes and refusals ---


@pytest.mark.parametrize(("patch_size", "factor"), [(8, 2), (16, 4), (32, 8)])
def test_masks_have_about_a_quarter_of_the_size(patch_size, factor):
    network = build(patch_size=patch_size).eval()
    masks = network(picture((96, 64))).masks
    assert masks.shape[-2:] == (96 // patch_size * factor, 64 // patch_size * factor)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_blocks": 7}, "1 to 6 of the blocks of 'test_vit'"),
        ({"num_queries": 0}, "at least one query"),
        ({"backbone": "test_resnet"}, "not a plain vision transformer"),
    ],
)
def test_what_cannot_be_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        build(**options)


def test_other_kinds_of_attention_are_refused():
    backbone = PlainViT("test_vit", pretrained=False)
    backbone.body.blocks[-1].attn = nn.Identity()
    with pytest.raises(ValueError, match="timm's Identity cannot be given tokens in front of its own"):
        let_in_front(backbone, 1, 5)


# --- names ---


def names_elsewhere(source, **options):
    with torch.device("meta"):
        names = EoMT(3, pretrained=False, **options).state_dict()
    return set(source_names(names, EoMT.RENAMES[source]).values())


def test_names_of_the_official_files():
    names = names_elsewhere("eomt")
    block = "network.encoder.backbone.blocks.11."
    assert {name for name in names if name.startswith(block)} == {
        block + name
        for name in (
            *("norm1.weight", "norm1.bias", "attn.qkv.weight", "attn.qkv.bias", "attn.proj.weight", "attn.proj.bias"),
            *("ls1.gamma", "norm2.weight", "norm2.bias", "mlp.fc1.weight", "mlp.fc1.bias", "mlp.fc2.weight"),
            *("mlp.fc2.bias", "ls2.gamma"),
        )
    }
    assert {name for name in names if ".blocks." not in name} == {
        *("network.encoder.backbone." + name for name in ("cls_token", "reg_token", "pos_embed", "norm.weight")),
        *(
            "network.encoder.backbone." + name
            for name in ("norm.bias", "patch_embed.proj.weight", "patch_embed.proj.bias")
        ),
        *("network.q.weight", "network.class_head.weight", "network.class_head.bias"),
        *(f"network.mask_head.{i}.{kind}" for i in (0, 2, 4) for kind in ("weight", "bias")),
        *(f"network.upscale.{i}.conv1.{kind}" for i in (0, 1) for kind in ("weight", "bias")),
        *(f"network.upscale.{i}.conv2.weight" for i in (0, 1)),
        *(f"network.upscale.{i}.norm.{kind}" for i in (0, 1) for kind in ("weight", "bias")),
    }


def official(network, source):
    """What the official code would write, whose DINOv3 has separate projections."""
    own = network.state_dict()
    found = {theirs: own[ours] for ours, theirs in source_names(own, EoMT.RENAMES[source]).items()}
    for name in list(found):
        if source == "eomt_dinov3" and name.endswith(".qkv.weight"):
            for part, value in zip("qkv", found.pop(name).chunk(3), strict=True):
                found[name.replace(".qkv.", f".{part}_proj.")] = value
        elif name.endswith(("q_bias", "v_bias")):
            found[name.replace("_bias", "_proj.bias")] = found.pop(name)
    found["network.attn_mask_probs"] = torch.zeros(2)
    found["network.encoder.pixel_mean"] = found["network.encoder.pixel_std"] = torch.ones(1, 3, 1, 1)
    found["criterion.empty_weight"] = torch.ones(4)
    return {name: value.clone() for name, value in found.items()}


def test_official_weights_are_recognized():
    network, other = build(), build()
    for parameter in other.parameters():
        nn.init.normal_(parameter)
    assert load_released(other, official(network, "eomt")) == "eomt"
    assert all(torch.equal(x, other.state_dict()[name]) for name, x in network.state_dict().items())


@pytest.mark.slow
def test_differences_from_dinov3_are_added_to_it(tmp_path):
    options = {"backbone": DINOV3, "patch_size": 16}
    network, base = build(**options), {}
    weights = official(network, "eomt_dinov3")
    assert "network.encoder.backbone.blocks.0.attention.q_proj.bias" in weights
    for name, value in weights.items():
        if name.startswith("network.encoder.backbone."):
            theirs = name.removeprefix("network.encoder.backbone.").replace("blocks.", "layer.")
            base[theirs.replace("patch_embed.", "embeddings.")] = torch.randn_like(value)
            value -= base[theirs.replace("patch_embed.", "embeddings.")]
    assert {"embeddings.register_tokens", "layer.0.layer_scale1.lambda1", "norm.weight"} <= base.keys()
    base["embeddings.mask_token"] = torch.zeros(1, 1, 192)
    torch.save(weights, tmp_path / "pytorch_model.bin")
    save_file(base, tmp_path / "model.safetensors")
    arguments = [str(tmp_path / "pytorch_model.bin"), "--network", "EoMT", "--arg", "num_classes=3"]
    arguments += ["--arg", f"backbone={DINOV3}", "--arg", "num_queries=8", "--arg", "num_blocks=2"]
    arguments += ["--base", str(tmp_path / "model.safetensors"), "--out", str(tmp_path / "ours.safetensors")]
    assert command.main(arguments) == 0
    found = build(**options)
    found.load_state_dict(read_released(tmp_path / "ours.safetensors").weights)
    for name, value in network.state_dict().items():
        torch.testing.assert_close(found.state_dict()[name], value, rtol=1e-5, atol=1e-5)
    del base["norm.weight"]
    save_file(base, tmp_path / "model.safetensors")
    assert command.main(arguments) == 2


def test_only_what_is_published_as_differences_takes_a_base(tmp_path, capsys):
    torch.save(official(build(), "eomt"), tmp_path / "pytorch_model.bin")
    arguments = [str(tmp_path / "pytorch_model.bin"), "--network", "FCN", "--arg", "num_classes=3"]
    assert command.main([*arguments, "--base", "x.safetensors", "--out", str(tmp_path / "ours.safetensors")]) == 2
    assert "is not published as differences" in capsys.readouterr().err


def test_rotary_positions_leave_the_queries_alone():
    assert "pos_embed" not in dict(timm.create_model(DINOV3).named_parameters())
    network = build(backbone=DINOV3, patch_size=16)
    counts = [block.attn.num_prefix_tokens for block in network.backbone.body.blocks]
    assert counts == [5] * 10 + [5 + 8] * 2


def test_products_have_the_gradient_of_a_product_laid_out_as_the_map():
    """The one derivative that is written out by hand."""
    queries, cells = (torch.randn(2, n, 4, dtype=torch.float64, requires_grad=True) for n in (3, 5))
    products = _Products.apply(queries, cells)
    torch.testing.assert_close(products, torch.einsum("bqd,bpd->bqp", queries, cells))
    assert torch.autograd.gradcheck(_Products.apply, (queries, cells))
    _, gradient = torch.autograd.grad(products.square().sum(), (queries, cells))
    assert gradient.is_contiguous(), "else the layer norm behind it begins with a copy"
