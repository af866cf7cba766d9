"""SegNet: a VGG, and its mirror image that puts values back to where the maximum of each pooling window was.

Source: Badrinarayanan, Kendall, Cipolla, "SegNet: A Deep Convolutional Encoder-Decoder Architecture for Image Segmentation",
TPAMI 2017, arXiv:1511.00561, and the authors' alexgkendall/SegNet-Tutorial, Models/segnet_train.prototxt (its license is for
research only; nothing of it is here). No library has it: parity/segnet.py writes it out once more, in another way
(`make parity`).

**Deviations**
- From the paper: pictures are normalized by the mean and std of the backbone's weights; the paper normalizes their contrast
  locally, its tutorial not at all.
- From the tutorial: batch norms are torch's (eps 1e-5, momentum 0.1), and the backbone is timm's VGG16 with batch norms, whose
  ImageNet weights are torchvision's. The tutorial's are those of the VGG16 without, so that all of its norms begin anew.
- Pictures of any size, and any VGG with batch norms. As in the tutorial, windows of odd maps reach beyond the edge, so that
  every pixel is in one; timm's own pooling leaves the last row out.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from trimask.layers.backbone import Backbone
from trimask.outputs import DenseOutput
from trimask.weights import RenameTable


class SegNet(nn.Module):
    """One logit a class at every pixel.

    Args:
        num_classes: channels of the logits.
        backbone: timm's name of a VGG with batch norms: "vgg11_bn", "vgg13_bn", "vgg16_bn" or "vgg19_bn".
        pretrained: see `Backbone`.
        in_channels: channels of the pictures.

    Raises:
        ValueError: see `Backbone`; or another backbone.
    """

    output = DenseOutput
    tiny: ClassVar[dict[str, Any]] = {"backbone": "vgg11_bn"}
    # literal: the network of parity/segnet.py
    RENAMES: ClassVar[dict[str, RenameTable]] = {
        "literal": ((r"^backbone\.(mean|std)$", ""), (r"^backbone\.body\.features_(\d+)\.", r"features.\1."))
    }

    def __init__(
        self,
        num_classes: int,
        *,
        backbone: str = "vgg16_bn",
        pretrained: bool | str = True,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        if not (backbone.startswith("vgg") and "_bn" in backbone):
            raise ValueError(f"SegNet mirrors a VGG with batch norms, such as 'vgg16_bn'; got {backbone!r}.")
        self.backbone = Backbone(backbone, pretrained=pretrained, in_channels=in_channels)
        widths = [[layer.out_channels for layer in stage if isinstance(layer, nn.Conv2d)] for stage in self._stages()]
        coarser = ([before[-1], *stage] for before, stage in pairwise(widths))
        self.decoder = nn.ModuleList(_mirrored(path) for path in reversed([widths[0], *coarser]))
        self.classify = nn.Conv2d(widths[0][0], num_classes, 3, padding=1)
        _initialize(self.decoder, self.classify)

    def forward(self, images: Tensor) -> DenseOutput:
        """(B, in_channels, H, W) in 0..255 -> logits (B, num_classes, H, W)."""
        x = (images.to(self.backbone.mean.dtype) - self.backbone.mean) / self.backbone.std
        pooled = []  # places of the maxima, and the size before, finest first
        for stage in self._stages():
            for layer in stage:
                x = layer(x)
            size = x.shape[-2:]
            x, places = F.max_pool2d(x, 2, ceil_mode=True, return_indices=True)
            pooled.append((places, size))
        for block, (places, size) in zip(self.decoder, reversed(pooled), strict=True):
            x = block(F.max_unpool2d(x, places, [2, 2], output_size=size))
        return DenseOutput(self.classify(x))

    def _stages(self) -> list[list[nn.Module]]:
        """The backbone's layers between its poolings, finest first. Asked anew each time, as layers may be exchanged."""
        stages: list[list[nn.Module]] = [[]]
        for layer in self.backbone.body.children():
            if isinstance(layer, nn.MaxPool2d):
                stages.append([])
            else:
                stages[-1].append(layer)
        return stages[:-1]  # nothing follows the last pooling


def _mirrored(widths: Sequence[int]) -> nn.Sequential:
    """Convolution, norm and ReLU from each width to the one before: a stage of the encoder backwards."""
    layers: list[nn.Module] = []
    for in_channels, out_channels in pairwise(reversed(widths)):
        layers += [
            nn.Conv2d(in_channels, out_channels, 3, padding=1),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers)


def _initialize(*parts: nn.Module) -> None:
    """As the tutorial: He's normal initialization, norms that shift by a little."""
    for module in (module for part in parts for module in part.modules()):
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            nn.init.zeros_(module.get_parameter("bias"))
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.constant_(module.bias, 0.001)
