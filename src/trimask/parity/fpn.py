"""Semantic FPN beside mmsegmentation's and segmentation_models_pytorch's."""

from __future__ import annotations

from dataclasses import replace

from trimask.networks.fpn import FPN
from trimask.parity.references import mmseg, smp
from trimask.parity.row import Reference, Row

ADE20K = "sem_fpn/fpn_r50_4xb4-160k_ade20k-512x512"
RESNET18 = {"backbone": {"type": "ResNet", "depth": 18}, "neck": {"in_channels": [64, 128, 256, 512]}}


def _smp(encoder: str) -> Reference:
    """Without its last upsampling, which is part of the output here; it knows no sizes but multiples of 32."""
    return replace(smp("FPN", encoder, classes=5, upsampling=1), answers=lambda network, images: [network(images)])


ROWS = [
    Row(
        FPN,
        {"num_classes": 150, "backbone": "resnet18"},
        variant="R18",
        source="mmseg",
        reference=mmseg(ADE20K, **RESNET18),
    ),
    Row(
        FPN,
        {"num_classes": 150, "backbone": "resnet50c"},
        variant="R50, ADE20K",
        source="mmseg",
        reference=mmseg(ADE20K),
        slow=True,
    ),
    *(
        Row(
            FPN,
            {"num_classes": 5, "backbone": backbone, "norm": "group", "smooth": False, "align_corners": True},
            variant=f"{backbone}, as smp",
            source="smp_timm" if encoder.startswith("tu-") else "smp",
            reference=_smp(encoder),
            sizes=((64, 96), (96, 160)),
        )
        for backbone, encoder in (("resnet18", "resnet18"), ("test_convnext", "tu-test_convnext"))
    ),
]
