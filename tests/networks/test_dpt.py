"""DPT: sizes, the readout of the class token, what it commutes, names elsewhere, and what it refuses."""

import pytest
import torch
from torch.nn import functional as F

from trimask.networks import untrained
from trimask.networks.dpt import DPT, Fusion, Reassemble
from trimask.parity.row import randomize
from trimask.weights import source_names

IMAGES = torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def build(**options: object) -> DPT:
    torch.manual_seed(0)
    return untrained(DPT, {"num_classes": 3, **DPT.tiny, **options})


def test_logits_have_half_the_pictures_size() -> None:
    output = build()(IMAGES)
    assert output.logits.shape == (2, 3, 32, 48)
    assert output.aux == ()
    assert not output.align_corners


def test_an_auxiliary_head_and_aligned_corners() -> None:
    network = build(aux=True, align_corners=True)
    output = network(IMAGES)
    assert [x.shape for x in output.aux] == [(2, 3, 32, 48)]
    assert output.align_corners
    assert network.eval()(IMAGES).aux == ()


@pytest.mark.parametrize(("factor", "size"), [(4, (12, 16)), (2, (6, 8)), (1, (3, 4)), (0.5, (2, 2))])
def test_sizes_of_reassembled_maps(factor: float, size: tuple[int, int]) -> None:
    reassemble = Reassemble(8, 6, "project", factor)
    assert reassemble(torch.randn(2, 12, 8), torch.randn(2, 1, 8), (3, 4)).shape == (2, 6, *size)


def test_the_readout_joins_the_class_token_to_each_token() -> None:
    tokens, prefix = torch.randn(2, 12, 8).double(), torch.randn(2, 3, 8).double()  # registers behind the class token
    reassemble = Reassemble(8, 6, "project", 1).double()
    joined = torch.cat([tokens, prefix[:, :1].expand(-1, 12, -1)], dim=2)
    literal = F.gelu(reassemble.readout(joined)).transpose(1, 2).unflatten(2, (3, 4))
    assert torch.allclose(reassemble(tokens, prefix, (3, 4)), reassemble.project(literal), atol=1e-12)
    added = Reassemble(8, 6, "add", 1).double()
    literal = (tokens + prefix[:, :1]).transpose(1, 2).unflatten(2, (3, 4))
    assert torch.allclose(added(tokens, prefix, (3, 4)), added.project(literal), atol=1e-12)


def test_the_projection_commutes_with_upsampling() -> None:
    fuse = randomize(Fusion(6, norm=True, has_skip=True)).double().eval()
    x, skip = torch.randn(1, 6, 4, 6).double(), torch.randn(1, 6, 3, 5).double()
    literal = x + fuse.skip(F.interpolate(skip, (4, 6), mode="bilinear", align_corners=False))
    literal = F.interpolate(fuse.refine(literal), scale_factor=2, mode="bilinear", align_corners=True)
    assert torch.allclose(fuse(x, skip), fuse.project(literal), atol=1e-12)


def test_the_coarsest_map_has_no_skip() -> None:
    assert not [name for name in build().state_dict() if name.startswith("fusion.0.skip")]
    assert [name for name in build().state_dict() if name.startswith("fusion.1.skip")]
    assert [name for name in build(refine_coarsest=True).state_dict() if name.startswith("fusion.0.skip")]


@pytest.mark.parametrize("norm", [True, False])
def test_norms_or_biases_in_the_fusion(norm: bool) -> None:
    names = set(build(fusion_norm=norm).state_dict())
    assert ("fusion.1.skip.conv1.norm.weight" in names) == norm
    assert ("fusion.1.skip.conv1.conv.bias" in names) != norm


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("mmseg", "decode_head.reassemble_blocks.resize_layers.3.weight"),
        ("mmseg", "decode_head.fusion_blocks.3.res_conv_unit1.conv2.bn.running_mean"),
        ("transformers", "dpt.encoder.layer.5.attention.output.dense.weight"),
        ("transformers", "neck.fusion_stage.layers.2.residual_layer2.convolution1.weight"),
        ("transformers", "auxiliary_head.head.4.bias"),
        ("smp_timm", "decoder.fusion_blocks.1.residual_conv_block1.batch_norm_2.running_mean"),
        ("smp_timm", "segmentation_head.head.4.bias"),
    ],
)
def test_names_elsewhere(source: str, name: str) -> None:
    assert name in source_names(build(aux=True).state_dict(), DPT.RENAMES[source]).values()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"levels": (1, 2, 3)}, r"four levels; got levels=\[1, 2, 3\]"),
        ({"readout": "concat"}, "'project', 'add' or 'ignore'; got 'concat'"),
        ({"backbone": "test_vit2"}, "'test_vit2' has no class token; set readout to 'ignore'"),
    ],
)
def test_refusals(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(**options)
