"""DPT beside mmsegmentation's and transformers'."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from trimask.networks.dpt import DPT
from trimask.parity.linear import WIDTH
from trimask.parity.references import mmseg, transformers
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


ROWS = [_mmseg("project"), _mmseg("add"), _mmseg("ignore"), _transformers(norm=True), _transformers(norm=False)]
COUNTS = [
    Count(
        DPT,
        {"num_classes": 150},
        Published("mmseg/dpt_vit-b16_8xb2-160k_ade20k-512x512", total=109.7, inference=109.7),
    ),
]
