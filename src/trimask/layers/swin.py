"""Swin Transformers on pictures of any size, as their authors' segmentation code has it.

Source: Liu et al., "Swin Transformer: Hierarchical Vision Transformer using Shifted Windows", ICCV 2021, arXiv:2103.14030; the
behavior is that of microsoft/Swin-Transformer's segmentation code (MIT), mmsegmentation and transformers, which agree. timm
(Apache-2.0) differs where a map is no multiple of the window: released segmentation weights then answer otherwise.

**Deviations** from timm, here and by `always_partition=True` in layers/backbone.py:
- A map is padded to whole windows before it is shifted, not behind that: the shift then wraps through the padding.
- Windows keep their size and their shift on maps as small as a window.
- Pictures are padded to whole patches at the bottom and right with the mean color.
"""

from __future__ import annotations

from typing import Any

import torch
from timm.models.swin_transformer import SwinTransformerBlock, window_partition, window_reverse
from torch import Tensor
from torch.nn import functional as F


class PaddedBlock(SwinTransformerBlock):
    """timm's block with another order of padding and shifting."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, h, w, D) -> (B, h, w, D)."""
        x = x + self.drop_path1(self._attend(self.norm1(x)))
        return x + self.drop_path2(self.mlp(self.norm2(x)))

    def _attend(self, x: Tensor) -> Tensor:
        _, height, width, channels = x.shape
        rows, columns = self.window_size
        down, right = self.shift_size
        # whole numbers of windows rather than remainders: torch.export reasons about the former six times as fast
        padded_height, padded_width = (height + rows - 1) // rows * rows, (width + columns - 1) // columns * columns
        x = F.pad(x, (0, 0, 0, padded_width - width, 0, padded_height - height))
        if down or right:
            x = torch.roll(x, (-down, -right), dims=(1, 2))
        windows = window_partition(x, self.window_size).flatten(1, 2)  # (B windows, rows columns, D)
        windows = self.attn(windows, mask=self.get_attn_mask(x))
        x = window_reverse(windows.view(-1, rows, columns, channels), self.window_size, padded_height, padded_width)
        if down or right:
            x = torch.roll(x, (down, right), dims=(1, 2))
        return x[:, :height, :width]


def pad_as_published(body: Any) -> int:
    """Gives the blocks of a Swin Transformer the class above; leaves all other networks as they are.

    Returns:
        The size of its patches, to a multiple of which pictures are to be padded; 1 for another network.
    """
    blocks = [module for module in body.modules() if type(module) is SwinTransformerBlock]
    for block in blocks:
        block.__class__ = PaddedBlock
    return body.patch_embed.patch_size[0] if blocks else 1
