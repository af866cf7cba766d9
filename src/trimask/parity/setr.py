"""SETR beside mmsegmentation's, and beside the official function, written out: its code is on no package index.

From fudan-zvg/SETR (MIT), read and written anew: `VisionTransformerUpHead`, `VIT_MLA` and `Conv_MLA`, `VIT_MLAHead` and
`VIT_MLA_AUXIHead` of mmseg/models, with the names of its tensors and the layers that it carries unused, but for any size of
picture. Its last resizing to the picture's size is the output's in ours, and is left out here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trimask.networks.setr import SETR
from trimask.parity.linear import WIDTH, Transformer
from trimask.parity.references import build_mmseg, mmseg
from trimask.parity.row import Count, Published, Reference, Row

NUM_CLASSES, CHANNELS = 5, 32
LEVELS = (1, 2, 4, 5)  # blocks of timm's test_vit
OURS = {"num_classes": NUM_CLASSES, "backbone": "test_vit", "levels": LEVELS, "channels": CHANNELS}


# --- the official function ---


class UpHead(nn.Module):
    """Args: kernel_size: of the convolutions; num_convs: without the classifier; scale: of each upsampling."""

    def __init__(self, kernel_size: int, num_convs: int, scale: int) -> None:
        super().__init__()
        self.num_convs, self.scale = num_convs, scale
        self.conv_seg = nn.Conv2d(2 * CHANNELS, NUM_CLASSES, 1)  # of the base class, unused
        self.norm = nn.LayerNorm(WIDTH, eps=1e-6)
        for number in range(num_convs):
            given = CHANNELS if number else WIDTH
            self.add_module(f"conv_{number}", nn.Conv2d(given, CHANNELS, kernel_size, padding=kernel_size // 2))
            self.add_module(f"syncbn_fc_{number}", nn.BatchNorm2d(CHANNELS))
        self.add_module(f"conv_{num_convs}", nn.Conv2d(CHANNELS, NUM_CLASSES, 1))

    def forward(self, tokens: Tensor, height: int) -> Tensor:
        x = self.norm(tokens).transpose(1, 2).unflatten(2, (height, -1))
        for number in range(self.num_convs):
            x = F.relu(getattr(self, f"syncbn_fc_{number}")(getattr(self, f"conv_{number}")(x)))
            if self.num_convs == 1 or number < self.num_convs - 1:
                x = _upsample(x, self.scale, aligned=False)
        return getattr(self, f"conv_{self.num_convs}")(x)


class Up(nn.Module):
    """The naive one (kernel 1) and PUP (kernel 3)."""

    def __init__(self, kernel_size: int, num_convs: int, scale: int, aux_scale: int, aux_levels: Sequence[int]) -> None:
        super().__init__()
        self.aux_levels = aux_levels
        self.backbone = Transformer(_resize)
        del self.backbone.norm
        self.decode_head = UpHead(kernel_size, num_convs, scale)
        self.auxiliary_head = nn.ModuleList(UpHead(kernel_size, 1, aux_scale) for _ in aux_levels)

    def forward(self, images: Tensor) -> list[Tensor]:
        outputs, height = self.backbone(images)
        maps = [outputs[level][:, 1:] for level in LEVELS]
        aux = [head(maps[place], height) for head, place in zip(self.auxiliary_head, self.aux_levels, strict=True)]
        return [self.decode_head(maps[-1], height), *aux]


class Encoder(Transformer):
    """MLA's: the class token goes before the first block; the neck belongs to it."""

    def __init__(self) -> None:
        super().__init__(_resize)
        del self.norm
        for level in range(4):
            self.add_module(f"norm_{level}", nn.LayerNorm(WIDTH, eps=1e-6))
        self.mla = nn.ModuleDict()
        for level in range(2, 6):
            self.mla[f"mla_p{level}_1x1"] = _conv_norm_relu(WIDTH, CHANNELS, 1)
            self.mla[f"mla_p{level}"] = _conv_norm_relu(CHANNELS, CHANNELS, 3)

    def levels(self, images: Tensor) -> list[Tensor]:
        """p2 to p5."""
        outputs, height = self(images, keep_class_token=False)
        projected = [
            self.mla[f"mla_p{place + 2}_1x1"](
                getattr(self, f"norm_{place}")(outputs[level]).transpose(1, 2).unflatten(2, (height, -1))
            )
            for place, level in enumerate(LEVELS)
        ]
        return [self.mla[f"mla_p{place + 2}"](sum(projected[place:])) for place in range(4)]


class MLA(nn.Module):
    backbone: Encoder

    def __init__(self) -> None:
        super().__init__()
        self.backbone = Encoder()
        heads = {
            f"head{level}": nn.Sequential(
                *_conv_norm_relu(CHANNELS, CHANNELS // 2, 3), *_conv_norm_relu(CHANNELS // 2, CHANNELS // 2, 3)
            )
            for level in range(2, 6)
        }
        self.decode_head = nn.ModuleDict(
            {
                "conv_seg": nn.Conv2d(2 * CHANNELS, NUM_CLASSES, 1),  # of the base class, unused
                "mlahead": nn.ModuleDict(heads),
                "cls": nn.Conv2d(2 * CHANNELS, NUM_CLASSES, 3, padding=1),
            }
        )
        self.auxiliary_head = nn.ModuleList(
            nn.ModuleDict(
                {
                    "conv_seg": nn.Conv2d(2 * CHANNELS, NUM_CLASSES, 1),
                    "aux": nn.Conv2d(CHANNELS, NUM_CLASSES, 1, bias=False),
                }
            )
            for _ in range(4)
        )

    def forward(self, images: Tensor) -> list[Tensor]:
        """The logits, then the auxiliary ones from p5 to p2, in our order."""
        levels = self.backbone.levels(images)
        heads: Any = self.decode_head["mlahead"]
        auxiliary: Any = self.auxiliary_head
        up = [_upsample(heads[f"head{place + 2}"](x), 4, aligned=True) for place, x in enumerate(levels)]
        aux = [head["aux"](x) for head, x in zip(auxiliary, levels, strict=True)]
        return [self.decode_head["cls"](torch.cat(up, dim=1)), *aux[::-1]]


def _conv_norm_relu(given: int, channels: int, kernel_size: int) -> nn.Sequential:
    conv = nn.Conv2d(given, channels, kernel_size, padding=kernel_size // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(channels), nn.ReLU())


def _resize(grid: Tensor, height: int, width: int) -> Tensor:
    return F.interpolate(grid, (height, width), mode="bilinear", align_corners=False)


def _upsample(x: Tensor, scale: int, *, aligned: bool) -> Tensor:
    size = (scale * x.shape[2], scale * x.shape[3])
    return F.interpolate(x, size, mode="bilinear", align_corners=aligned)


def _official(decoder: str, build: Any, surplus: int, inert: tuple[str, ...] = (), **options: Any) -> Row:
    return Row(
        SETR,
        {**OURS, "decoder": decoder, "mla_channels": CHANNELS // 2, "naive_scale": 1, "aux_convs": 1, **options},
        variant=f"ViT of 6 blocks, {decoder}, official",
        source="setr",
        reference=Reference("torch", "SETR, written out", build, lambda network, images: network(images)),
        inert=(r"_head\.(\d\.)?conv_seg\.", r"\.conv_[0-3]\.bias$", *inert),
        exact=1e-9 if decoder == "mla" else 1e-7,  # folding a bias into a running mean rounds once, in fp32
        surplus=surplus,
    )


# --- mmsegmentation's ---


def _mmseg(decoder: str, config: str, changes: Any) -> Row:
    backbone = {"embed_dims": WIDTH, "num_layers": 6, "num_heads": 2, "mlp_ratio": 3, "img_size": (160, 160)}
    config = f"setr/setr_{config}-160k_ade20k-512x512"
    plain = mmseg(config)
    everything = {"backbone": {**backbone, "out_indices": LEVELS}, **changes}
    return Row(
        SETR,
        {**OURS, "decoder": decoder, "mla_channels": CHANNELS // 2},
        variant=f"ViT of 6 blocks, {decoder}",
        source="mmseg",
        reference=replace(plain, build=partial(_without_last_upsampling, config, everything)),
        sizes=((64, 96), (65, 97), (160, 160)),
        inert=(r"^backbone\.cls_token$",) if decoder == "mla" else (),
        surplus=WIDTH if decoder != "mla" else WIDTH - 2 * WIDTH,  # a bias; without a token and its position
    )


def _without_last_upsampling(config: str, changes: Any) -> nn.Module:
    """The step by which mmseg's heads reach the picture's size, which ours leave to the output."""
    network: Any = build_mmseg(config, changes)
    for head in [network.decode_head, *network.auxiliary_head]:
        if type(head).__name__ == "SETRUPHead" and head.up_convs[0][1].scale_factor ** len(head.up_convs) == 16:
            head.up_convs[-1][1] = nn.Identity()
    return network


def _up_heads(kernel_size: int) -> dict[str, Any]:
    narrow = {"in_channels": WIDTH, "channels": CHANNELS, "num_classes": NUM_CLASSES}
    plain = {"type": "SETRUPHead", "kernel_size": kernel_size, "num_convs": 2, "dropout_ratio": 0.0, **narrow}
    rest = {"norm_cfg": {"type": "BN"}, "act_cfg": {"type": "ReLU"}, "align_corners": False}
    return {
        "decode_head": narrow,
        "auxiliary_head": [{**plain, **rest, "in_index": place} for place in range(3)],
    }


def _mla_heads() -> dict[str, Any]:
    head = {"in_channels": (CHANNELS,) * 4, "channels": 2 * CHANNELS, "mla_channels": CHANNELS // 2}
    aux = {"type": "FCNHead", "in_channels": CHANNELS, "channels": CHANNELS, "num_convs": 0, "kernel_size": 1}
    aux |= {"concat_input": False, "num_classes": NUM_CLASSES, "dropout_ratio": 0.0, "align_corners": False}
    return {
        "neck": {"in_channels": [WIDTH] * 4, "out_channels": CHANNELS},
        "decode_head": {**head, "num_classes": NUM_CLASSES},
        "auxiliary_head": [{**aux, "in_index": place} for place in range(4)],
    }


def _count(
    decoder: str, name: str, total: float, inference: float | None = None, num_classes: int = 150, size: int = 512
) -> Count:
    arguments = {"num_classes": num_classes, "decoder": decoder, "image_size": size}
    return Count(SETR, arguments, Published(f"mmseg/{name}", total=total, inference=inference))


UNUSED = 2 * CHANNELS * NUM_CLASSES + NUM_CLASSES  # a classifier of the base class, in every official head
ROWS = [
    _official("naive", partial(Up, 1, 1, 1, 1, (0, 1, 2)), -4 * (UNUSED + CHANNELS)),
    _official("pup", partial(Up, 3, 4, 2, 4, (0, 1, 2, 3)), -5 * UNUSED - 8 * CHANNELS, aux_levels=(0, 1, 2, 3)),
    _official("mla", MLA, -5 * UNUSED + 4 * NUM_CLASSES - 2 * WIDTH, (r"^backbone\.cls_token$",), mla_kernel=3),
    _mmseg("naive", "vit-l_naive_8xb2", _up_heads(1)),
    _mmseg("pup", "vit-l_pup_8xb2", _up_heads(3)),
    _mmseg("mla", "vit-l-mla_8xb1", _mla_heads()),
]
COUNTS = [  # without auxiliary heads, the last two differ by the bias of the patch embedding in the last digit
    _count("naive", "setr_vit-l_naive_8xb2-160k_ade20k-512x512", 305.56, 304.45),
    _count("pup", "setr_vit-l_pup_8xb2-160k_ade20k-512x512", 317.29, 308.32),
    _count("mla", "setr_vit-l-mla_8xb1-160k_ade20k-512x512", 309.57),
    _count("pup", "setr_vit-l_pup_8xb1-80k_cityscapes-768x768", 318.47, None, 19, 768),
]
