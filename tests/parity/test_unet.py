"""UNet against segmentation_models_pytorch.Unet with the same random weights."""

import pytest
import torch
from torch import Tensor, nn

from trimask.convert import load_released
from trimask.networks.unet import UNet

smp = pytest.importorskip("segmentation_models_pytorch")


def randomize(network: nn.Module, seed: int = 0) -> nn.Module:
    """Batch normalization as after training: other statistics than 0 and 1, other scales than 1."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.copy_(torch.randn(module.num_features, generator=generator) * 0.1)
            module.running_var.copy_(torch.rand(module.num_features, generator=generator) + 0.5)
            module.num_batches_tracked.fill_(3)
            with torch.no_grad():
                module.weight.copy_(torch.rand(module.num_features, generator=generator) * 0.5 + 0.5)
                module.bias.copy_(torch.randn(module.num_features, generator=generator) * 0.1)
    return network


def pair(encoder: str, backbone: str, source: str) -> tuple[nn.Module, UNet]:
    torch.manual_seed(0)
    theirs = randomize(smp.Unet(encoder, encoder_weights=None, classes=5)).eval()
    ours = UNet(5, backbone=backbone, pretrained=False).eval()
    load_released(ours, theirs.state_dict(), source)
    return theirs, ours


def difference(theirs: nn.Module, ours: UNet, images: Tensor) -> float:
    normalized = (images.to(ours.backbone.mean.dtype) - ours.backbone.mean) / ours.backbone.std
    with torch.inference_mode():
        expected, answer = theirs(normalized), ours(images).logits
    assert answer.shape == expected.shape
    assert expected.std() > 1e-3  # not equal for being constant
    return float((answer - expected).abs().max())


CASES = [
    ("resnet18", "resnet18", "smp"),
    pytest.param("resnet50", "resnet50", "smp", marks=pytest.mark.slow),
    ("tu-tf_efficientnet_lite0", "tf_efficientnet_lite0", "smp_timm"),
    ("tu-test_convnext", "test_convnext", "smp_timm"),  # begins at stride 4
]


@pytest.mark.parametrize(("encoder", "backbone", "source"), CASES)
@pytest.mark.parametrize("size", [(64, 96), pytest.param((320, 320), marks=pytest.mark.slow)])
def test_logits_equal_smp(encoder: str, backbone: str, source: str, size: tuple[int, int]) -> None:
    theirs, ours = pair(encoder, backbone, source)
    images = torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8)
    assert difference(theirs, ours, images) <= 1e-5
    assert difference(theirs.double(), ours.double(), images) <= 1e-9


@pytest.mark.parametrize(("encoder", "backbone", "source"), CASES)
def test_as_many_parameters_as_smp(encoder: str, backbone: str, source: str) -> None:
    theirs, ours = pair(encoder, backbone, source)
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())


def test_gradients_equal_smp() -> None:
    theirs, ours = pair("resnet18", "resnet18", "smp")
    theirs, ours = theirs.double().train(), ours.double().train()
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    theirs((images.double() - ours.backbone.mean) / ours.backbone.std).square().sum().backward()
    ours(images).logits.square().sum().backward()
    block = theirs.decoder.blocks[1].conv1[0].weight
    assert torch.allclose(ours.decoder[1].up.weight.grad, block.grad, rtol=1e-7)
    assert torch.allclose(ours.backbone.body.conv1.weight.grad, theirs.encoder.conv1.weight.grad, rtol=1e-6)


def test_left_over_weights_are_refused() -> None:
    theirs, ours = pair("resnet18", "resnet18", "smp")
    weights = theirs.state_dict()
    weights["stranger"] = weights.pop("segmentation_head.0.bias")
    with pytest.raises(ValueError, match=r"missing segmentation_head.0.bias; left over stranger"):
        load_released(ours, weights, "smp")
    with pytest.raises(ValueError, match=r"UNet has no rename table for 'keras'; it has one for: smp, smp_timm"):
        load_released(ours, weights, "keras")
