"""The linear head beside DINOv2's own function, written out: its code is not on PyPI.

From facebookresearch/dinov2 (Apache-2.0), read and written anew: `interpolate_pos_encoding`, `prepare_tokens_with_masks` and
`get_intermediate_layers` of dinov2/models/vision_transformer.py; `BNHead` of dinov2/eval/segmentation/models/decode_heads/
linear_head.py, whose classifier is the `conv_seg` of mmsegmentation's decode heads. The tensors have its names.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trimask.networks.linear import LinearHead
from trimask.parity.row import Reference, Row

WIDTH, NUM_BLOCKS, NUM_HEADS, GRID, PATCH = 64, 6, 2, 10, 16  # of timm's test_vit, which has no layer scales


class Block(nn.Module):
    """A block as all plain transformers have it, with timm's and DINOv2's names."""

    def __init__(self, num_heads: int = NUM_HEADS, *, mlp_ratio: int = 3, eps: float = 1e-6) -> None:
        super().__init__()
        hidden = mlp_ratio * WIDTH
        self.num_heads = num_heads
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH, eps=eps), nn.LayerNorm(WIDTH, eps=eps)
        self.attn = nn.ModuleDict({"qkv": nn.Linear(WIDTH, 3 * WIDTH), "proj": nn.Linear(WIDTH, WIDTH)})
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(WIDTH, hidden), "fc2": nn.Linear(hidden, WIDTH)})

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(x))))

    def attention(self, x: Tensor) -> Tensor:
        num_tokens, width = x.shape[1], WIDTH // self.num_heads
        parts = self.attn["qkv"](x).reshape(1, num_tokens, 3, self.num_heads, width).permute(2, 0, 3, 1, 4)
        query, key, value = parts
        weights = (query @ key.transpose(-2, -1) / width**0.5).softmax(dim=-1)
        return self.attn["proj"]((weights @ value).transpose(1, 2).reshape(1, num_tokens, WIDTH))


class Transformer(nn.Module):
    """Its tokens behind every block, with the class token first and before the last norm.

    Args: resize: (1, D, h, w) positions -> those of a grid (height, width).
    """

    def __init__(self, resize: Callable[[Tensor, int, int], Tensor], *, eps: float = 1e-6) -> None:
        super().__init__()
        self.resize = resize
        self.cls_token = nn.Parameter(torch.randn(1, 1, WIDTH))
        self.pos_embed = nn.Parameter(torch.randn(1, 1 + GRID**2, WIDTH))
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, WIDTH, PATCH, PATCH)})
        self.blocks = nn.ModuleList([Block(eps=eps) for _ in range(NUM_BLOCKS)])
        self.norm = nn.LayerNorm(WIDTH, eps=eps)

    def positions(self, height: int, width: int) -> Tensor:
        if height == width == GRID:
            return self.pos_embed
        grid = self.pos_embed[:, 1:].reshape(1, GRID, GRID, WIDTH).permute(0, 3, 1, 2)
        grid = self.resize(grid, height, width).permute(0, 2, 3, 1).flatten(1, 2)
        return torch.cat([self.pos_embed[:, :1], grid], dim=1)

    def forward(self, images: Tensor, *, keep_class_token: bool = True) -> tuple[list[Tensor], int]:
        """Pictures are padded to whole patches; also the number of rows. The class token may go before the first block."""
        rows, columns = images.shape[-2:]
        patches = self.patch_embed["proj"](F.pad(images, (0, -columns % PATCH, 0, -rows % PATCH)))
        height, width = patches.shape[-2:]
        x = torch.cat([self.cls_token, patches.flatten(2).transpose(1, 2)], dim=1) + self.positions(height, width)
        x = x if keep_class_token else x[:, 1:]
        outputs = []
        for block in self.blocks:
            x = block(x)
            outputs.append(x)
        return outputs, height


def _resize(grid: Tensor, height: int, width: int) -> Tensor:
    return F.interpolate(grid, scale_factor=((height + 0.1) / GRID, (width + 0.1) / GRID), mode="bicubic")


class Backbone(Transformer):
    def __init__(self) -> None:
        super().__init__(_resize)
        self.mask_token = nn.Parameter(torch.zeros(1, WIDTH))


class Whole(nn.Module):
    def __init__(self, num_layers: int) -> None:
        super().__init__()
        self.num_layers = num_layers
        self.backbone = Backbone()
        channels = num_layers * WIDTH
        self.decode_head = nn.ModuleDict({"bn": nn.BatchNorm2d(channels), "conv_seg": nn.Conv2d(channels, 5, 1)})

    def forward(self, images: Tensor) -> Tensor:
        outputs, height = self.backbone(images)
        last = [self.backbone.norm(x)[:, 1:].transpose(1, 2) for x in outputs[-self.num_layers :]]
        joined = torch.cat(last, dim=1).unflatten(2, (height, -1))
        return self.decode_head["conv_seg"](self.decode_head["bn"](joined))


def _row(num_layers: int) -> Row:
    return Row(
        LinearHead,
        {"num_classes": 5, "backbone": "test_vit", "num_layers": num_layers, "frozen_backbone": False},
        variant=f"ViT of {NUM_BLOCKS} blocks, last {num_layers}",
        source="dinov2",
        reference=Reference("torch", "DINOv2's BNHead, written out", partial(Whole, num_layers), _answer),
        sizes=((64, 96), (65, 97), (160, 160)),
        inert=(r"mask_token",),
        surplus=-WIDTH,  # the token of masked patches
    )


def _answer(network: nn.Module, images: Tensor) -> list[Tensor]:
    return [network(images)]


ROWS = [_row(1), _row(4)]
