"""FCN beside torchvision's and mmsegmentation's."""

from trimask.networks.fcn import FCN
from trimask.parity.references import mmseg, torchvision
from trimask.parity.row import Count, Published, Row

ADE20K = "mmseg/fcn_r50-d8_4xb4-160k_ade20k-512x512"
CITYSCAPES = "mmseg/fcn_r50-d8_4xb2-80k_cityscapes-512x1024"

ROWS = [
    Row(  # on a ResNet of torchvision's form, whose stem is one convolution
        FCN,
        {"num_classes": 19, "backbone": "resnet18", "output_stride": None, "channels": 128, "aux_channels": 64},
        variant="R18-D32",
        source="mmseg",
        reference=mmseg(
            "fcn/fcn_r18b-d8_4xb2-80k_cityscapes-512x1024",
            backbone={"strides": (1, 2, 2, 2), "dilations": (1, 1, 1, 1)},
        ),
    ),
    Row(  # also shows that timm dilates as torchvision does: the first block of a stage keeps the dilation before it
        FCN,
        {"num_classes": 5, "num_convs": 1, "concat_input": False},
        variant="R50-D8",
        source="torchvision",
        reference=torchvision("fcn_resnet50", num_classes=5, aux_loss=True),
        slow=True,
    ),
    Row(
        FCN,
        {"num_classes": 150, "backbone": "resnet50c"},
        variant="R50-D8, ADE20K",
        source="mmseg",
        reference=mmseg("fcn/fcn_r50-d8_4xb4-160k_ade20k-512x512"),
        published=Published(ADE20K, total=49.6, inference=47.2),
        slow=True,
    ),
]
COUNTS: list[Count] = []
