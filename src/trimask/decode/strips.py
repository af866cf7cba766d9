"""Bilinear upsampling done rows at a time, so that the full-size (B, C, H, W) logits never exist.

Source: own. The weights are those of `torch.nn.functional.interpolate(mode="bilinear")` without antialiasing
(aten/src/ATen/native/UpSample.h, `area_pixel_compute_source_index`).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from trimask.types import Size

Rows = tuple[int, int]  # (start, stop) of the picture's rows
Cells = tuple[
    float, float
]  # (height, width) that the picture covers of a map, in its upper left; not always whole cells

CPU_STRIP_BYTES = 8 * 2**20  # measured: 4 is faster at 150 classes, 16 at 2; below 4 the overhead shows
CPU_CHANNELS_LAST_FROM = 16  # channels; measured, see `best_layout`
CUDA_STRIP_BYTES = 256 * 2**20  # large enough that kernels, not their launches, take the time


def strip_bytes(device: torch.device) -> int:
    """The default size of one strip of logits on a device, in bytes."""
    return CPU_STRIP_BYTES if device.type == "cpu" else CUDA_STRIP_BYTES


def row_strips(num_rows: int, bytes_per_row: int, budget: int) -> Iterator[Rows]:
    """Cut 0..num_rows into (start, stop) strips, nearly equal, of at most `budget` bytes but at least one row."""
    rows_at_once = max(1, min(num_rows, budget // max(1, bytes_per_row)))
    num_strips = -(-num_rows // rows_at_once)
    for index in range(num_strips):
        yield num_rows * index // num_strips, num_rows * (index + 1) // num_strips


def best_layout(logits: Tensor) -> torch.memory_format:
    """In which strips of (B, C, h, w) logits are worked on fastest: on a CPU many channels are best innermost.

    Measured at 150 with torch 2.15 on two AVX512 cores: upsampling by four, softmax and cross-entropy take a third of the time,
    backward included, and finding the winner of each pixel as well. With five channels they would take twice as long.
    """
    innermost = logits.is_cpu and logits.shape[1] >= CPU_CHANNELS_LAST_FROM
    return torch.channels_last if innermost else torch.contiguous_format


def over_channels(function: Callable[..., Tensor], maps: Tensor) -> Tensor:
    """`function(maps, dim=1)` for (B, C, h, w); torch's softmax would copy channels that are innermost to another place."""
    if has_channels_last(maps):
        return function(maps.movedim(1, -1), dim=-1).movedim(-1, 1)
    return function(maps, dim=1)


def winners(scores: Tensor) -> Tensor:
    """(B, C, h, w) -> (B, h, w) int64 channel of the largest score, the first of equal ones.

    On a CPU torch finds the largest score thirty times as fast as its place. Up to 255 channels that are not innermost, the
    place is what is largest of falling numbers where the score is the largest: less than half the time, measured with torch 2.15.
    """
    channels = scores.shape[1]
    if not scores.is_cpu or channels > 255 or has_channels_last(scores):
        return scores.max(dim=1).indices  # several times as fast as `argmax` along a strided axis of a CPU
    falling = torch.arange(channels, 0, -1, dtype=torch.uint8)[:, None, None]
    is_largest = (scores == scores.amax(dim=1, keepdim=True)).view(torch.uint8)
    place = channels - (is_largest * falling).amax(dim=1).long()
    return place.clamp_(max=channels - 1)  # where a score is nan, none is the largest


def has_channels_last(maps: Tensor) -> bool:
    """Whether the channels of (B, C, h, w) are innermost."""
    return not maps.is_contiguous() and maps.is_contiguous(memory_format=torch.channels_last)


def upsample(maps: Tensor, size: Size, align_corners: bool = False, covered: Cells | None = None) -> Tensor:
    """(B, C, h, w) -> (B, C, *size), bilinear.

    Args:
        align_corners: as in `F.interpolate`.
        covered: the cells that are brought to `size`, where these are not all; only without `align_corners`.
    """
    if covered is None:
        return F.interpolate(maps, size, mode="bilinear", align_corners=align_corners)
    # `F.interpolate` takes a size or factors; what lies below it takes both.
    factors = (size[0] / covered[0], size[1] / covered[1])
    return torch.ops.aten.upsample_bilinear2d.default(maps, size, align_corners, *factors)


def covered_cells(maps: Tensor, inner: Size, outer: Size, covered: Cells | None = None) -> Cells:
    """What a picture of `inner` pixels covers of (..., h, w) maps of which one of `outer` covers all, or `covered`."""
    height, width = covered or maps.shape[-2:]
    return height * inner[0] / outer[0], width * inner[1] / outer[1]


def upsample_rows(
    logits: Tensor, size: Size, rows: Rows, align_corners: bool = False, covered: Cells | None = None
) -> Tensor:
    """The rows (start, stop) of the logits brought to `size`: (B, C, h, w) -> (B, C, stop - start, W), differentiable.

    Equal, up to rounding, to these rows of `upsample(logits, size, align_corners, covered)`.
    """
    upsampling = RowUpsampling(logits, size, align_corners, covered)
    return upsampling(logits[:, :, upsampling.source(rows)], rows)


class RowUpsampling:
    """The plan for one shape: which source rows a strip needs, and how they are mixed.

    Args:
        logits: (B, C, h, w); only the shape, device and dtype are used.
        size: (H, W) to bring them to; larger or smaller.
        align_corners, covered: see `upsample`.
    """

    def __init__(self, logits: Tensor, size: Size, align_corners: bool = False, covered: Cells | None = None) -> None:
        self.source_size: Size = (logits.shape[-2], logits.shape[-1])
        self.size = size
        self.align_corners = align_corners
        self._covered = covered
        self._is_copy = self.source_size == size and covered is None
        position = _source_positions(self.source_size[0], size[0], align_corners, covered and covered[0])
        above = position.floor()
        self._above: list[int] = above.long().tolist()
        self._fraction = (position - above).to(logits.device, torch.promote_types(logits.dtype, torch.float32))

    def source(self, rows: Rows) -> slice:
        """The rows of the small logits that the picture's `rows` are made of."""
        if self._is_copy:
            return slice(*rows)
        return slice(self._above[rows[0]], min(self._above[rows[1] - 1] + 2, self.source_size[0]))

    def __call__(self, source: Tensor, rows: Rows) -> Tensor:
        """`logits[:, :, upsampling.source(rows)]` (B, C, s, w) -> (B, C, stop - start, W)."""
        if self._is_copy:
            return source
        start, stop = rows
        if stop - start == self.size[0] and source.shape[2] == self.source_size[0]:
            return upsample(source, self.size, self.align_corners, self._covered)
        if not has_channels_last(source):
            return self._widen(self._mix_rows(source, rows, dim=2))
        mixed = self._mix_rows(source.permute(0, 2, 3, 1), rows, dim=1)  # (B, r, w, C)
        # Each row as a picture: backward, a CPU shares pictures among its cores, not rows.
        wide = self._widen(mixed.flatten(0, 1)[:, None].permute(0, 3, 1, 2))  # (B r, C, 1, W)
        return wide.permute(0, 2, 3, 1).unflatten(0, (len(source), stop - start)).flatten(1, 2).permute(0, 3, 1, 2)

    def _widen(self, mixed: Tensor) -> Tensor:
        """(B, C, r, w) -> (B, C, r, W)."""
        # With as many rows out as in, bilinear interpolation leaves the rows exactly as they are.
        num_rows = mixed.shape[2]
        covered = self._covered and (num_rows, self._covered[1])
        return upsample(mixed, (num_rows, self.size[1]), self.align_corners, covered)

    def _mix_rows(self, source: Tensor, rows: Rows, dim: int) -> Tensor:
        """s source rows -> those of the picture, along `dim`. Rows between the same two source rows are made together:
        gathering single rows and scattering their gradient (`index_select`) takes a CPU several times as long.
        """
        start, stop = rows
        fraction = self._fraction.to(source.dtype).view(-1, *[1] * (source.dim() - dim - 1))
        source_rows = source.split(1, dim)
        first = self._above[start]
        mixed = []
        while start < stop:
            above = self._above[start] - first
            below = min(above + 1, len(source_rows) - 1)
            end = min(bisect_right(self._above, self._above[start]), stop)
            mixed.append(torch.lerp(source_rows[above], source_rows[below], fraction[start:end]))
            start = end
        return torch.cat(mixed, dim)


def _source_positions(num_source: int, num_rows: int, align_corners: bool, covered: float | None) -> Tensor:
    """(num_rows,) float64: where each row of the picture lies between the source rows."""
    row = torch.arange(num_rows, dtype=torch.float64)
    if align_corners:
        return row * ((num_source - 1) / max(1, num_rows - 1))
    return ((row + 0.5) * ((covered or num_source) / num_rows) - 0.5).clamp(0, num_source - 1)
