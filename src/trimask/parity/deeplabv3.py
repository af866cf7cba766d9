"""DeepLabV3 beside mmsegmentation's, torchvision's and segmentation_models_pytorch's.

Some pictures are so high or wide that every tap of the rates 12, 24 and 36 meets the map. mmseg's ResNet-18 is compared without
dilation: mmseg dilates the first convolution of a basic block alone, timm both.
"""

from dataclasses import replace

from trimask.networks.deeplabv3 import AS_TORCHVISION, DeepLabV3
from trimask.parity.references import mmseg, smp, torchvision
from trimask.parity.row import Count, Published, Row

LONG = ((128, 192), (33, 1217), (1249, 65))
R18 = {"num_classes": 19, "backbone": "resnet18", "output_stride": None, "channels": 128, "aux_channels": 64}
UNDILATED = {"strides": (1, 2, 2, 2), "dilations": (1, 1, 1, 1)}

ROWS = [
    Row(
        DeepLabV3,
        R18,
        variant="R18-D32",
        source="mmseg",
        reference=mmseg("deeplabv3/deeplabv3_r18b-d8_4xb2-80k_cityscapes-512x1024", backbone=UNDILATED),
        sizes=LONG,
    ),
    Row(
        DeepLabV3,
        {"num_classes": 5, "backbone": "resnet18", **AS_TORCHVISION, "aux_channels": None, "align_corners": True},
        variant="R18-D8",
        source="smp_timm",
        reference=replace(
            smp("DeepLabV3", "tu-resnet18", classes=5),
            answers=lambda network, images: [
                network.segmentation_head[0](network.decoder(network.encoder(images)))  # without upsampling
            ],
        ),
        sizes=((64, 96), (65, 313), (329, 49)),
        slow=True,
    ),
    Row(
        DeepLabV3,
        {"num_classes": 150, "backbone": "resnet50c"},
        variant="R50-D8, ADE20K",
        source="mmseg",
        reference=mmseg("deeplabv3/deeplabv3_r50-d8_4xb4-160k_ade20k-512x512"),
        published=Published("mmseg/deeplabv3_r50-d8_4xb4-160k_ade20k-512x512", total=68.21, inference=65.82),
        slow=True,
    ),
    Row(
        DeepLabV3,
        {"num_classes": 21, **AS_TORCHVISION},
        variant="R50-D8, COCO with VOC's classes",
        source="torchvision",
        reference=torchvision("deeplabv3_resnet50", num_classes=21, aux_loss=True),
        published=Published("torchvision/deeplabv3_resnet50", total=42.004074),
        slow=True,
    ),
]
COUNTS = [
    Count(
        DeepLabV3,
        {"num_classes": 21, "backbone": "resnet50c"},
        Published("mmseg/deeplabv3_r50-d8_4xb4-40k_voc12aug-512x512", total=68.11, inference=65.75),
    ),
    Count(
        DeepLabV3,
        {"num_classes": 19, "backbone": "resnet101c"},
        Published("mmseg/deeplabv3_r101-d8_4xb2-80k_cityscapes-512x1024", total=87.11, inference=84.74),
    ),
    Count(
        DeepLabV3,
        {"num_classes": 21, "backbone": "resnet101", **AS_TORCHVISION},
        Published("torchvision/deeplabv3_resnet101", total=60.996202),
    ),
]
