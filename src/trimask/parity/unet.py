"""U-Net beside segmentation_models_pytorch's."""

from trimask.networks.unet import UNet
from trimask.parity.references import smp
from trimask.parity.row import Row


def _row(backbone: str, encoder: str, *, slow: bool = False) -> Row:
    return Row(
        UNet,
        {"num_classes": 5, "backbone": backbone},
        variant=backbone,
        source="smp_timm" if encoder.startswith("tu-") else "smp",
        reference=smp("Unet", encoder, classes=5),
        slow=slow,
    )


ROWS = [
    _row("resnet18", "resnet18"),
    _row("resnet50", "resnet50", slow=True),
    _row("tf_efficientnet_lite0", "tu-tf_efficientnet_lite0"),
    _row("test_convnext", "tu-test_convnext"),  # begins at stride 4
]
