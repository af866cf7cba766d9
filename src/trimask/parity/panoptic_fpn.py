"""Panoptic-FPN beside torchvision's Mask R-CNN with mmdetection's branch for pixels on the same pyramid.

No library that can be installed has the whole: detectron2 is not on PyPI, and mmdetection's detectors need compiled operators.
Its branch does not, so that both halves are another library's, and only their joint is written here.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor, nn

from trimask.convert import load_released
from trimask.networks import untrained
from trimask.networks.mask_rcnn import MaskRCNN
from trimask.networks.panoptic_fpn import PanopticFPN
from trimask.parity.mask_rcnn import NUM_CLASSES, both_stages, detected, pyramid, set_apart, small_detector
from trimask.parity.references import require_mmdet
from trimask.parity.row import Reference, Row, randomize
from trimask.weights import translate

CHANNELS = 32  # of the branch for pixels
DETECTOR = {"backbone": "resnet18", "box_channels": 64, "mask_channels": 16, "frozen_norm": False}

_PIXELS = (
    *((rf"^levels\.(\d)\.{2 * step}\.conv\.", rf"conv_upsample_layers.\1.conv.{step}.conv.") for step in range(3)),
    *((rf"^levels\.(\d)\.{2 * step}\.norm\.", rf"conv_upsample_layers.\1.conv.{step}.gn.") for step in range(3)),
    (r"^classify\.", "conv_logits."),
)


class _Joined(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        require_mmdet()
        registry: Any = importlib.import_module("mmdet.registry").MODELS
        self.detector = small_detector(importlib.import_module("torchvision.models.detection"))
        self.pixels = registry.build(
            {
                "type": "PanopticFPNHead",
                "num_things_classes": 1,
                "num_stuff_classes": NUM_CLASSES,
                "in_channels": 256,
                "inner_channels": CHANNELS,
            }
        )


def _build() -> nn.Module:
    network = randomize(_Joined()).eval()
    set_apart(network.detector)
    return network


def _classes_of_pixels(network: Any, images: Tensor) -> Tensor:
    _, levels = pyramid(network.detector, images)
    return network.pixels(list(levels.values()))["seg_preds"]


def _answers(network: Any, images: Tensor) -> list[Tensor]:
    return [_classes_of_pixels(network, images), *detected(network.detector, images)]


def _trained(network: Any, images: Tensor) -> list[Tensor]:
    return [_classes_of_pixels(network, images), *both_stages(network.detector, images)]


class _Row(Row):
    def pair(self) -> tuple[nn.Module, nn.Module]:
        """Each half by its own library's names."""
        torch.manual_seed(0)
        theirs: Any = self.reference.build()
        ours: Any = untrained(self.network, self.arguments).eval()
        half = untrained(MaskRCNN, {"num_classes": NUM_CLASSES, **DETECTOR})
        load_released(half, theirs.detector.state_dict(), self.source)
        pixels = translate(theirs.pixels.state_dict(), ours.semantic.state_dict(), _PIXELS)
        ours.load_state_dict(half.state_dict() | {f"semantic.{name}": value for name, value in pixels.items()})
        return ours, theirs


ROWS = [
    _Row(
        PanopticFPN,
        {"num_classes": NUM_CLASSES, "semantic_channels": CHANNELS, **DETECTOR},
        variant="resnet18",
        source="torchvision",
        reference=Reference("mmdet", "MaskRCNN with PanopticFPNHead", _build, _answers, trained=_trained),
        surplus=-(4 * (64 + 1) + 16 + 1),
    )
]
