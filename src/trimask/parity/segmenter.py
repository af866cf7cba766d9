"""Segmenter beside mmsegmentation's, and beside the official function, written out: its code is not on PyPI.

From rstrudel/segmenter (MIT), read and written anew: `MaskTransformer` and `DecoderLinear` of segm/model/decoder.py on the
encoder of segm/model/vit.py, whose norms have an eps of 1e-5. The tensors have its names.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trimask.networks.segmenter import Segmenter
from trimask.parity.linear import WIDTH, Block, Transformer
from trimask.parity.references import mmseg
from trimask.parity.row import Count, Published, Reference, Row

NUM_CLASSES = 5
TINY = "test_vit"
CONFIGS = "segmenter/segmenter_vit-{}_8xb1-160k_ade20k-512x512"


class Encoder(Transformer):
    def __init__(self) -> None:
        super().__init__(lambda grid, height, width: F.interpolate(grid, (height, width), mode="bilinear"), eps=1e-5)
        self.head = nn.Linear(WIDTH, NUM_CLASSES)  # in every released file, and unused


class MaskTransformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Block(1, mlp_ratio=4, eps=1e-5) for _ in range(2)])
        self.cls_emb = nn.Parameter(torch.randn(1, NUM_CLASSES, WIDTH))
        self.proj_dec = nn.Linear(WIDTH, WIDTH)
        self.proj_patch = nn.Parameter(torch.randn(WIDTH, WIDTH))
        self.proj_classes = nn.Parameter(torch.randn(WIDTH, WIDTH))
        self.decoder_norm, self.mask_norm = nn.LayerNorm(WIDTH), nn.LayerNorm(NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.proj_dec(x), self.cls_emb], dim=1)
        for block in self.blocks:
            x = block(x)
        x = self.decoder_norm(x)
        patches, classes = x[:, :-NUM_CLASSES] @ self.proj_patch, x[:, -NUM_CLASSES:] @ self.proj_classes
        patches, classes = (part / part.norm(dim=-1, keepdim=True) for part in (patches, classes))
        return self.mask_norm(patches @ classes.transpose(1, 2))


class Linear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(WIDTH, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x)


class Whole(nn.Module):
    def __init__(self, decoder: type[nn.Module]) -> None:
        super().__init__()
        self.encoder, self.decoder = Encoder(), decoder()

    def forward(self, images: Tensor) -> list[Tensor]:
        outputs, height = self.encoder(images)
        logits = self.decoder(self.encoder.norm(outputs[-1])[:, 1:])
        return [logits.transpose(1, 2).unflatten(2, (height, -1))]


def _official(decoder: str, kind: type[nn.Module]) -> Row:
    return Row(
        Segmenter,
        {"num_classes": NUM_CLASSES, "backbone": TINY, "decoder": decoder, "norm_eps": 1e-5},
        variant=f"ViT of 6 blocks, {decoder}, official",
        source="segmenter",
        reference=Reference("torch", "Segmenter, written out", partial(Whole, kind), lambda net, images: net(images)),
        inert=(r"^encoder\.head\.",),
        surplus=-(WIDTH + 1) * NUM_CLASSES,  # the encoder's classifier of pictures
    )


def _mmseg(decoder: str, config: str, head: dict[str, Any]) -> Row:
    backbone = {"embed_dims": 64, "num_layers": 6, "num_heads": 2, "mlp_ratio": 3, "img_size": (160, 160)}
    head = {"in_channels": 64, "channels": 64, "num_classes": NUM_CLASSES, **head}
    return Row(
        Segmenter,
        {"num_classes": NUM_CLASSES, "backbone": TINY, "decoder": decoder, "position_resize": "bicubic"},
        variant=f"ViT of 6 blocks, {decoder}",
        source="mmseg",
        reference=mmseg(CONFIGS.format(config), backbone=backbone, decode_head=head),
        sizes=((64, 96), (65, 97), (160, 160)),
        surplus=WIDTH,  # the bias of the patch embedding
    )


def _count(size: str, backbone: str, image_size: int, millions: float) -> Count:
    arguments = {"num_classes": 150, "backbone": backbone, "image_size": image_size}
    where = f"mmseg/segmenter_vit-{size}_mask_8xb1-160k_ade20k-512x512"
    return Count(Segmenter, arguments, Published(where, total=millions, inference=millions))


ROWS = [
    _official("mask", MaskTransformer),
    _official("linear", Linear),
    _mmseg("mask", "t_mask", {"num_heads": 1, "embed_dims": 64}),
    _mmseg("linear", "s_fcn", {}),
]
COUNTS = [
    _count("t", "vit_tiny_patch16_384", 512, 6.71),
    _count("b", "vit_base_patch16_384", 512, 102.5),
    _count("l", "vit_large_patch16_384", 640, 333.23),
]
