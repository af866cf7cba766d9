"""PSPNet beside mmsegmentation's.

Its ResNet-18 is compared without dilation: mmseg dilates the first convolution of a basic block alone, timm both.
"""

from trimask.networks.pspnet import PSPNet
from trimask.parity.references import mmseg
from trimask.parity.row import Count, Published, Row

R18 = {"num_classes": 19, "backbone": "resnet18", "output_stride": None, "channels": 128, "aux_channels": 64}
UNDILATED = {"strides": (1, 2, 2, 2), "dilations": (1, 1, 1, 1)}

ROWS = [
    Row(
        PSPNet,
        R18,
        variant="R18-D32",
        source="mmseg",
        reference=mmseg("pspnet/pspnet_r18b-d8_4xb2-80k_cityscapes-512x1024", backbone=UNDILATED),
        sizes=((128, 192), (65, 97), (33, 321)),  # also maps with fewer cells than the finest grid
    ),
    Row(
        PSPNet,
        {**R18, "align_corners": True},
        variant="R18-D32, aligned corners",
        source="mmseg",
        reference=mmseg("pspnet/pspnet_r18b-d8_4xb2-80k_cityscapes-769x769", backbone=UNDILATED),
        sizes=((128, 192), (65, 97)),
    ),
    Row(
        PSPNet,
        {"num_classes": 150, "backbone": "resnet50c"},
        variant="R50-D8, ADE20K",
        source="mmseg",
        reference=mmseg("pspnet/pspnet_r50-d8_4xb4-160k_ade20k-512x512"),
        published=Published("mmseg/pspnet_r50-d8_4xb4-160k_ade20k-512x512", total=49.08, inference=46.68),
        slow=True,
    ),
]
COUNTS = [
    Count(
        PSPNet,
        {"num_classes": 19, "backbone": "resnet50c"},
        Published("mmseg/pspnet_r50-d8_4xb2-80k_cityscapes-512x1024", total=48.98, inference=46.61),
    ),
    Count(
        PSPNet,
        {"num_classes": 21, "backbone": "resnet50c"},
        Published("mmseg/pspnet_r50-d8_4xb4-40k_voc12aug-512x512", total=48.98, inference=46.61),
    ),
]
