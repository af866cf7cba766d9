"""Positions of a map's cells as sines and cosines, half of the channels for the row and half for the column.

Source: Carion et al., "End-to-End Object Detection with Transformers" (DETR), ECCV 2020, arXiv:2005.12872, as MaskFormer and
Mask2Former use it: counted from 1, divided by the map's size, times 2 pi. Equal to transformers'
`MaskFormerSinePositionEmbedding` and `Mask2FormerSinePositionEmbedding` with `normalize=True`.

Cells of a row share the sines of that row, so h + w of them are computed, not h * w: nothing needs to be kept.

**Deviations**: computed in fp32 at least; only the answer has the dtype of the features.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from trimask.types import Size

TEMPERATURE = 10000.0
EPSILON = 1e-6  # of the reference's division by the size, without which the answers would differ by it


def sine_positions(size: Size, channels: int, *, like: Tensor) -> Tensor:
    """(channels, h, w) for maps of this size, in the dtype and on the device of `like`.

    Raises:
        ValueError: `channels` is no multiple of 4.
    """
    if channels < 4 or channels % 4:
        raise ValueError(
            f"Sine positions take a multiple of 4 channels: sine and cosine, row and column; got {channels}."
        )
    height, width = size
    rows, columns = (_waves(length, channels // 2, like) for length in (height, width))
    return torch.cat([rows[:, :, None].expand(-1, -1, width), columns[:, None].expand(-1, height, -1)])


def sine_tokens(x: Tensor) -> Tensor:
    """(1, h * w, D) positions of the cells of a (B, D, h, w) map, row by row."""
    return sine_positions((x.shape[2], x.shape[3]), x.shape[1], like=x)[None].flatten(2).transpose(1, 2)


def _waves(length: int, channels: int, like: Tensor) -> Tensor:
    """(channels, length): sine and cosine in turn, of wavelengths from 1 to 10000 times the length."""
    exact = torch.promote_types(like.dtype, torch.float32)
    position = torch.arange(1, length + 1, dtype=exact, device=like.device) / (length + EPSILON) * (2 * math.pi)
    exponent = torch.arange(0, channels, 2, dtype=exact, device=like.device) / channels
    angle = position / TEMPERATURE ** exponent[:, None]
    return torch.stack([angle.sin(), angle.cos()], dim=1).flatten(0, 1).to(like.dtype)
