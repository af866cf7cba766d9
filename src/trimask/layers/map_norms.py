"""A layer norm on each map of a backbone, which segmentation networks add where the backbone's own last norm is missing.

Sources: the segmentation code of Swin Transformer and ConvNeXt (both MIT), whose backbones end in `norm0` to `norm3`; MaskFormer,
Mask2Former, mmsegmentation and transformers do the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

# Backbones whose maps leave them without a last norm -> eps of the norm that the published networks give each map.
PUBLISHED_MAP_NORMS = {"swin": 1e-5, "convnext": 1e-6}

MapNorm = float | Literal["published"] | None


class ChannelNorm(nn.LayerNorm):
    """Layer normalization over the channels of each cell: (B, D, h, w) -> the same."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def map_norms(widths: Sequence[int], map_norm: MapNorm, *, backbone: str) -> nn.ModuleList | None:
    """One norm a map, or None for no such norms.

    Args:
        widths: channels of the maps.
        map_norm: eps of the norms; None for no norms, "published" for the published ones (Swin 1e-5, ConvNeXt 1e-6, no others).
        backbone: timm name.
    """
    eps = _published(backbone) if map_norm == "published" else map_norm
    return None if eps is None else nn.ModuleList(ChannelNorm(width, eps=eps) for width in widths)


def _published(backbone: str) -> float | None:
    return next((eps for family, eps in PUBLISHED_MAP_NORMS.items() if backbone.startswith(family)), None)
