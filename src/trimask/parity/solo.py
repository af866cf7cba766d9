"""SOLO and SOLOv2 beside mmdetection's.

Their heads answer logits in training mode only, which changes nothing else in them. Pictures are padded to multiples of 32, as
its data preprocessor does. Compared are the class logits of all cells and the mask logits of all cells, columns or rows, which
the networks here make on demand.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from trimask.networks.solo import SOLO
from trimask.networks.solov2 import SOLOv2
from trimask.parity.references import mmdet
from trimask.parity.row import Reference, Row

NUM_CLASSES, GRIDS = 5, (8, 6, 5, 4, 3)
OURS = {"num_classes": NUM_CLASSES, "backbone": "resnet18", "grids": GRIDS}
RESNET18 = {"backbone": {"depth": 18}, "neck": {"in_channels": [64, 128, 256, 512]}}
SMALL = {**RESNET18, "mask_head": {"num_classes": NUM_CLASSES, "num_grids": list(GRIDS)}}


def _levels(network: Any, images: Tensor) -> Sequence[Sequence[Tensor]]:
    """What the head says in training, a list for each kind of answer."""
    images = F.pad(images, (0, -images.shape[3] % 32, 0, -images.shape[2] % 32))
    network.mask_head.train()
    usual = torch.get_default_dtype()
    torch.set_default_dtype(images.dtype)  # of its coordinates
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of how it calls torch
        found = network.mask_head(network.extract_feat(images))
    torch.set_default_dtype(usual)
    network.mask_head.eval()
    return found


def _vanilla(network: Any, images: Tensor) -> list[Tensor]:
    masks, categories = _levels(network, images)
    return [x for level in zip(categories, masks, strict=True) for x in level]


def _decoupled(network: Any, images: Tensor) -> list[Tensor]:
    columns, rows, categories = _levels(network, images)
    return [x for level in zip(categories, columns, rows, strict=True) for x in level]


def _dynamic(network: Any, images: Tensor) -> list[Tensor]:
    filters, categories, features = _levels(network, images)
    masks = [torch.einsum("bdyx,bdhw->byxhw", x, features).flatten(1, 2) for x in filters]
    return [x for level in zip(categories, masks, strict=True) for x in level]


def _row(network: type, variant: str, reference: Reference, arguments: Mapping[str, Any], **options: Any) -> Row:
    return Row(network, arguments, variant=variant, source="mmdet", reference=reference, **options)


ROWS = [
    _row(SOLO, "R18", mmdet("solo/solo_r50_fpn_1x_coco", _vanilla, **SMALL), OURS),
    _row(
        SOLO,
        "R18, decoupled",
        mmdet("solo/decoupled-solo_r50_fpn_1x_coco", _decoupled, **SMALL),
        {**OURS, "form": "decoupled"},
    ),
    _row(
        SOLO,
        "R18, decoupled, light",
        mmdet("solo/decoupled-solo-light_r50_fpn_3x_coco", _decoupled, **SMALL),
        {**OURS, "form": "decoupled_light", "num_convs": 4},
    ),
    _row(SOLOv2, "R18", mmdet("solov2/solov2_r50_fpn_1x_coco", _dynamic, **SMALL), OURS),
    _row(
        SOLOv2,
        "R18, light",
        mmdet("solov2/solov2-light_r50_fpn_ms-3x_coco", _dynamic, **SMALL),
        {**OURS, "channels": 256, "num_convs": 2, "filter_channels": 128},
    ),
    _row(
        SOLOv2,
        "R50, COCO",
        mmdet("solov2/solov2_r50_fpn_1x_coco", _dynamic),
        {"num_classes": 80},
        sizes=((64, 96),),
        slow=True,
    ),
]
