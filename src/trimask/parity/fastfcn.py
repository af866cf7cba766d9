"""FastFCN with each of its heads beside mmsegmentation's."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor

from trimask.networks.fastfcn import EncodedOutput, FastFCN
from trimask.outputs import DenseOutput
from trimask.parity.references import mmseg
from trimask.parity.row import Count, Published, Reference, Row

ADE20K = "fastfcn/fastfcn_r50-d32_jpu_{}_4xb4-160k_ade20k-512x512"
PUBLISHED = {
    "aspp": Published(f"mmseg/{ADE20K.format('aspp').removeprefix('fastfcn/')}", total=87.95, inference=85.55),
    "enc": Published(f"mmseg/{ADE20K.format('enc').removeprefix('fastfcn/')}", total=55.8, inference=53.4),
}
CITYSCAPES = "mmseg/fastfcn_r50-d32_jpu_aspp_4xb2-80k_cityscapes-512x1024"


class PresenceAsLogits(FastFCN):
    """With the presence of classes as one more auxiliary map, so that a row compares it, too."""

    def forward(self, images: Tensor) -> DenseOutput:
        output = super().forward(images)
        if not isinstance(output, EncodedOutput) or output.presence is None:
            return output
        return DenseOutput(output.logits, (*output.aux, output.presence[:, :, None, None]), output.align_corners)


PresenceAsLogits.__name__ = FastFCN.__name__


def _mmseg(head: str, **changes: Any) -> Reference:
    plain = mmseg(ADE20K.format(head), **changes)
    return replace(plain, answers=_answers_with_presence) if head == "enc" else plain


def _answers_with_presence(network: Any, images: Tensor) -> list[Tensor]:
    maps = network.extract_feat(images)
    logits, presence = network.decode_head(maps)
    return [logits, network.auxiliary_head(maps), presence[:, :, None, None]]


def _small(head: str) -> Row:
    in_channels = [128, 256, 256] if head == "enc" else 256
    changes = {
        "backbone": {"type": "ResNet", "depth": 18, "dilations": (1, 1, 1, 1)},
        "neck": {"in_channels": (128, 256, 512), "mid_channels": 64},
        "decode_head": {"in_channels": in_channels, "channels": 64},
        "auxiliary_head": {"in_channels": 256, "channels": 32},
    }
    return Row(
        PresenceAsLogits,
        {"num_classes": 150, "backbone": "resnet18", "head": head, "channels": 64, "aux_channels": 32},
        variant=f"R18, {head}",
        source="mmseg",
        reference=_mmseg(head, **changes),
        sizes=((128, 160), (97, 65)),
    )


def _whole(head: str) -> Row:
    return Row(
        PresenceAsLogits,
        {"num_classes": 150, "backbone": "resnet50c", "head": head, "dilations": (2, 4)},
        variant=f"R50, {head}, ADE20K",
        source="mmseg",
        reference=_mmseg(head),
        published=PUBLISHED.get(head),
        slow=True,
    )


HEADS = ("aspp", "psp", "enc")
ROWS = [*map(_small, HEADS), *map(_whole, HEADS)]
COUNTS = [
    Count(FastFCN, {"num_classes": 19, "backbone": "resnet50c"}, Published(CITYSCAPES, total=87.85, inference=85.48))
]
