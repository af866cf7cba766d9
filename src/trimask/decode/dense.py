"""Dense logits -> class maps and probabilities at the picture's size. Pure functions.

Source: own. One logit (C = 1) is the sigmoid way of saying two classes: the logit of class 1 against class 0.
All arithmetic after the network is fp32, whatever the precision of the logits.
"""

from __future__ import annotations

import torch
from torch import Tensor

from trimask.decode.strips import Cells, RowUpsampling, best_layout, row_strips, strip_bytes, winners
from trimask.types import Size


def dense_semantic(logits: Tensor, size: Size, align_corners: bool, covered: Cells | None = None) -> Tensor:
    """(B, C, h, w) logits -> (B, H, W) int64 winning class; the full-size logits never exist.

    Args: align_corners, covered: see `strips.upsample`.
    """
    num_pictures, num_channels = logits.shape[:2]
    labels = torch.empty(num_pictures, *size, dtype=torch.int64, device=logits.device)
    upsampling = RowUpsampling(logits, size, align_corners, covered)
    bytes_per_row = 4 * num_pictures * num_channels * size[1]
    for rows in row_strips(size[0], bytes_per_row, strip_bytes(logits.device)):
        source = logits[:, :, upsampling.source(rows)].float().contiguous(memory_format=best_layout(logits))
        strip = upsampling(source, rows)
        labels[:, slice(*rows)] = strip[:, 0] > 0 if num_channels == 1 else winners(strip)
    return labels


def dense_probabilities(logits: Tensor) -> Tensor:
    """(B, C, H, W) logits -> (B, C, H, W) float32 class probabilities; one logit gives the two classes 0 and 1."""
    logits = logits.float()
    if logits.shape[1] == 1:
        return torch.cat([torch.sigmoid(-logits), torch.sigmoid(logits)], dim=1)
    return logits.softmax(dim=1)
