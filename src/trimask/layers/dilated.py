"""Dilated convolutions tap by tap where a CPU runs them: the same function, parameters and names as `nn.Conv2d`.

Each of the k x k taps of a dilated kernel moves the map by multiples of the dilation. Where it moves the map out of the
picture it meets padding alone, so only the overlap is computed: with a 3x3 kernel of rate 24 on 32 cells a quarter of the
products, and beyond the map's size the middle tap alone. Own work.

Of DeepLabV3 the pyramid is about half of the work.

Elsewhere, and in exported programs, it is the plain convolution.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from trimask.layers.depthwise import DepthwiseConv2d

Window = tuple[slice, slice]


class DilatedConv2d(nn.Conv2d):
    """`nn.Conv2d` with stride 1, an odd kernel, no bias and padding that keeps the size."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if not input.is_cpu or torch.compiler.is_exporting():
            return super()._conv_forward(input, weight, bias)
        if torch.is_autocast_enabled("cpu"):
            input, weight = (x.to(torch.get_autocast_dtype("cpu")) for x in (input, weight))
        return convolve_by_taps(input, weight.permute(2, 3, 1, 0), self.dilation[0])


class DilatedDepthwiseConv2d(DepthwiseConv2d):
    """`DepthwiseConv2d` with stride 1, an odd kernel, no bias and padding that keeps the size."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if not input.is_cpu or torch.compiler.is_exporting():
            return super()._conv_forward(input, weight, bias)
        return convolve_by_taps(input, weight[:, 0].permute(1, 2, 0), self.dilation[0])


def convolve_by_taps(x: Tensor, taps: Tensor, rate: int) -> Tensor:
    """(B, D, h, w), taps (k, k, D, D') or depthwise (k, k, D) -> (B, D', h, w) with channels last in memory."""
    return _ByTaps.apply(x.permute(0, 2, 3, 1).contiguous(), taps.contiguous(), rate).permute(0, 3, 1, 2)


class _ByTaps(torch.autograd.Function):
    """All maps are (B, h, w, D). Without a backward pass of its own each tap would give a gradient of the map's size."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, taps: Tensor, rate: int) -> Tensor:
        ctx.save_for_backward(x, taps)
        ctx.rate = rate
        y = x.new_zeros(*x.shape[:3], taps.shape[-1])
        for row, column, source, target in _overlaps(x, taps, rate):
            _add_product(y[:, *target], x[:, *source], taps[row, column])
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        x, taps = ctx.saved_tensors
        grad = grad.contiguous()
        grad_x, grad_taps = torch.zeros_like(x), torch.zeros_like(taps)
        for row, column, source, target in _overlaps(x, taps, ctx.rate):
            here, there = grad[:, *target], x[:, *source]
            _add_product(grad_x[:, *source], here, taps[row, column].mT if taps.ndim == 4 else taps[row, column])
            grad_taps[row, column] = _correlation(there, here, dense=taps.ndim == 4)
        return grad_x, grad_taps, None


def _overlaps(x: Tensor, taps: Tensor, rate: int) -> Iterator[tuple[int, int, Window, Window]]:
    """(row, column, window of the source, window of the target) of each tap that meets the map."""
    rows, columns = (list(_overlaps_of_line(x.shape[1 + axis], taps.shape[axis], rate)) for axis in (0, 1))
    for (row, source_rows, target_rows), (column, source_columns, target_columns) in product(rows, columns):
        yield row, column, (source_rows, source_columns), (target_rows, target_columns)


def _overlaps_of_line(length: int, num_taps: int, rate: int) -> Iterator[tuple[int, slice, slice]]:
    for tap in range(num_taps):
        shift = (tap - num_taps // 2) * rate
        if abs(shift) < length:
            yield tap, slice(max(shift, 0), length + min(shift, 0)), slice(max(-shift, 0), length - max(shift, 0))


def _add_product(y: Tensor, x: Tensor, tap: Tensor) -> None:
    """y (B, h, w, D') += x (B, h, w, D) times a tap (D, D') or (D,)."""
    if tap.ndim == 1:
        y.addcmul_(x, tap)
    else:
        y.add_(x @ tap)


def _correlation(x: Tensor, y: Tensor, *, dense: bool) -> Tensor:
    """(B, h, w, D), (B, h, w, D') -> (D, D'), or (D,) of equal channels."""
    return x.flatten(0, 2).mT @ y.flatten(0, 2) if dense else (x * y).sum(dim=(0, 1, 2))
