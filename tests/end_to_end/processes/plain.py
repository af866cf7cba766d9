"""Networks for dense outputs that train in no time."""

import torch
from torch import nn

from trimask.outputs import DenseOutput


class Plain(nn.Module):
    """No norm and no dropout, so that what a process computes does not depend on which pictures it shares a batch with.

    Args: norm: has a batch norm in front all the same.
    """

    output = DenseOutput

    def __init__(self, num_classes: int, norm: bool = False) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3) if norm else nn.Identity()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3, 4, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, num_classes, 1)
        )

    def forward(self, images: torch.Tensor) -> DenseOutput:
        return DenseOutput(self.layers(self.norm(images.float() / 255)))
