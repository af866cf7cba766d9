"""Multi-scale deformable attention: each query looks at a few points of every map, which it chooses itself.

Source: Zhu et al., "Deformable DETR: Deformable Transformers for End-to-End Object Detection", ICLR 2021, arXiv:2010.04159;
official code fundamentalvision/Deformable-DETR (Apache-2.0), whose operator is compiled for CUDA. Equal to transformers' version
in plain torch (tests/layers/test_deformable_attention.py, `make parity`).

Points are in cells of a map, (x, y) with 0 in the middle of the first cell; what lies beyond a border counts as 0. There are two
ways to the same sums, both without a compiled operator of our own:

- `looked_up`, on a CPU: a point is four rows of a table of cells with one weight each, so a query's answer is a weighted sum of
  rows, which torch has as `embedding_bag`. No value of a single point is ever kept. The gradient by the table is such a sum, too,
  over the queries of each cell.
- `sampled`, elsewhere and in exported programs: `grid_sample` on each map.

**Deviations**: where to look, and how much each point counts, is computed in fp32 at least, also within autocast.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import cos, pi, sin
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from trimask.types import Size


class DeformableAttention(nn.Module):
    """Queries -> the weighted sum of what they find at points around their own place.

    Args:
        channels: D, of queries, values and answers.
        num_heads: M; each has D / M of the channels, and points of its own.
        num_levels: L, of maps.
        num_points: K of each head in each map.

    Raises:
        ValueError: the channels cannot be divided among the heads.
    """

    def __init__(self, channels: int, *, num_heads: int = 8, num_levels: int = 3, num_points: int = 4) -> None:
        super().__init__()
        if channels % num_heads:
            raise ValueError(f"{channels} channels cannot be divided among {num_heads} heads.")
        self.points_shape = (num_heads, num_levels, num_points)
        num_all = num_heads * num_levels * num_points
        self.sampling_offsets = nn.Linear(channels, 2 * num_all)
        self.attention_weights = nn.Linear(channels, num_all)
        self.value_proj = nn.Linear(channels, channels)
        self.output_proj = nn.Linear(channels, channels)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Each head looks in a direction of its own, its points one after the other, all with the same weight."""
        for layer in (self.sampling_offsets, self.attention_weights):
            nn.init.zeros_(layer.weight)
        num_heads, _, num_points = self.points_shape
        angles = [2 * pi * head / num_heads for head in range(num_heads)]
        directions = torch.tensor([[cos(angle), sin(angle)] for angle in angles])
        directions = directions / directions.abs().amax(dim=1, keepdim=True)
        steps = torch.arange(1.0, num_points + 1)[:, None] * directions[:, None, None]  # (M, 1, K, 2)
        self.sampling_offsets.bias.copy_(steps.expand(*self.points_shape, 2).flatten())
        nn.init.zeros_(self.attention_weights.bias)
        for layer in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, queries: Tensor, values: Tensor, places: Sequence[Tensor], sizes: Sequence[Size]) -> Tensor:
        """Where each query stands is given, how far away it looks is learned.

        Args:
            queries: (B, N, D).
            values: (B, S, D), the cells of all maps one after the other, each row by row.
            places: for each map, (N, 2) where the queries stand in it; see `places_of_cells`.
            sizes: of the maps.

        Returns: (B, N, D).
        """
        with torch.autocast(queries.device.type, enabled=False):
            exact = queries.to(torch.promote_types(queries.dtype, self.sampling_offsets.weight.dtype))
            offsets = self.sampling_offsets(exact).unflatten(2, (*self.points_shape, 2))  # (B, N, M, L, K, 2)
            logits = self.attention_weights(exact).unflatten(2, (self.points_shape[0], -1))
        offsets, logits = (x.to(torch.promote_types(x.dtype, torch.float32)) for x in (offsets, logits))
        weights = logits.softmax(dim=-1).unflatten(3, self.points_shape[1:])  # (B, N, M, L, K)
        points = [place[:, None, None] + x for place, x in zip(places, offsets.unbind(3), strict=True)]
        values = self.value_proj(values).unflatten(2, (self.points_shape[0], -1)).to(weights.dtype)  # (B, S, M, D / M)
        way = looked_up if values.device.type == "cpu" and not torch.compiler.is_exporting() else sampled
        return self.output_proj(way(values, points, weights.unbind(3), sizes))


def places_of_cells(sizes: Sequence[Size], *, like: Tensor) -> list[Tensor]:
    """Where the cells of all maps are in each of the maps: one (N, 2) a map, in its cells, in fp32 at least."""
    dtype = torch.promote_types(like.dtype, torch.float32)
    inside = []
    for height, width in sizes:
        y, x = (torch.arange(length, dtype=dtype, device=like.device) for length in (height, width))
        x, y = ((x + 0.5) / width).expand(height, -1), ((y + 0.5) / height)[:, None].expand(-1, width)
        inside.append(torch.stack([x, y], dim=-1).flatten(0, 1))
    everywhere = torch.cat(inside)  # (N, 2) in 0..1 of the picture
    x, y = everywhere.unbind(-1)
    return [torch.stack([x * width - 0.5, y * height - 0.5], dim=-1) for height, width in sizes]


# --- two ways to the same sums ---


def sampled(values: Tensor, points: Sequence[Tensor], weights: Sequence[Tensor], sizes: Sequence[Size]) -> Tensor:
    """The weighted sum of bilinear values, map by map.

    Args:
        values: (B, S, M, C), the cells of all maps.
        points: (B, N, M, K, 2) for each map, in its cells.
        weights: (B, N, M, K) for each map.
        sizes: of the maps.

    Returns: (B, N, M * C).
    """
    total = None
    maps = values.split([height * width for height, width in sizes], dim=1)
    for (height, width), cells, places, weight in zip(sizes, maps, points, weights, strict=True):
        x, y = places.transpose(1, 2).flatten(0, 1).unbind(-1)  # (B * M, N, K)
        grid = torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], dim=-1)
        as_maps = cells.permute(0, 2, 3, 1).flatten(0, 1).unflatten(2, (height, width))  # (B * M, C, h, w)
        found = F.grid_sample(as_maps, grid, mode="bilinear", align_corners=False)  # (B * M, C, N, K)
        part = (found * weight.transpose(1, 2).flatten(0, 1)[:, None]).sum(dim=-1)
        total = part if total is None else total + part
    assert total is not None
    return total.unflatten(0, (values.shape[0], -1)).flatten(1, 2).transpose(1, 2)


def looked_up(values: Tensor, points: Sequence[Tensor], weights: Sequence[Tensor], sizes: Sequence[Size]) -> Tensor:
    """As `sampled`."""
    num_heads = values.shape[2]
    table = torch.cat(
        [
            F.pad(x.unflatten(1, size), (0, 0, 0, 0, 1, 1, 1, 1)).flatten(1, 2)  # a frame of zeros around each map
            for size, x in zip(sizes, values.split([height * width for height, width in sizes], dim=1), strict=True)
        ],
        dim=1,
    )
    batch_size, num_cells = table.shape[:2]
    picture = torch.arange(batch_size, dtype=torch.int32, device=values.device)[:, None] * num_cells
    head = torch.arange(num_heads, dtype=torch.int32, device=values.device)
    first_rows = picture * num_heads + head  # (B, M)
    rows, shares = [], []
    for size, places, weight in zip(sizes, points, weights, strict=True):
        row, share = _corners(places, weight, size, first_rows[:, None, :, None], num_heads)
        rows.append(row)
        shares.append(share)
        first_rows = first_rows + (size[0] + 2) * (size[1] + 2) * num_heads
    row, share = (torch.cat(x, dim=3).flatten(3).flatten(0, 2) for x in (rows, shares))  # (B * N * M, L * K * 4)
    answer = _weighted_rows(table.flatten(0, 2), row, share)
    return answer.view(batch_size, -1, num_heads * values.shape[3])


def _corners(points: Tensor, weights: Tensor, size: Size, first_row: Tensor, num_heads: int) -> tuple[Tensor, Tensor]:
    """(B, N, M, K, 4) each: rows of the table in which the four cells around each point are, and how much each counts.

    A point beyond the frame is moved onto it, where all is 0 and nothing to be gained by moving.
    """
    (height, width), (x, y) = size, points.unbind(-1)
    x, y = x.clamp(-1, width), y.clamp(-1, height)
    left, top = (x.detach().floor().clamp(max=width - 1), y.detach().floor().clamp(max=height - 1))
    right_share, below = x - left, weights * (y - top)
    above = weights - below
    above_right, below_right = above * right_share, below * right_share
    shares = torch.stack([above - above_right, above_right, below - below_right, below_right], dim=-1)
    line = (width + 2) * num_heads
    row = top.int() * line + left.int() * num_heads + (first_row + line + num_heads)
    return torch.stack([row, row + num_heads, row + line, row + line + num_heads], dim=-1), shares


def _weighted_rows(table: Tensor, rows: Tensor, shares: Tensor) -> Tensor:
    """(R, C) table, (G, P) rows of it and what each counts -> (G, C)."""
    sums = F.embedding_bag(rows, table.detach(), mode="sum", per_sample_weights=shares)
    return _ByTable.apply(sums, table, rows, shares.detach())


class _ByTable(torch.autograd.Function):
    """Gives sums of rows their gradient by the table, as sums again; torch's own way takes five times as long."""

    @staticmethod
    def forward(ctx: Any, sums: Tensor, table: Tensor, rows: Tensor, shares: Tensor) -> Tensor:
        ctx.save_for_backward(rows, shares)
        ctx.num_rows = len(table)
        return sums.view_as(sums)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        rows, shares = ctx.saved_tensors
        by_table = _sums_of_readers(gradient, rows, shares, ctx.num_rows) if ctx.needs_input_grad[1] else None
        return gradient, by_table, None, None


def _sums_of_readers(gradient: Tensor, rows: Tensor, shares: Tensor, num_rows: int) -> Tensor:
    """(R, C): for each row of the table, the weighted sum of the gradients of all who read it."""
    ordered, order = rows.flatten().sort()
    starts = torch.searchsorted(ordered, torch.arange(num_rows, dtype=rows.dtype, device=rows.device), out_int32=True)
    readers = (order // rows.shape[1]).int()
    shares = shares.flatten().index_select(0, order)
    return F.embedding_bag(readers, gradient.contiguous(), starts, mode="sum", per_sample_weights=shares)
