"""ESPNet: a small network of efficient spatial pyramids, 0.36 M parameters, with its light decoder.

Source: Mehta, Rastegari, Caspi, Shapiro, Hajishirzi, "ESPNet: Efficient Spatial Pyramid of Dilated Convolutions for
Semantic Segmentation", ECCV 2018, arXiv:1803.06815, and its authors' sacmehta/ESPNet (MIT), whose released CamVid
weights load as they are (experiments/camvid/espnet.yaml; README, "Released weights"). No library has the network:
parity/espnet.py writes it out once more, in another way (`make parity`). It has no timm backbone.

**Deviations**
- Any picture size: pictures are padded at the bottom and right to a multiple of 8, with the mean color, and the logits
  are cropped; the authors' sizes are multiples of 8.
- Pictures come as RGB in 0..255; the authors' weights want `bgr=True` and `std` times 255, because their loader divides
  by 255 after it has normalized.
- The decoder is at least five channels wide, where the authors' is as wide as there are classes: its pyramid has five
  branches, so that their code needs five classes.
- The convolution before the last upsampling joins the 16 + K channels of level 1, K the picture's channels: 19 there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trimask.layers.normalization import IMAGENET_MEAN, IMAGENET_STD, per_channel
from trimask.outputs import DenseOutput
from trimask.weights import RenameTable

BATCH_NORM_EPS = 1e-3
DILATIONS = (1, 2, 4, 8, 16)


class ESPNet(nn.Module):
    """One logit a class at every pixel.

    Args:
        num_classes: channels of the logits.
        p: pyramids at stride 4; 2 in the paper.
        q: pyramids at stride 8; 8 in the paper's best, 3 and 5 in its smaller ones.
        in_channels: channels of the pictures.
        mean, std: of the pictures' channels in 0..255, in the order in which pictures come; repeated cyclically beyond.
        bgr: turn the channels around behind the normalization, as the released weights want them.
    """

    output = DenseOutput
    tiny: ClassVar[dict[str, Any]] = {"p": 1, "q": 1}
    RENAMES: ClassVar[dict[str, RenameTable]] = {
        "espnet": (
            (r"^(mean|std)$", ""),
            (r".*num_batches_tracked$", ""),  # the release is older than this counter
            (r"^level1\.", "encoder.level1."),
            (r"^join(\d)\.", r"encoder.b\1."),
            (r"^down(\d)\.norm\.norm\.", r"encoder.level\1_0.bn."),
            (r"^down(\d)\.norm\.", r"encoder.level\1_0."),
            (r"^down(\d)\.", r"encoder.level\1_0."),
            (r"^pyramids(\d)\.", r"encoder.level\1."),
            (r"^classify3\.weight", "encoder.classifier.conv.weight"),
            (r"^classify2\.weight", "level3_C.conv.weight"),
            (r"^norm3\.", "br."),
            (r"^up3\.", "up_l3.0."),
            (r"^join_up\.", "combine_l2_l3.0."),
            (r"^pyramid_up\.", "combine_l2_l3.1."),
            (r"^up2\.", "up_l2.0."),
            (r"^norm2\.", "up_l2.1."),
            (r"^mix\.", "conv."),
            (r"^up1\.", "classifier."),
            (r"\.reduce\.weight", ".c1.conv.weight"),
            *((rf"\.branches\.{i}\.weight", f".d{dilation}.conv.weight") for i, dilation in enumerate(DILATIONS)),
            (r"(combine_l2_l3\.1|encoder\.level\d\.\d)\.norm\.norm\.", r"\1.bn.bn."),
            (r"(combine_l2_l3\.1|encoder\.level\d\.\d)\.norm\.act\.", r"\1.bn.act."),
            (r"\.norm\.", ".bn."),
        ),
    }

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        num_classes: int,
        *,
        p: int = 2,
        q: int = 8,
        in_channels: int = 3,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        bgr: bool = False,
    ) -> None:
        super().__init__()
        if min(p, q) < 1:
            raise ValueError(f"ESPNet needs at least one pyramid a level; got p={p} and q={q}.")
        self.register_buffer("mean", per_channel(mean, in_channels))
        self.register_buffer("std", per_channel(std, in_channels))
        self.bgr = bgr
        first = 16 + in_channels
        self.level1 = ConvNormPReLU(in_channels, 16, stride=2)
        self.join1 = NormPReLU(first)
        self.down2 = PyramidDown(first, 64)
        self.pyramids2 = nn.ModuleList(Pyramid(64, 64) for _ in range(p))
        self.join2 = NormPReLU(128 + in_channels)
        self.down3 = PyramidDown(128 + in_channels, 128)
        self.pyramids3 = nn.ModuleList(Pyramid(128, 128) for _ in range(q))
        self.join3 = NormPReLU(256)
        width = max(num_classes, len(DILATIONS))  # of the decoder
        self.classify3 = nn.Conv2d(256, width, 1, bias=False)
        self.norm3 = nn.BatchNorm2d(width, eps=BATCH_NORM_EPS)
        self.up3 = _twice(width, width)
        self.classify2 = nn.Conv2d(128 + in_channels, width, 1, bias=False)
        self.join_up = NormPReLU(2 * width)
        self.pyramid_up = Pyramid(2 * width, width, residual=False)
        self.up2 = _twice(width, width)
        self.norm2 = NormPReLU(width)
        self.mix = ConvNormPReLU(first + width, width)
        self.up1 = _twice(width, num_classes)

    def forward(self, images: Tensor) -> DenseOutput:
        """(B, in_channels, H, W) in 0..255 -> logits (B, num_classes, H, W)."""
        height, width = images.shape[-2:]
        x = (images.to(self.mean.dtype) - self.mean) / self.std
        x = F.pad(x.flip(1) if self.bgr else x, (0, -width % 8, 0, -height % 8))
        half = F.avg_pool2d(x, 3, stride=2, padding=1)
        quarter = F.avg_pool2d(half, 3, stride=2, padding=1)
        level1 = self.join1(torch.cat([self.level1(x), half], dim=1))  # (B, 16 + K, H / 2, W / 2)
        level2 = self.down2(level1)
        deep2 = _through(self.pyramids2, level2)
        level2 = self.join2(torch.cat([deep2, level2, quarter], dim=1))  # (B, 128 + K, H / 4, W / 4)
        level3 = self.down3(level2)
        deep3 = _through(self.pyramids3, level3)
        level3 = self.join3(torch.cat([level3, deep3], dim=1))  # (B, 256, H / 8, W / 8)
        coarse = self.up3(self.norm3(self.classify3(level3)))
        joined = self.join_up(torch.cat([self.classify2(level2), coarse], dim=1))
        fine = self.norm2(self.up2(self.pyramid_up(joined)))  # (B, C, H / 2, W / 2)
        logits = self.up1(self.mix(torch.cat([fine, level1], dim=1)))
        # Negative padding crops into a map of its own; a view of it would tie an export to this picture size.
        return DenseOutput(F.pad(logits, (0, width - logits.shape[-1], 0, height - logits.shape[-2])))


class Pyramid(nn.Module):
    """An efficient spatial pyramid: reduce, convolve at five dilations, sum hierarchically, join, add the input.

    The sums (each branch plus all branches of smaller dilation but the first) take away the grid that large dilations
    leave.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, stride: int = 1, kernel: int = 1, residual: bool = True
    ) -> None:
        super().__init__()
        width = out_channels // 5
        self.residual = residual
        self.reduce = nn.Conv2d(in_channels, width, kernel, stride=stride, padding=kernel // 2, bias=False)
        widths = [out_channels - 4 * width, *[width] * 4]
        self.branches = nn.ModuleList(
            nn.Conv2d(width, out, 3, padding=dilation, dilation=dilation, bias=False)
            for out, dilation in zip(widths, DILATIONS, strict=True)
        )
        self.norm = NormPReLU(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, h, w) -> (B, out, h / stride, w / stride)."""
        reduced = self.reduce(x)
        first, *others = [branch(reduced) for branch in self.branches]
        sums = [others[0]]
        for branch in others[1:]:
            sums.append(sums[-1] + branch)
        joined = torch.cat([first, *sums], dim=1)
        return self.norm(x + joined if self.residual else joined)


class PyramidDown(Pyramid):
    """The same behind a 3x3 convolution of stride 2, without the sum with the input."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, stride=2, kernel=3, residual=False)


class NormPReLU(nn.Module):
    """Batch normalization and a PReLU with a slope a channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, eps=BATCH_NORM_EPS)
        self.act = nn.PReLU(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(x))


class ConvNormPReLU(NormPReLU):
    """The same behind a 3x3 convolution."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int = 1) -> None:
        super().__init__(out_channels)
        self.conv = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.conv(x))


def _twice(in_channels: int, out_channels: int) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(in_channels, out_channels, 2, stride=2, bias=False)


def _through(blocks: nn.ModuleList, x: Tensor) -> Tensor:
    for block in blocks:
        x = block(x)
    return x
