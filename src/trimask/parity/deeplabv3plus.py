"""DeepLabV3+ beside mmsegmentation's and segmentation_models_pytorch's.

Some pictures are so high or wide that every tap of the rates 12, 24 and 36 meets the map. mmseg's ResNet-18 is compared without
dilation: mmseg dilates the first convolution of a basic block alone, timm both.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from trimask.networks.deeplabv3plus import AS_SMP, DeepLabV3Plus
from trimask.parity.references import mmseg, smp
from trimask.parity.row import Count, Published, Row

LONG = ((128, 192), (33, 1217), (1249, 65))
LONG_16 = ((64, 96), (48, 624), (656, 32))  # smp takes multiples of the output stride alone
R18 = {
    "num_classes": 19,
    "backbone": "resnet18",
    "output_stride": None,
    "channels": 128,
    "skip_channels": 12,
    "aux_channels": 64,
}
UNDILATED = {"strides": (1, 2, 2, 2), "dilations": (1, 1, 1, 1)}
R50, R101 = ({"num_classes": 19, "backbone": backbone} for backbone in ("resnet50c", "resnet101c"))


def _answer_without_upsampling(network: Any, images: Tensor) -> Sequence[Tensor]:
    return [network.segmentation_head[0](network.decoder(network.encoder(images)))]


def _smp_row(backbone: str) -> Row:
    reference = smp("DeepLabV3Plus", f"tu-{backbone}", classes=5)
    return Row(
        DeepLabV3Plus,
        {"num_classes": 5, "backbone": backbone, **AS_SMP},
        variant=f"{backbone}, stride 16",
        source="smp_timm",
        reference=replace(reference, answers=_answer_without_upsampling),
        sizes=LONG_16,
        slow=True,
    )


ROWS = [
    Row(
        DeepLabV3Plus,
        R18,
        variant="R18-D32",
        source="mmseg",
        reference=mmseg("deeplabv3plus/deeplabv3plus_r18b-d8_4xb2-80k_cityscapes-512x1024", backbone=UNDILATED),
        sizes=LONG,
    ),
    Row(
        DeepLabV3Plus,
        {**R18, "align_corners": True},
        variant="R18-D32, aligned corners",
        source="mmseg",
        reference=mmseg("deeplabv3plus/deeplabv3plus_r18b-d8_4xb2-80k_cityscapes-769x769", backbone=UNDILATED),
        sizes=((128, 192), (65, 97)),
    ),
    _smp_row("resnet18"),
    _smp_row("tf_efficientnet_lite0"),
    Row(
        DeepLabV3Plus,
        {"num_classes": 150, "backbone": "resnet50c"},
        variant="R50-D8, ADE20K",
        source="mmseg",
        reference=mmseg("deeplabv3plus/deeplabv3plus_r50-d8_4xb4-160k_ade20k-512x512"),
        published=Published("mmseg/deeplabv3plus_r50-d8_4xb4-160k_ade20k-512x512", total=43.69, inference=41.29),
        slow=True,
    ),
]
COUNTS = [
    Count(DeepLabV3Plus, arguments, Published(f"mmseg/deeplabv3plus_{where}", total=total, inference=inference))
    for arguments, where, total, inference in (
        (R50, "r50-d8_4xb2-80k_cityscapes-512x1024", 43.59, 41.23),
        (R50, "r50-d8_4xb2-80k_cityscapes-769x769", 43.59, 41.23),
        (R101, "r101-d8_4xb2-80k_cityscapes-512x1024", 62.58, 60.22),
        ({**R50, "num_classes": 21}, "r50-d8_4xb4-40k_voc12aug-512x512", 43.59, 41.23),
        ({**R101, "num_classes": 21}, "r101-d8_4xb4-40k_voc12aug-512x512", 62.58, 60.22),
    )
]
