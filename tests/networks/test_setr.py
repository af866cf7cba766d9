"""SETR: strides, auxiliary heads, where upsampling and the classifier are exchanged, and what it refuses."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from trimask.networks import untrained
from trimask.networks.setr import SETR, MLAHead, UpHead
from trimask.parity.row import randomize
from trimask.weights import source_names

IMAGES = torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def build(decoder: str = "pup", **options: object) -> SETR:
    torch.manual_seed(0)
    return untrained(SETR, {"num_classes": 3, "decoder": decoder, **SETR.tiny, **options})


@pytest.mark.parametrize(
    ("decoder", "size", "aux"),
    [("naive", (16, 24), [(16, 24)] * 3), ("pup", (32, 48), [(16, 24)] * 3), ("mla", (16, 24), [(4, 6)] * 4)],
)
def test_sizes_of_logits(decoder: str, size: tuple[int, int], aux: list[tuple[int, int]]) -> None:
    network = build(decoder)
    output = network(IMAGES)
    assert output.logits.shape == (2, 3, *size)
    assert [x.shape for x in output.aux] == [(2, 3, *other) for other in aux]
    assert network.eval()(IMAGES).aux == ()


@pytest.mark.parametrize("decoder", ["naive", "pup", "mla"])
def test_without_auxiliary_heads(decoder: str) -> None:
    network = build(decoder, aux_levels=())
    assert network(IMAGES).aux == ()
    assert not [name for name, _ in network.named_parameters() if name.startswith("aux")]


@pytest.mark.parametrize(("num_convs", "scale"), [(4, 2), (2, 4)])
def test_the_output_does_the_last_upsampling(num_convs: int, scale: int) -> None:
    """As mmseg: upsample behind every convolution, classify at the picture's size."""
    head = randomize(UpHead(8, 3, 6, 3, num_convs, scale, 16)).double().eval()
    x = torch.randn(1, 12, 8, dtype=torch.float64)
    literal = head.norm(x).transpose(1, 2).unflatten(2, (3, 4))
    for conv in head.convs:
        literal = F.interpolate(conv(literal), scale_factor=scale, mode="bilinear", align_corners=False)
    literal = head.classify(literal)
    found = F.interpolate(head(x, (3, 4)), (48, 64), mode="bilinear", align_corners=False)
    assert torch.allclose(found, literal, atol=1e-12)


def test_upsampling_before_another_step_is_not_left_out() -> None:
    """mmseg's naive head stops at a quarter of the picture's size; from there on it is another interpolation."""
    assert UpHead(8, 3, 6, 1, 1, 4, 16)(torch.randn(2, 12, 8), (3, 4)).shape == (2, 3, 12, 16)
    assert UpHead(8, 3, 6, 3, 4, 2, 14)(torch.randn(2, 12, 8), (3, 4)).shape == (2, 3, 48, 64)


def test_mla_classifies_before_upsampling() -> None:
    head = randomize(MLAHead(8, 3, channels=6, kernel_size=1)).double().eval()
    maps = [torch.randn(1, 8, 3, 4, dtype=torch.float64) for _ in range(4)]
    large = [
        F.interpolate(branch(x), scale_factor=4, mode="bilinear") for branch, x in zip(head.branches, maps, strict=True)
    ]
    assert torch.allclose(head(maps), head.classify(torch.cat(large, dim=1)), atol=1e-12)


def test_mla_has_no_class_token() -> None:
    assert not [name for name in build("mla").state_dict() if "cls_token" in name]
    assert [name for name in build("pup").state_dict() if "cls_token" in name]


def test_no_last_norm_of_the_encoder() -> None:
    assert isinstance(build().backbone.body.norm, nn.Identity)


@pytest.mark.parametrize(
    ("decoder", "source", "names"),
    [
        ("pup", "mmseg", ["decode_head.up_convs.3.0.bn.running_var", "auxiliary_head.2.up_convs.1.0.conv.weight"]),
        (
            "mla",
            "mmseg",
            ["neck.mla.channel_proj.0.bn.weight", "neck.mla.feat_extract.3.conv.weight", "neck.norm.1.bias"],
        ),
        ("mla", "mmseg", ["decode_head.up_convs.0.1.conv.weight", "auxiliary_head.3.conv_seg.bias"]),
        ("pup", "setr", ["decode_head.conv_3.weight", "decode_head.syncbn_fc_3.bias", "auxiliary_head.0.norm.weight"]),
        ("mla", "setr", ["backbone.norm_3.weight", "backbone.mla.mla_p5_1x1.0.weight", "backbone.mla.mla_p2.1.bias"]),
        ("mla", "setr", ["decode_head.mlahead.head5.4.running_mean", "auxiliary_head.0.aux.weight"]),
    ],
)
def test_names_elsewhere(decoder: str, source: str, names: list[str]) -> None:
    state = build(decoder).state_dict()
    renamed = source_names(state, SETR.RENAMES[source])
    assert set(names) <= set(renamed.values())
    assert len(set(renamed.values())) == len(renamed)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"decoder": "mlp"}, "decoders naive, pup, mla; got 'mlp'"),
        ({"decoder": "mla", "levels": (1, 2)}, r"four levels; got levels=\[1, 2\]"),
        ({"aux_levels": (4,)}, r"0 to 3; got \[4\]"),
        ({"levels": None}, r"blocks 0 to 5; out_indices=\[9, 14, 19, 23\]"),
    ],
)
def test_refusals(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(**options)
