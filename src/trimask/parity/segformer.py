"""SegFormer beside transformers', mmsegmentation's and segmentation_models_pytorch's.

The official code is on no package index. Its encoder, names included, is what segmentation_models_pytorch has (a modified
copy, whose license goes with it), and its head is the same function; under the names of the official files, that network
stands for it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from trimask.networks.segformer import SegFormer
from trimask.parity.references import mmseg, smp, transformers
from trimask.parity.row import Count, Published, Reference, Row

ADE20K = "mmseg/segformer_mit-b{}_8xb2-160k_ade20k-{}"
CITYSCAPES = "mmseg/segformer_mit-b{}_8xb1-160k_cityscapes-1024x1024"
OFFICIAL = "nvlabs/segformer.b{}.{}.ade.160k"
B2: dict[str, Any] = {
    "hidden_sizes": [64, 128, 320, 512],
    "depths": [3, 4, 6, 3],
    "decoder_hidden_size": 768,
}


def _transformers(**settings: Any) -> Reference:
    """With weights so large that queries and keys matter; at their default 0.02 all attention is even."""
    settings = {"num_labels": 150, "initializer_range": 0.05, **settings}
    return transformers("SegformerForSemanticSegmentation", lambda library: library.SegformerConfig(**settings))


def _smp(encoder: str) -> Reference:
    whole = smp("Segformer", encoder, classes=150, upsampling=1)  # its own upsampling aligns corners
    return replace(whole, answers=lambda network, images: [network(images)])


def _nvlabs(encoder: str) -> Reference:
    """smp's network with the names of the official files, and the classifier that they carry for nothing."""
    names = {"decoder.fuse_stage.0": "linear_fuse.conv", "decoder.fuse_stage.1": "linear_fuse.bn"}
    names |= {f"decoder.mlp_stage.{4 - number}.linear": f"linear_c{number}.proj" for number in (1, 2, 3, 4)}
    names |= {"segmentation_head.0": "linear_pred"}

    def released(name: str) -> str:
        for theirs, official in names.items():
            name = re.sub(rf"^{re.escape(theirs)}\.", f"decode_head.{official}.", name)
        return re.sub(r"^encoder\.", "backbone.", name)

    def weights(network: Any) -> Mapping[str, Tensor]:
        unused = {f"decode_head.conv_seg.{kind}": torch.zeros(150) for kind in ("weight", "bias")}
        return {released(name): value for name, value in network.state_dict().items()} | unused

    return replace(_smp(encoder), name=f"NVlabs {encoder}", weights=weights)


ROWS = [
    Row(
        SegFormer,
        {"num_classes": 150, "eps": 1e-5},
        variant="B0, ADE20K",
        source="transformers",
        reference=_transformers(),
        published=Published(OFFICIAL.format(0, "512x512"), total=3.75),
        inert=(r"\.k_proj\.bias$",),
    ),
    Row(
        SegFormer,
        {"num_classes": 150, "backbone": "mit_b2", "eps": 1e-5},
        variant="B2, ADE20K, decoder 768",
        source="transformers",
        reference=_transformers(**B2),
        published=Published(OFFICIAL.format(2, "512x512"), total=27.46),
        inert=(r"\.k_proj\.bias$",),
        slow=True,
    ),
    Row(
        SegFormer,
        {"num_classes": 150, "level_norm": True, "eps": 1e-6},
        variant="B0, ADE20K",
        source="mmseg",
        reference=mmseg("segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512"),
        published=Published(ADE20K.format(0, "512x512"), total=3.75, inference=3.75),
    ),
    Row(
        SegFormer,
        {"num_classes": 150, "backbone": "mit_b2", "decoder_channels": 256, "level_norm": True, "eps": 1e-6},
        variant="B2, ADE20K, decoder 256",
        source="mmseg",
        reference=mmseg("segformer/segformer_mit-b2_8xb2-160k_ade20k-512x512"),
        published=Published(ADE20K.format(2, "512x512"), total=24.76, inference=24.76),
        slow=True,
    ),
    Row(
        SegFormer,
        {"num_classes": 150},
        variant="B0",
        source="smp",
        reference=_smp("mit_b0"),
        sizes=((64, 96), (96, 128)),
    ),
    Row(
        SegFormer,
        {"num_classes": 150},
        variant="B0, official names",
        source="nvlabs",
        reference=_nvlabs("mit_b0"),
        sizes=((64, 96), (96, 128)),
    ),
]
COUNTS = [
    *(
        Count(
            SegFormer,
            {"num_classes": 150, "backbone": f"mit_b{size}", "decoder_channels": 256, "level_norm": True},
            Published(ADE20K.format(size, "640x640" if size == 5 else "512x512"), total=count, inference=count),
        )
        for size, count in ((1, 13.72), (3, 44.64), (4, 61.41), (5, 82.01))
    ),
    *(
        Count(
            SegFormer,
            {"num_classes": 19, "backbone": f"mit_b{size}", "decoder_channels": 256, "level_norm": True},
            Published(CITYSCAPES.format(size), total=count, inference=count),
        )
        for size, count in ((0, 3.72), (2, 24.73), (5, 81.97))
    ),
    Count(
        SegFormer,
        {"num_classes": 150, "backbone": "mit_b5"},
        Published(OFFICIAL.format(5, "640x640"), total=84.71),
    ),
]
