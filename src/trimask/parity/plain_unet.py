"""PlainUNet beside mmsegmentation's U-Net, at sizes that 16 divides: it takes no others."""

from trimask.networks.plain_unet import PlainUNet
from trimask.parity.references import mmseg
from trimask.parity.row import Published, Row

CITYSCAPES = "mmseg/unet-s5-d16_fcn_4xb4-160k_cityscapes-512x1024"

ROWS = [
    Row(
        PlainUNet,
        {"num_classes": 19},
        variant="S5-D16, Cityscapes",
        source="mmseg",
        reference=mmseg("unet/unet-s5-d16_fcn_4xb4-160k_cityscapes-512x1024"),
        published=Published(CITYSCAPES, total=29.06, inference=28.99),
        sizes=((64, 96), (80, 48)),
        slow=True,
    )
]
