"""A convolution over a map joined with upsampled coarse maps, without ever upsampling them. Own work; exact algebra.

Pyramid pooling upsamples maps of 1 to 36 cells to the size of the whole map, and a convolution of mostly 3x3 then goes over
all of them together. Bilinear upsampling and the shifts of a convolution act on positions, its weights on channels, so they
commute: the weights are applied to the few coarse cells, and what comes out is spread over the map. In PSPNet's head this leaves
away half of the products.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def conv_over_joined(x: Tensor, coarse: Sequence[Tensor], weight: Tensor, *, align_corners: bool = False) -> Tensor:
    """`conv2d(cat([x, *(upsample(c) for c in coarse)]), weight, padding="same")`, upsampled bilinearly to the size of x.

    Args:
        x: (B, D, h, w).
        coarse: maps (B, D', r, s), each of its own size.
        weight: (out, D + the sum of all D', k, k), k odd.

    Returns:
        (B, out, h, w).
    """
    widths = [x.shape[1], *(c.shape[1] for c in coarse)]
    mine, *theirs = weight.split(widths, dim=1)
    kernel_size, (height, width) = weight.shape[-1], x.shape[-2:]
    lines, spreads = [], []
    for c, part in zip(coarse, theirs, strict=True):
        over_rows, over_columns = (
            _spread(num_cells, length, kernel_size, align_corners, like=c)
            for num_cells, length in zip(c.shape[-2:], (height, width), strict=True)
        )
        lines.append((over_rows @ _weigh(c, part)).unflatten(2, (-1, len(weight))))  # (B, h, s * k, out)
        spreads.append(over_columns)
    upsampled = torch.cat(spreads, dim=1) @ torch.cat(lines, dim=2)  # (B, h, w, out)
    return F.conv2d(x, mine, padding=kernel_size // 2) + upsampled.permute(0, 3, 1, 2)


def _weigh(coarse: Tensor, weight: Tensor) -> Tensor:
    """(B, D, r, s), (out, D, k, k) -> (B, r * k, s * k * out): every tap's product with every cell, by (cell, tap) of rows,
    then by (cell, tap) of columns, then by channel."""
    taps = weight.permute(1, 2, 3, 0)  # (D, k, k, out)
    products = (coarse.permute(0, 2, 3, 1) @ taps.flatten(1)).unflatten(-1, taps.shape[1:])  # (B, r, s, k, k, out)
    return products.transpose(2, 3).flatten(1, 2).flatten(2)


def _spread(num_cells: int, length: int, num_taps: int, align_corners: bool, *, like: Tensor) -> Tensor:
    """(length, num_cells * num_taps): how much of a cell a tap sees from each position of the upsampled line."""
    cells = torch.eye(num_cells, dtype=like.dtype, device=like.device)
    line = F.interpolate(cells[None], length, mode="linear", align_corners=align_corners)[0]  # (cells, length)
    padded = F.pad(line, (num_taps // 2, num_taps // 2))
    return torch.stack([padded[:, tap : tap + length] for tap in range(num_taps)], dim=1).flatten(0, 1).mT
