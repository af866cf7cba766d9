"""What the tensors of backbones are called in other libraries: patterns for the rename tables of every network.

The patterns begin at our names of a network with a member `backbone` (`layers.backbone.Backbone`: timm's names of feature
extractors behind `backbone.body.`) and leave all other names alone. A network continues with its own, and with the conversion of
the same source where there is one:

    RENAMES = {"mmseg": (*MMSEG, (r"^head\\.", "decode_head."), ...)}
    CONVERSIONS = {"mmseg": convert_mmseg}

Sources of the names: the state_dicts of mmsegmentation 1.2.2 and mmpretrain 1.2.0 (Apache-2.0), segmentation_models_pytorch 0.6
(MIT), transformers 5.23 (Apache-2.0, as in files); those of the official Swin Transformer, ConvNeXt and Segmenter (all MIT)
from the converters of mmsegmentation and mmpretrain that read them; those of detectron2 (Apache-2.0) from its converter of
torchvision's ResNets and its DeepLab's stem. `make parity` compares the maps (parity/backbones.py).

**What is not a rename**
- mmseg's patch merging unfolds a 2x2 neighborhood channel by channel, row by row; the official one, and timm's, takes one
  neighbor after the other, column by column. The columns of the reduction and its norm are permuted.
- mmseg's plain ViT has no bias in its patch embedding; ours becomes zero.
- transformers keeps query, key and value apart; they are joined.
- Index tables and masks of window attention, which older files carry, are computed here and dropped.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from trimask.weights import join

Patterns = tuple[tuple[str, str], ...]

_BODY = r"^backbone\.body\."
_VIT = r"^backbone\.body\.(?:model\.)?"  # timm wraps plain transformers once more
_VIT_BLOCK = _VIT + r"blocks\.(\d+)\."
# timm's numbers in a stem of three convolutions -> detectron2's names
_DEEP_STEM = {0: "conv1", 1: "conv1.norm", 3: "conv2", 4: "conv2.norm", 6: "conv3"}
_SWIN_BLOCK = _BODY + r"layers_(\d)\.blocks\.(\d+)\."
_CONVNEXT_BLOCK = _BODY + r"stages_(\d)\.blocks\.(\d+)\."

# Mean and std are ours alone: other libraries keep them in their configurations.
_WITHOUT_MEAN_AND_STD: Patterns = ((r"^backbone\.(mean|std)$", ""),)


def _merging(where: str) -> Patterns:
    """Patch merging belongs to the stage before everywhere but in timm. Args: where: its place, "{}" for the stage."""
    return tuple((rf"{_BODY}layers_{stage}\.downsample\.", where.format(stage - 1)) for stage in (1, 2, 3))


# --- torchvision and segmentation_models_pytorch; smp_timm are smp's encoders called "tu-..." ---

TORCHVISION: Patterns = (*_WITHOUT_MEAN_AND_STD, (_BODY, "backbone."))
SMP: Patterns = (*_WITHOUT_MEAN_AND_STD, (_BODY, "encoder."))
SMP_TIMM: Patterns = (*_WITHOUT_MEAN_AND_STD, (_BODY, "encoder.model."))

# --- mmsegmentation and mmpretrain ---

_MMSEG_RESNET: Patterns = (  # V1c and V1d have one `stem`, which timm splits into conv1 (with two norms inside) and bn1
    (_BODY + r"conv1\.(\d)\.", r"backbone.stem.\1."),
    (_BODY + r"bn1\.", "backbone.stem.7."),
)
_MMSEG_SWIN: Patterns = (
    *_merging("backbone.stages.{}.downsample."),
    (_SWIN_BLOCK + r"attn\.", r"backbone.stages.\1.blocks.\2.attn.w_msa."),
    (_SWIN_BLOCK + r"mlp\.fc1\.", r"backbone.stages.\1.blocks.\2.ffn.layers.0.0."),
    (_SWIN_BLOCK + r"mlp\.fc2\.", r"backbone.stages.\1.blocks.\2.ffn.layers.1."),
    (_SWIN_BLOCK, r"backbone.stages.\1.blocks.\2."),
)
_MMSEG_CONVNEXT: Patterns = (
    (_BODY + r"stem_(\d)\.", r"backbone.downsample_layers.0.\1."),
    (_BODY + r"stages_(\d)\.downsample\.", r"backbone.downsample_layers.\1."),
    (_CONVNEXT_BLOCK + r"conv_dw\.", r"backbone.stages.\1.\2.depthwise_conv."),
    (_CONVNEXT_BLOCK + r"mlp\.fc(\d)\.", r"backbone.stages.\1.\2.pointwise_conv\3."),
    (_CONVNEXT_BLOCK, r"backbone.stages.\1.\2."),
)
_MMSEG_VIT: Patterns = (
    (_VIT + r"patch_embed\.proj\.", "backbone.patch_embed.projection."),
    (_VIT_BLOCK + r"norm(\d)\.", r"backbone.layers.\1.ln\2."),
    (_VIT_BLOCK + r"attn\.qkv\.", r"backbone.layers.\1.attn.attn.in_proj_"),
    (_VIT_BLOCK + r"attn\.proj\.", r"backbone.layers.\1.attn.attn.out_proj."),
    (_VIT_BLOCK + r"mlp\.fc1\.", r"backbone.layers.\1.ffn.layers.0.0."),
    (_VIT_BLOCK + r"mlp\.fc2\.", r"backbone.layers.\1.ffn.layers.1."),
    (_VIT + r"norm\.", "backbone.ln1."),
    (_VIT, "backbone."),
)
MMSEG: Patterns = (*_WITHOUT_MEAN_AND_STD, *_MMSEG_RESNET, *_MMSEG_SWIN, *_MMSEG_CONVNEXT, *_MMSEG_VIT)

# --- the authors' own files: Swin, ConvNeXt, and ViT as timm names it (Segmenter, SETR) ---

_OFFICIAL_SWIN: Patterns = (
    *_merging("backbone.layers.{}.downsample."),
    (_SWIN_BLOCK, r"backbone.layers.\1.blocks.\2."),
)
_OFFICIAL_CONVNEXT: Patterns = (
    (_BODY + r"stem_(\d)\.", r"backbone.downsample_layers.0.\1."),
    (_BODY + r"stages_(\d)\.downsample\.", r"backbone.downsample_layers.\1."),
    (_CONVNEXT_BLOCK + r"conv_dw\.", r"backbone.stages.\1.\2.dwconv."),
    (_CONVNEXT_BLOCK + r"mlp\.fc(\d)\.", r"backbone.stages.\1.\2.pwconv\3."),
    (_CONVNEXT_BLOCK, r"backbone.stages.\1.\2."),
)
OFFICIAL: Patterns = (*_WITHOUT_MEAN_AND_STD, *_OFFICIAL_SWIN, *_OFFICIAL_CONVNEXT, (_VIT, "backbone."))

# --- detectron2 and what is built on it: ResNet; Swin keeps its authors' names ---

_DETECTRON2_RESNET: Patterns = (  # `convert_detectron2` names the norm of the plain stem as that of three convolutions
    (_BODY + r"bn1\.", "backbone.stem.conv3.norm."),
    (_BODY + r"conv1\.weight$", "backbone.stem.conv1.weight"),
    *((rf"{_BODY}conv1\.{index}\.", f"backbone.stem.{name}.") for index, name in _DEEP_STEM.items()),
    *((rf"{_BODY}layer{stage}\.", f"backbone.res{stage + 1}.") for stage in (1, 2, 3, 4)),
    (r"^(backbone\.res\d\.\d+)\.bn(\d)\.", r"\1.conv\2.norm."),
    (r"^(backbone\.res\d\.\d+)\.downsample\.0\.", r"\1.shortcut."),
    (r"^(backbone\.res\d\.\d+)\.downsample\.1\.", r"\1.shortcut.norm."),
)
DETECTRON2: Patterns = (*_WITHOUT_MEAN_AND_STD, *_DETECTRON2_RESNET, *_OFFICIAL_SWIN, (_BODY, "backbone."))

# --- transformers, as in files ---

_TRANSFORMERS_RESNET: Patterns = (
    (_BODY + r"conv1\.", "backbone.embedder.embedder.convolution."),
    (_BODY + r"bn1\.", "backbone.embedder.embedder.normalization."),
    *((rf"{_BODY}layer{stage}\.(\d+)\.", rf"backbone.encoder.stages.{stage - 1}.layers.\1.") for stage in (1, 2, 3, 4)),
    *(
        (rf"^(backbone\.encoder\.stages\..+)\.{ours}{number}\.", rf"\1.layer.{number - 1}.{theirs}.")
        for number in (1, 2, 3)
        for ours, theirs in (("conv", "convolution"), ("bn", "normalization"))
    ),
    (r"^(backbone\.encoder\.stages\..+)\.downsample\.0\.", r"\1.shortcut.convolution."),
    (r"^(backbone\.encoder\.stages\..+)\.downsample\.1\.", r"\1.shortcut.normalization."),
)

_TRANSFORMERS_SWIN: Patterns = (
    (_BODY + r"patch_embed\.proj\.", "backbone.embeddings.patch_embeddings.projection."),
    (_BODY + r"patch_embed\.norm\.", "backbone.embeddings.norm."),
    *_merging("backbone.encoder.layers.{}.downsample."),
    (_SWIN_BLOCK + r"norm1\.", r"backbone.encoder.layers.\1.blocks.\2.layernorm_before."),
    (_SWIN_BLOCK + r"norm2\.", r"backbone.encoder.layers.\1.blocks.\2.layernorm_after."),
    (_SWIN_BLOCK + r"attn\.proj\.", r"backbone.encoder.layers.\1.blocks.\2.attention.output.dense."),
    (_SWIN_BLOCK + r"attn\.", r"backbone.encoder.layers.\1.blocks.\2.attention.self."),
    (_SWIN_BLOCK + r"mlp\.fc1\.", r"backbone.encoder.layers.\1.blocks.\2.intermediate.dense."),
    (_SWIN_BLOCK + r"mlp\.fc2\.", r"backbone.encoder.layers.\1.blocks.\2.output.dense."),
)
_TRANSFORMERS_CONVNEXT: Patterns = (
    (_BODY + r"stem_0\.", "backbone.embeddings.patch_embeddings."),
    (_BODY + r"stem_1\.", "backbone.embeddings.layernorm."),
    (_BODY + r"stages_(\d)\.downsample\.", r"backbone.encoder.stages.\1.downsampling_layer."),
    (_CONVNEXT_BLOCK + r"gamma$", r"backbone.encoder.stages.\1.layers.\2.layer_scale_parameter"),
    (_CONVNEXT_BLOCK + r"conv_dw\.", r"backbone.encoder.stages.\1.layers.\2.dwconv."),
    (_CONVNEXT_BLOCK + r"norm\.", r"backbone.encoder.stages.\1.layers.\2.layernorm."),
    (_CONVNEXT_BLOCK + r"mlp\.fc(\d)\.", r"backbone.encoder.stages.\1.layers.\2.pwconv\3."),
)
TRANSFORMERS: Patterns = (
    *_WITHOUT_MEAN_AND_STD,
    *_TRANSFORMERS_RESNET,
    *_TRANSFORMERS_SWIN,
    *_TRANSFORMERS_CONVNEXT,
)


# --- pyramids: a member `neck` (`layers.fpn_neck.FPNNeck`) over four maps ---

NECK_MMDET: Patterns = (
    (r"^neck\.laterals\.(\d)\.", r"neck.lateral_convs.\1.conv."),
    (r"^neck\.smooth\.(\d)\.", r"neck.fpn_convs.\1.conv."),
)
NECK_DETECTRON2: Patterns = tuple(
    (rf"^neck\.{ours}\.{level}\.", f"backbone.fpn_{theirs}{level + 2}.")
    for level in range(4)
    for ours, theirs in (("laterals", "lateral"), ("smooth", "output"))
)

# --- conversions: a state_dict of the source -> one that only needs renaming; what they do not know they leave alone ---


def convert_mmseg(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Patch merging in the official order, a zero bias in ViT's patch embedding, the plain stem's norm named as V1c's."""
    converted = dict(_without_tables(weights))
    for name, value in weights.items():
        if re.search(r"^backbone\.stages\.\d\.downsample\.(norm|reduction)\.", name):
            converted[name] = _in_official_order(value)
        elif name.startswith("backbone.bn1."):
            converted[name.replace("bn1", "stem.7")] = converted.pop(name)
    kernel, bias = (f"backbone.patch_embed.projection.{kind}" for kind in ("weight", "bias"))
    if kernel in converted and bias not in converted:
        converted[bias] = converted[kernel].new_zeros(len(converted[kernel]))
    return converted


def convert_official(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without the tables of window attention."""
    return _without_tables(weights)


def convert_detectron2(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The plain ResNet stem's norm named as that of a stem of three convolutions; without the tables of window attention."""
    converted = _without_tables(weights)
    plain, deep = "backbone.stem.conv1.norm.", "backbone.stem.conv3.norm."
    if any(name.startswith(deep) for name in converted):
        return converted
    return {name.replace(plain, deep): value for name, value in converted.items()}


def convert_transformers(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Query, key and value of Swin joined; without its tables and the last norm, which feature maps do not pass."""
    kept = _without_tables(weights)
    kept = {name: value for name, value in kept.items() if not name.startswith("backbone.swin.layernorm.")}
    return join(kept, [f".attention.self.{part}." for part in ("query", "key", "value")], ".attention.self.qkv.")


def _without_tables(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    derived = ("relative_position_index", "attn_mask")
    return {name: value for name, value in weights.items() if name.rpartition(".")[2] not in derived}


def _in_official_order(value: Tensor) -> Tensor:
    """The last axis, 4 D long, from (channel, row, column) to (column, row, channel)."""
    rows_and_columns = value.unflatten(-1, (-1, 2, 2))
    return torch.movedim(rows_and_columns, (-3, -2, -1), (-1, -2, -3)).flatten(-3).contiguous()
