"""Mask R-CNN beside torchvision's: what is detected, and in training what both stages say of the same proposals.

Behind torchvision's resizing, which is no part of the network here. Its answers are brought into our order of classes
(background last), and its masks are read before they become probabilities. Random scores lie so close to each other that
rounding would decide which of two boxes is the better one, so the last layers are scaled.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trimask.networks.mask_rcnn import MaskRCNN, filled
from trimask.outputs.region import FEW
from trimask.parity.row import Reference, Row, randomize

NUM_CLASSES = 5
TOP = 100
BACKGROUND = 4 * (1024 + 1) + 256 + 1  # parameters of boxes and masks of the background, which ours does not have


def _reference(name: str, make: Callable[[Any], nn.Module]) -> Reference:
    def build() -> nn.Module:
        network = randomize(make(importlib.import_module("torchvision.models.detection"))).eval()
        set_apart(network)
        return network

    return Reference("torchvision", name, build, detected, trained=both_stages)


@torch.inference_mode()
def set_apart(network: Any) -> None:
    """Scales the last layers so that no logit is so large or so close to others that rounding would matter, and no box far from
    its proposal."""
    listed, features = pyramid(network, torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0)))
    logits, deltas = network.rpn.head(list(features.values()))
    _scale(network.rpn.head.cls_logits, torch.cat([x.flatten() for x in logits]))
    _scale(network.rpn.head.bbox_pred, torch.cat([x.flatten() for x in deltas]), 0.5)
    heads, boxes = network.roi_heads, [torch.tensor([[0.0, 0, 60, 40], [30, 20, 90, 60], [10, 10, 20, 30]])]
    pooled = heads.box_head(heads.box_roi_pool(features, boxes, listed.image_sizes))
    logits, deltas = heads.box_predictor(pooled)
    _scale(heads.box_predictor.cls_score, logits)
    _scale(heads.box_predictor.bbox_pred, deltas, 1.0)
    pooled = heads.mask_head(heads.mask_roi_pool(features, boxes, listed.image_sizes))
    _scale(heads.mask_predictor.mask_fcn_logits, heads.mask_predictor(pooled))


def _scale(layer: Any, answers: Tensor, spread: float = 2.0) -> None:
    layer.weight.mul_(spread / answers.std())


def pyramid(network: Any, images: Tensor) -> tuple[Any, Any]:
    """The padded pictures with their own size, as torchvision keeps both, and the pyramid."""
    listed: Any = importlib.import_module("torchvision.models.detection.image_list")
    height, width = images.shape[-2:]
    padded = F.pad(images, (0, -width % 32, 0, -height % 32))
    return listed.ImageList(padded, [(height, width)] * len(images)), network.backbone(padded)


def detected(network: Any, images: Tensor) -> list[Tensor]:
    """Boxes, scores and mask logits of a picture."""
    listed, features = pyramid(network, images)
    proposals, _ = network.rpn(listed, features)
    made: list[Tensor] = []
    hook = network.roi_heads.mask_predictor.register_forward_hook(lambda *call: made.append(call[-1]))
    [found], _ = network.roi_heads(features, proposals, listed.image_sizes)
    hook.remove()
    masks = made[0][torch.arange(len(found["labels"])), found["labels"]]
    return [filled(row, TOP)[None] for row in (found["boxes"], found["scores"], masks)]


def both_stages(network: Any, images: Tensor) -> list[Tensor]:
    """Logits and deltas of each level; class logits, deltas and masks of the proposals that training would have."""
    listed, features = pyramid(network, images)
    rpn, heads = network.rpn, network.roi_heads
    logits, deltas = rpn.head(list(features.values()))
    anchors = rpn.anchor_generator(listed, list(features.values()))
    logits = [x.permute(0, 2, 3, 1).flatten(1) for x in logits]
    deltas = [x.unflatten(1, (-1, 4)).permute(0, 3, 4, 1, 2).flatten(1, 3) for x in deltas]
    decoded = rpn.box_coder.decode(torch.cat(deltas, dim=1), anchors).view(len(images), -1, 4)
    rpn.training = True  # as many proposals, and nothing else
    counts = [x.shape[1] for x in logits]
    proposals, _ = rpn.filter_proposals(decoded, torch.cat(logits, dim=1), listed.image_sizes, counts)
    rpn.training = False
    proposals = [boxes[:FEW] for boxes in proposals]
    scores, refined = heads.box_predictor(heads.box_head(heads.box_roi_pool(features, proposals, listed.image_sizes)))
    scores = scores.roll(-1, dims=1)
    masks = heads.mask_predictor(heads.mask_head(heads.mask_roi_pool(features, proposals, listed.image_sizes)))
    best = scores[:, :-1].argmax(dim=1)
    masks = masks[torch.arange(len(masks)), best + 1]
    return [*logits, *deltas, scores, refined.unflatten(1, (-1, 4))[:, 1:], masks]


def small_detector(detection: Any) -> nn.Module:
    backbone = detection.backbone_utils.resnet_fpn_backbone(
        backbone_name="resnet18", weights=None, norm_layer=nn.BatchNorm2d, trainable_layers=5
    )
    head = detection.faster_rcnn.TwoMLPHead(256 * 49, 64)
    predictor = detection.faster_rcnn.FastRCNNPredictor(64, NUM_CLASSES + 1)
    masks = {
        "mask_head": detection.mask_rcnn.MaskRCNNHeads(256, [16] * 4, 1),
        "mask_predictor": detection.mask_rcnn.MaskRCNNPredictor(16, 16, NUM_CLASSES + 1),
    }
    return detection.MaskRCNN(backbone, box_head=head, box_predictor=predictor, **masks)


def _published(name: str) -> Callable[[Any], nn.Module]:
    return lambda detection: getattr(detection, name)(weights=None, weights_backbone=None, num_classes=NUM_CLASSES + 1)


def _row(variant: str, reference: Reference, surplus: int, sizes: Sequence[tuple[int, int]], **settings: Any) -> Row:
    return Row(
        MaskRCNN,
        {"num_classes": NUM_CLASSES, **settings},
        variant=variant,
        source="torchvision",
        reference=reference,
        sizes=tuple(sizes),
        slow=True,
        surplus=-surplus,
    )


ROWS = [
    _row(
        "resnet18",
        _reference("MaskRCNN resnet18", small_detector),
        4 * (64 + 1) + 16 + 1,
        [(64, 96), (65, 97)],
        backbone="resnet18",
        box_channels=64,
        mask_channels=16,
        frozen_norm=False,
    ),
    _row("R50, V1", _reference("maskrcnn_resnet50_fpn", _published("maskrcnn_resnet50_fpn")), BACKGROUND, [(33, 65)]),
    _row(
        "R50, V2",
        _reference("maskrcnn_resnet50_fpn_v2", _published("maskrcnn_resnet50_fpn_v2")),
        BACKGROUND,
        [(33, 65)],
        rpn_convs=2,
        box_convs=4,
        norm="batch",
        frozen_norm=False,
    ),
]
