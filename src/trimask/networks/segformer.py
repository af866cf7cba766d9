"""SegFormer: a Mix Transformer and a head of linear layers.

Source: Xie et al., "SegFormer: Simple and Efficient Design for Semantic Segmentation with Transformers", NeurIPS 2021,
arXiv:2105.15203. Official code: NVlabs/SegFormer (NVIDIA Source Code License, not for commercial use; nothing of it is here).
With the same weights the logits are those of transformers' `SegformerForSemanticSegmentation`, of smp's `Segformer` and, with
`level_norm=True, decoder_channels=256`, of mmsegmentation's `SegformerHead` (`make parity`).

**Deviations**
- Linear layers and bilinear upsampling commute, so that each level is brought to the width of the fusion first, by one matrix
  (the product of the two that the others apply one after the other), and upsampled and added then. The others upsample four
  maps of the decoder's width, join them and multiply the joint map: in the finest resolution, seven eighths of the work.
- The published networks differ in the eps of their layer norms; see layers/mit.py. `eps=1e-6` is mmsegmentation's, `eps=1e-5`
  transformers', the default the official one.
- Pictures of any size; smp refuses all but multiples of 32.
- Whole channels are dropped before the classifier, as in the official code; transformers drops single numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trimask.layers import mit
from trimask.layers.mit import MixTransformer
from trimask.outputs import DenseOutput
from trimask.weights import RenameTable


def _convert_nvlabs(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without a second classifier that files carry and nothing uses."""
    return {name: value for name, value in weights.items() if not name.startswith("decode_head.conv_seg.")}


def _convert_mmseg(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """As linear layers what is one, and the columns of the fusion from finest first to coarsest first."""
    converted = mit.convert_mmseg(weights)
    for name in [name for name in converted if name.startswith("decode_head.convs.") and name.endswith("conv.weight")]:
        converted[name] = converted[name].flatten(1)
    fusion = "decode_head.fusion_conv.conv.weight"
    if fusion in converted:
        converted[fusion] = torch.cat(converted[fusion].chunk(4, dim=1)[::-1], dim=1)
    return converted


class SegFormer(nn.Module):
    """One logit a class at every cell of stride 4.

    Args:
        num_classes: channels of the logits.
        backbone: "mit_b0" to "mit_b5".
        pretrained: see `MixTransformer`.
        in_channels: channels of the pictures.
        decoder_channels: width of the head; None for the published ones: 256 with B0 and B1, 768 with the others.
            mmsegmentation has 256 throughout.
        level_norm: a batch norm and a ReLU behind the projection of each level, as in mmsegmentation.
        dropout: rate at which whole channels are dropped before the classifier.
        drop_path: rate of stochastic depth in the last block of the backbone.
        eps: of the backbone's layer norms; see `MixTransformer`.

    Raises:
        ValueError: see `MixTransformer`.
    """

    output = DenseOutput
    tiny: ClassVar[dict[str, Any]] = {"backbone": "mit_b0", "decoder_channels": 64, "drop_path": 0.0}
    RENAMES: ClassVar[dict[str, RenameTable]] = {
        "nvlabs": (
            *mit.NVLABS,
            *((rf"^head\.levels\.{level}\.linear\.", f"decode_head.linear_c{level + 1}.proj.") for level in range(4)),
            (r"^head\.fuse\.", "decode_head.linear_fuse.conv."),
            (r"^head\.norm\.", "decode_head.linear_fuse.bn."),
            (r"^head\.classify\.", "decode_head.linear_pred."),
        ),
        "mmseg": (
            *mit.MMSEG,
            (r"^head\.levels\.(\d)\.linear\.", r"decode_head.convs.\1.conv."),
            (r"^head\.levels\.(\d)\.norm\.", r"decode_head.convs.\1.bn."),
            (r"^head\.fuse\.", "decode_head.fusion_conv.conv."),
            (r"^head\.norm\.", "decode_head.fusion_conv.bn."),
            (r"^head\.classify\.", "decode_head.conv_seg."),
        ),
        "transformers": (
            *mit.TRANSFORMERS,
            (r"^head\.levels\.(\d)\.linear\.", r"decode_head.linear_c.\1.proj."),
            (r"^head\.fuse\.", "decode_head.linear_fuse."),
            (r"^head\.norm\.", "decode_head.batch_norm."),
            (r"^head\.classify\.", "decode_head.classifier."),
        ),
        "smp": (
            *mit.SMP,
            *((rf"^head\.levels\.{level}\.", f"decoder.mlp_stage.{3 - level}.") for level in range(4)),
            (r"^head\.fuse\.", "decoder.fuse_stage.0."),
            (r"^head\.norm\.", "decoder.fuse_stage.1."),
            (r"^head\.classify\.", "segmentation_head.0."),
        ),
    }
    CONVERSIONS: ClassVar[dict[str, Callable[[Mapping[str, Tensor]], dict[str, Tensor]]]] = {
        "nvlabs": _convert_nvlabs,
        "mmseg": _convert_mmseg,
        "transformers": mit.convert_transformers,
    }

    def __init__(
        self,
        num_classes: int,
        *,
        backbone: str = "mit_b0",
        pretrained: bool | str = True,
        in_channels: int = 3,
        decoder_channels: int | None = None,
        level_norm: bool = False,
        dropout: float = 0.1,
        drop_path: float = 0.1,
        eps: float | None = None,
    ) -> None:
        super().__init__()
        self.backbone = MixTransformer(
            backbone, pretrained=pretrained, in_channels=in_channels, drop_path=drop_path, eps=eps
        )
        channels = decoder_channels or (256 if backbone in ("mit_b0", "mit_b1") else 768)
        self.head = SegFormerHead(
            self.backbone.channels, num_classes, channels=channels, level_norm=level_norm, dropout=dropout
        )

    def forward(self, images: Tensor) -> DenseOutput:
        """(B, in_channels, H, W) in 0..255 -> logits (B, num_classes, H / 4, W / 4), sizes rounded up."""
        return DenseOutput(self.head(self.backbone(images)))


class SegFormerHead(nn.Module):
    """Levels of a backbone, finest first -> logits at the size of the finest; see `SegFormer` for the arguments.

    Attributes:
        fuse: mixes the levels; its columns begin with those of the coarsest.
    """

    def __init__(
        self, in_channels: Sequence[int], num_classes: int, *, channels: int, level_norm: bool, dropout: float
    ) -> None:
        super().__init__()
        self.levels = nn.ModuleList(Level(width, channels, norm=level_norm) for width in in_channels)
        self.fuse = nn.Conv2d(len(in_channels) * channels, channels, 1, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.dropout = nn.Dropout2d(dropout)
        self.classify = nn.Conv2d(channels, num_classes, 1)
        _initialize(self)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """(B, in_channels[i], h / 2^i, w / 2^i) each -> (B, num_classes, h, w)."""
        shares = self.fuse.weight.flatten(1).chunk(len(maps), dim=1)[::-1]  # (channels, channels) each, finest first
        finest, *coarser = (level(x, share) for level, x, share in zip(self.levels, maps, shares, strict=True))
        upsample = partial(F.interpolate, size=finest.shape[-2:], mode="bilinear", align_corners=False)
        fused = upsample(coarser[0])
        for x in coarser[1:]:
            fused += upsample(x)
        fused += finest  # not the other way round: autograd takes several times as long to add to a view, which this is
        return self.classify(self.dropout(F.relu(self.norm(fused), inplace=True)))


class Level(nn.Module):
    """The way of one level into the fusion: its own linear layer, possibly norm and ReLU, and its share of the fusion's."""

    def __init__(self, in_channels: int, channels: int, *, norm: bool) -> None:
        super().__init__()
        self.linear = nn.Linear(in_channels, channels, bias=not norm)
        self.norm = nn.BatchNorm2d(channels) if norm else None

    def forward(self, x: Tensor, share: Tensor) -> Tensor:
        """(B, in_channels, h, w), (out, channels) -> (B, out, h, w), both maps with channels last."""
        x = x.permute(0, 2, 3, 1)
        if self.norm is None:  # two linear layers in a row are one
            return F.linear(x, share @ self.linear.weight, share @ self.linear.bias).permute(0, 3, 1, 2)
        hidden = F.relu(self.norm(self.linear(x).permute(0, 3, 1, 2)), inplace=True)
        return F.linear(hidden.permute(0, 2, 3, 1), share).permute(0, 3, 1, 2)


def _initialize(head: SegFormerHead) -> None:
    """As the official code, and with norms of levels as mmsegmentation: He's normal initialization in front of norms."""
    nn.init.kaiming_normal_(head.fuse.weight, mode="fan_out", nonlinearity="relu")
    for level in head.modules():
        if isinstance(level, Level) and level.norm is not None:
            nn.init.kaiming_normal_(level.linear.weight, mode="fan_out", nonlinearity="relu")
            nn.init.normal_(head.classify.weight, std=0.01)
            nn.init.zeros_(head.classify.get_parameter("bias"))
