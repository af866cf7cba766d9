"""U-Net beside segmentation_models_pytorch's."""

from dataclasses import replace

import torch
from torch import nn

from trimask.networks.unet import UNet
from trimask.parity.references import smp
from trimask.parity.row import Row


def _row(backbone: str, encoder: str, *, slow: bool = False) -> Row:
    reference = smp("Unet", encoder, classes=5)
    return Row(
        UNet,
        {"num_classes": 5, "backbone": backbone},
        variant=backbone,
        source="smp_timm" if encoder.startswith("tu-") else "smp",
        reference=replace(reference, build=lambda: _with_small_head(reference.build())),
        slow=slow,
    )


@torch.no_grad()
def _with_small_head(network: nn.Module) -> nn.Module:
    """Logits of the order of 10, as after training; random ones of 100 and more are not exact to 1e-4 in fp32."""
    network.get_submodule("segmentation_head.0").get_parameter("weight").mul_(0.1)
    return network


ROWS = [
    _row("resnet18", "resnet18"),
    _row("resnet50", "resnet50", slow=True),
    _row("tf_efficientnet_lite0", "tu-tf_efficientnet_lite0"),
    _row("test_convnext", "tu-test_convnext"),  # begins at stride 4
]
