"""SegNet beside a second writing of it: no library has the network.

The second one is VGG-16 and its mirror image as the layers of the authors' Models/segnet_train.prototxt follow each other, each
written down by itself. It pools by comparing the four pixels of a window and unpools by writing numbers into zeros, with nothing
of torch's own pooling or unpooling.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trimask.networks.segnet import SegNet
from trimask.parity.row import Reference, Row

Widths = tuple[int, ...]
ENCODER: tuple[Widths, ...] = (
    (3, 64, 64),
    (64, 128, 128),
    (128, 256, 256, 256),
    (256, 512, 512, 512),
    (512, 512, 512, 512),
)
DECODER: tuple[Widths, ...] = (
    (512, 512, 512, 512),
    (512, 512, 512, 256),
    (256, 256, 256, 128),
    (128, 128, 64),
    (64, 64),
)


class LiteralSegNet(nn.Module):
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.features = nn.ModuleDict()
        position = 0
        for stage in ENCODER:
            for width, after in pairwise(stage):
                self.features[str(position)] = nn.Conv2d(width, after, 3, padding=1)
                self.features[str(position + 1)] = nn.BatchNorm2d(after)
                position += 3  # a ReLU follows
            position += 1  # a pooling
        self.decoder = nn.ModuleDict()
        for number, stage in enumerate(DECODER):
            block = nn.ModuleDict()
            for place, (width, after) in enumerate(pairwise(stage)):
                block[str(3 * place)] = nn.Conv2d(width, after, 3, padding=1)
                block[str(3 * place + 1)] = nn.BatchNorm2d(after)
            self.decoder[str(number)] = block
        self.classify = nn.Conv2d(64, num_classes, 3, padding=1)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight)  # what is small at first is nothing after 26 layers

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, num_classes, H, W)."""
        layers: list[Any] = list(self.features.values())
        memory: list[tuple[torch.Size, Tensor, Tensor]] = []
        for stage in ENCODER:
            for _ in stage[1:]:
                x = layers.pop(0)(x)
                x = torch.clamp(layers.pop(0)(x), min=0)
            pooled, rows, columns = pool(x)
            memory.append((x.shape, rows, columns))
            x = pooled
        for block in self.decoder.children():
            x = unpool(x, *memory.pop())
            layers = list(block.children())
            while layers:
                x = layers.pop(0)(x)
                x = torch.clamp(layers.pop(0)(x), min=0)
        return self.classify(x)


def pool(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(B, C, h, w) -> (B, C, h / 2, w / 2) maxima of 2x2 windows, and the row and column of each in the map.

    Sizes are rounded up; what lies beyond the edge is smaller than everything.
    """
    height, width = -(-x.shape[-2] // 2), -(-x.shape[-1] // 2)
    whole = F.pad(x, (0, 2 * width - x.shape[-1], 0, 2 * height - x.shape[-2]), value=-torch.inf)
    corners = [whole[:, :, row::2, column::2] for row in (0, 1) for column in (0, 1)]
    best, corner = corners[0], torch.zeros_like(corners[0], dtype=torch.long)
    for number, other in enumerate(corners[1:], start=1):
        corner = torch.where(other > best, number, corner)
        best = torch.where(other > best, other, best)
    rows = 2 * torch.arange(height)[:, None] + corner // 2
    columns = 2 * torch.arange(width)[None, :] + corner % 2
    return best, rows, columns


def unpool(x: Tensor, shape: torch.Size, rows: Tensor, columns: Tensor) -> Tensor:
    """(B, C, h, w) -> `shape`, zero but at the given rows and columns."""
    picture, channel = torch.arange(shape[0])[:, None, None, None], torch.arange(shape[1])[None, :, None, None]
    return x.new_zeros(shape).index_put((picture, channel, rows, columns), x)


def _reference(num_classes: int) -> Reference:
    return Reference(
        "torch",
        "SegNet, written out",
        lambda: LiteralSegNet(num_classes),
        lambda network, pictures: [network(pictures)],
    )


ROWS = [
    Row(
        SegNet,
        {"num_classes": 11},
        variant="VGG16-BN, CamVid",
        source="literal",
        reference=_reference(11),
        slow=True,
    )
]
