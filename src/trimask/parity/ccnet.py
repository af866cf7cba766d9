"""CCNet beside mmsegmentation's, with two other ways of computing the attention.

mmsegmentation takes it from mmcv, whose lite version leaves its operators out. The one at hand is pure torch, and its file is
there. The other is written here from the paper: between all pairs of cells, without those that share neither row nor column.
"""

from __future__ import annotations

import importlib
import runpy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trimask.networks.ccnet import CCNet
from trimask.parity.references import mmseg, require_mmseg
from trimask.parity.row import Count, Published, Reference, Row

ADE20K = "ccnet_r50-d8_4xb4-160k_ade20k-512x512"
CITYSCAPES = "ccnet_r50-d8_4xb2-80k_cityscapes-512x1024"
SMALL = {
    "backbone": {"type": "ResNet", "depth": 18, "strides": (1, 2, 2, 2), "dilations": (1, 1, 1, 1)},
    "decode_head": {"in_channels": 512, "channels": 64},
    "auxiliary_head": {"in_channels": 256, "channels": 32},
}


class AllPairs(nn.Module):
    """The definition: a softmax over all cells of the picture, of which those outside the cross weigh nothing."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query_conv = nn.Conv2d(channels, channels // 8, 1)
        self.key_conv = nn.Conv2d(channels, channels // 8, 1)
        self.value_conv = nn.Conv2d(channels, channels, 1)
        self.gamma = nn.ParameterDict({"scale": nn.Parameter(torch.tensor(0.0))})

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (conv(x).flatten(2) for conv in (self.query_conv, self.key_conv, self.value_conv))
        energy = torch.einsum("bcp,bcq->bpq", query, key)
        row, column = (index.flatten() for index in torch.meshgrid(*map(torch.arange, x.shape[2:]), indexing="ij"))
        on_cross = (row[:, None] == row) | (column[:, None] == column)
        weights = energy.masked_fill(~on_cross.to(x.device), -torch.inf).softmax(dim=2)
        return x + self.gamma["scale"] * torch.einsum("bpq,bcq->bcp", weights, value).view_as(x)


def _mmcv() -> type[nn.Module]:
    place = Path(importlib.import_module("mmcv").__path__[0], "ops", "cc_attention.py")
    kind: type[nn.Module] = runpy.run_path(str(place))["CrissCrossAttention"]
    return kind


def _reference(attention: Callable[[], type[nn.Module]], **changes: Any) -> Reference:
    """mmsegmentation's network around an attention."""
    plain = mmseg(f"ccnet/{ADE20K}", **changes)

    def build() -> nn.Module:
        require_mmseg()
        module: Any = importlib.import_module("mmseg.models.decode_heads.cc_head")
        before, module.CrissCrossAttention = module.CrissCrossAttention, attention()
        try:
            return plain.build()
        finally:
            module.CrissCrossAttention = before

    return replace(plain, build=build)


SMALL_OURS = {"num_classes": 150, "backbone": "resnet18", "output_stride": None, "channels": 64, "aux_channels": 32}
# the bias of the keys adds the same to all energies of a query
INERT = (r"\.key_conv\.bias$",)
ROWS = [
    *(
        Row(
            CCNet,
            SMALL_OURS,
            variant=f"R18, {name}",
            source="mmseg",
            reference=_reference(attention, **SMALL),
            sizes=((160, 224), (161, 97), (32, 128), (128, 32)),  # also a single row and a single column
            inert=INERT,
        )
        for name, attention in (("attention of all pairs", lambda: AllPairs), ("attention of mmcv", _mmcv))
    ),
    Row(
        CCNet,
        {"num_classes": 150, "backbone": "resnet50c"},
        variant="R50-D8, ADE20K, attention of all pairs",
        source="mmseg",
        reference=_reference(lambda: AllPairs),
        published=Published(f"mmseg/{ADE20K}", total=49.93, inference=47.53),
        inert=INERT,
        slow=True,
    ),
]
COUNTS = [
    Count(
        CCNet,
        {"num_classes": 19, "backbone": "resnet50c"},
        Published(f"mmseg/{CITYSCAPES}", total=49.83, inference=47.46),
    )
]
