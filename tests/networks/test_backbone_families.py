"""Every architecture with one backbone of each family that it supports, as small as timm has them."""

import pytest
import torch

from trimask.networks import all_networks, untrained
from trimask.types import ClassSpec

RESNET = {"backbone": "test_resnet"}
EFFICIENTNET = {"backbone": "test_efficientnet"}
CONVNEXT = {"backbone": "test_convnext"}
SWIN = {"backbone": "swin_tiny_patch4_window7_224"}  # timm has none for tests
MIT = {"backbone": "mit_b0"}
VIT = {"backbone": "test_vit"}
DINOV2 = {"backbone": "vit_small_patch14_dinov2"}
DINOV3 = {"backbone": "vit_small_patch16_dinov3"}

OF_STAGES = {"resnet": RESNET, "efficientnet": EFFICIENTNET, "convnext": CONVNEXT, "swin": SWIN}
DILATED = {"resnet": RESNET, "efficientnet": EFFICIENTNET, "convnext": CONVNEXT}  # windows cannot be dilated
PLAIN = {"vit": VIT, "dinov2": DINOV2, "dinov3": DINOV3}
SUPPORTED = {
    "CCNet": DILATED,
    "DeepLabV3": DILATED,
    "DeepLabV3Plus": DILATED,
    "DPT": PLAIN,
    "EoMT": PLAIN,
    "FastFCN": OF_STAGES,
    "FCN": DILATED,
    "FPN": OF_STAGES,
    "Mask2Former": OF_STAGES,
    "MaskFormer": OF_STAGES,
    "LinearHead": PLAIN,
    "MaskRCNN": OF_STAGES,
    "PanopticFPN": OF_STAGES,
    "PSPNet": DILATED,
    "SegFormer": {"mit": MIT},
    "Segmenter": PLAIN,
    "SOLO": OF_STAGES,
    "SOLOv2": OF_STAGES,
    "SegNet": {"vgg": {"backbone": "vgg11_bn"}},
    "SETR": PLAIN,
    "UNet": OF_STAGES,
    "UPerNet": OF_STAGES,
}
WITHOUT_BACKBONE = {"ESPNet", "ENet", "PlainUNet"}  # networks of their own, trained from scratch
CASES = [
    pytest.param(kind, family, options, id=f"{kind.__name__}-{family}")
    for kind in all_networks()
    for family, options in SUPPORTED.get(kind.__name__, {}).items()
]


def test_every_network_says_what_it_supports():
    assert {kind.__name__ for kind in all_networks()} <= SUPPORTED.keys() | WITHOUT_BACKBONE


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "family", "options"), CASES)
def test_backbone(kind, family, options):
    tiny = dict(getattr(kind, "tiny", {}))
    if family.startswith("dino"):
        tiny.pop("patch_size", None)
    network = untrained(kind, {"num_classes": 3, **tiny, **options}).train()
    pictures = torch.randint(0, 256, (2, 3, 70, 98), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    sum(x.square().mean() for x in network(pictures).tensors() if x.requires_grad).backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in network.backbone.parameters())
    with torch.inference_mode():
        output = network.eval()(pictures)
        if hasattr(output, "semantic"):
            assert output.semantic((70, 98))[0].labels.shape == (70, 98)
        else:
            found = output.instances((70, 98), classes=ClassSpec(["a", "b", "c"], things=range(3)))[0]
            assert found.masks.shape[1:] == (70, 98)
