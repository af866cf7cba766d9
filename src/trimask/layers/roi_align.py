"""RoIAlign: the features within boxes, resampled to a grid of cells, each the mean of a few bilinear samples.

Source: He et al., "Mask R-CNN", ICCV 2017, arXiv:1703.06870; arithmetic of torchvision's `roi_align` (BSD-3), which is called
where it is fast. Its operator for processors runs on one core, channel by channel. With a fixed number of samples a cell is a
weighted sum of a fixed number of pixels, which torch's bags of embeddings add up on all cores, pixel by pixel with all channels:
three to seven times as fast with channels innermost, gradient included.

- Below fp32 the samples are taken in fp32: bf16 would move boxes by pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import roi_align as by_torchvision


def roi_align(features: Tensor, regions: Tensor, cells: int, scale: float, *, samples: int, aligned: bool) -> Tensor:
    """(P, D, cells, cells) features within boxes, as `torchvision.ops.roi_align` gives them.

    Args:
        features: (B, D, h, w).
        regions: (P, 5) row of the picture and the box, xyxy in pixels of the picture.
        scale: a pixel's share of a feature cell, 1 / stride.
        samples: along each side of a cell; 0 for as many as there are feature cells.
        aligned: a feature cell's center is at its index + 0.5 rather than at its index.
    """
    dtype = torch.promote_types(features.dtype, torch.float32)
    exact, regions = features.to(dtype), regions.detach().to(dtype)
    if samples == 0 or features.device.type != "cpu" or len(regions) == 0:
        found = by_torchvision(exact, regions, cells, scale, sampling_ratio=samples, aligned=aligned)
    else:
        found = _in_bags(exact, regions, cells, scale, samples, aligned)
    return found.to(features.dtype)


def _in_bags(features: Tensor, regions: Tensor, cells: int, scale: float, samples: int, aligned: bool) -> Tensor:
    channels, height, width = features.shape[1:]
    begin = regions[:, 1:3] * scale - (0.5 if aligned else 0.0)
    extent = regions[:, 3:5] * scale - (0.5 if aligned else 0.0) - begin
    if not aligned:
        extent = extent.clamp(min=1.0)
    column, across = _bilinear(begin[:, 0], extent[:, 0], cells, samples, width)  # (P, cells, 2 * samples)
    row, down = _bilinear(begin[:, 1], extent[:, 1], cells, samples, height)
    row = row + regions[:, 0].long()[:, None, None] * height  # of all pictures, one below the other
    pixel = (
        row[:, :, None, :, None] * width + column[:, None, :, None, :]
    )  # (P, cells, cells, 2 * samples, 2 * samples)
    share = down[:, :, None, :, None] * across[:, None, :, None, :]
    table = features.permute(0, 2, 3, 1).reshape(-1, channels)
    bags = F.embedding_bag(
        pixel.flatten(3).flatten(0, 2), table, mode="sum", per_sample_weights=share.flatten(3).flatten(0, 2)
    )
    return bags.unflatten(0, (len(regions), cells, cells)).permute(0, 3, 1, 2)


def _bilinear(begin: Tensor, extent: Tensor, cells: int, samples: int, limit: int) -> tuple[Tensor, Tensor]:
    """Along one side, the (P, cells, 2 * samples) feature cells that each cell is made of, and their shares."""
    step = extent / cells
    at = torch.arange(cells, device=begin.device, dtype=begin.dtype)[:, None]
    within = torch.arange(samples, device=begin.device, dtype=begin.dtype) + 0.5
    place = (
        begin[:, None, None] + at * step[:, None, None] + within * step[:, None, None] / samples
    )  # (P, cells, samples)
    counted = (place >= -1.0) & (place <= limit)
    place = place.clamp(0, limit - 1)
    low = place.floor()
    high_share = place - low
    index = torch.stack([low, (low + 1).clamp(max=limit - 1)], dim=3).long()
    share = torch.stack([1 - high_share, high_share], dim=3) * counted[..., None] / samples
    return index.flatten(2), share.flatten(2)
