"""DPT beside mmsegmentation's, transformers' and smp's."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from trimask.networks.dpt import AS_SMP, DPT
from trimask.parity.linear import WIDTH
from trimask.parity.references import mmseg, smp, transformers
from trimask.parity.row import Count, Published, Row

NUM_CLASSES, CHANNELS, WIDTHS, LEVELS = 5, 32, (16, 24, 32, 48), (1, 2, 4, 5)
OURS = {
    "num_classes": NUM_CLASSES,
    "backbone": "test_vit",
    "levels": LEVELS,
    "widths": WIDTHS,
    "channels": CHANNELS,
}
CONFIG = "dpt/dpt_vit-b16_8xb2-160k_ade20k-512x512"
SIZES = ((64, 96), (65, 97), (80, 112))  # of the last two, the coarsest map does not double to the next one exactly


def _mmseg(readout: str) -> Row:
    backbone = {"embed_dims": WIDTH, "num_layers": 6, "num_heads": 2, "mlp_ratio": 3, "img_size": 160}
    head = {"in_channels": (WIDTH,) * 4, "channels": CHANNELS, "embed_dims": WIDTH, "num_classes": NUM_CLASSES}
    head |= {"post_process_channels": list(WIDTHS), "readout_type": readout}
    return Row(
        DPT,
        {**OURS, "readout": readout},
        variant=f"ViT of 6 blocks, {readout}",
        source="mmseg",
        reference=mmseg(CONFIG, backbone={**backbone, "out_indices": LEVELS}, decode_head=head),
        sizes=(*SIZES, (160, 160)) if readout == "project" else SIZES,
        surplus=WIDTH,  # the bias of the patch embedding
    )


def _transformers(*, norm: bool) -> Row:
    def configure(library: Any) -> Any:
        return library.DPTConfig(
            hidden_size=WIDTH,
            num_hidden_layers=6,
            num_attention_heads=2,
            intermediate_size=3 * WIDTH,
            image_size=160,
            backbone_out_indices=list(LEVELS),
            neck_hidden_sizes=list(WIDTHS),
            fusion_hidden_size=CHANNELS,
            use_batch_norm_in_fusion_residual=norm,
            num_labels=NUM_CLASSES,
            initializer_range=0.1,  # with its own 0.02, so small a network says nothing
        )

    ours = {"position_resize": "bilinear", "norm_eps": 1e-12, "fusion_norm": norm, "aux": True, "align_corners": True}
    unused = 2 * WIDTH + 2 * (9 * CHANNELS**2 + (2 * CHANNELS if norm else CHANNELS))
    return Row(
        DPT,
        {**OURS, **ours},
        variant=f"ViT of 6 blocks, {'with' if norm else 'without'} norms",
        source="transformers",
        reference=replace(transformers("DPTForSemanticSegmentation", configure), answers=_answers),
        sizes=SIZES,
        inert=(r"\.key\.bias$", r"^dpt\.layernorm\.", r"fusion_stage\.layers\.0\.residual_layer1\."),
        surplus=-unused,
    )


def _answers(network: Any, images: Tensor) -> list[Tensor]:
    """The logits before their last upsampling, and the auxiliary ones. Pictures are padded, and need not be square."""
    images = F.pad(images, (0, -images.shape[3] % 16, 0, -images.shape[2] % 16))
    size = {"patch_height": images.shape[2] // 16, "patch_width": images.shape[3] // 16}
    states = network.dpt(images, output_hidden_states=True).hidden_states[1:]
    maps = network.neck([states[level] for level in LEVELS], **size)
    return [network.head.head[:-1](maps[-1]), network.auxiliary_head(maps[-1])]


def _smp(readout: str) -> Row:
    reference = smp(
        "DPT",
        "tu-test_vit",
        classes=NUM_CLASSES,
        encoder_output_indices=list(LEVELS),
        decoder_readout="cat" if readout == "project" else readout,
        decoder_intermediate_channels=WIDTHS,
        decoder_fusion_channels=CHANNELS,
        dynamic_img_size=True,
    )
    return Row(
        DPT,
        {**OURS, **AS_SMP, "widths": WIDTHS, "readout": readout},
        variant=f"ViT of 6 blocks, {readout}",
        source="smp_timm",
        reference=replace(reference, build=lambda: _balanced(reference.build()), answers=_answers_of_smp),
        sizes=((64, 96), (96, 160), (160, 160)),  # multiples of 32, which are all it takes
        exact=1e-6,  # timm resizes positions in fp32
        inert=(r"^encoder\.model\.(norm|fc_norm|head)\.",),
        surplus=-(2 * WIDTH + 1000 * (WIDTH + 1)),  # its last norm, and a classifier of ImageNet
    )


@torch.no_grad()
def _balanced(network: Any) -> Any:
    """With a class token that is more than a millionth, and logits about 1: its maps grow from one fusion to the next."""
    network.encoder.model.cls_token.normal_()
    network.segmentation_head.head[-1].weight.mul_(0.1)
    return network


def _answers_of_smp(network: Any, images: Tensor) -> list[Tensor]:
    """The logits before their last upsampling."""
    return [network.segmentation_head.head(network.decoder(*network.encoder(images)))]


ROWS = [
    _mmseg("project"),
    _mmseg("add"),
    _mmseg("ignore"),
    _transformers(norm=True),
    _transformers(norm=False),
    _smp("project"),
    _smp("add"),
]
COUNTS = [
    Count(
        DPT,
        {"num_classes": 150},
        Published("mmseg/dpt_vit-b16_8xb2-160k_ade20k-512x512", total=109.7, inference=109.7),
    ),
]
