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

from timm.models.swin_transformer import SwinTransformerBlock
from torch import Tensor
from torch.nn import functional as F


class PaddedBlock(SwinTransformerBlock):
    """timm's block behind a padding to whole windows, so that timm has nothing left to pad."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, h, w, D) -> (B, h, w, D)."""
        height, width = x.shape[1:3]
        down, right = -height % self.window_size[0], -width % self.window_size[1]
        attended = self._attn(F.pad(self.norm1(x), (0, 0, 0, right, 0, down)))[:, :height, :width]
        x = x + self.drop_path1(attended)
        return x + self.drop_path2(self.mlp(self.norm2(x)))


def pad_as_published(body: Any) -> None:
    """Gives the blocks of a Swin Transformer the class above; leaves all other networks as they are."""
    blocks = [module for module in body.modules() if type(module) is SwinTransformerBlock]
    for block in blocks:
        block.__class__ = PaddedBlock
    if blocks:
        body.patch_embed.dynamic_img_pad = True
