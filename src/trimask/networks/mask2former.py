"""Mask2Former: queries ask, layer after layer, the inside of the masks that they have predicted so far.

Source: Cheng, Misra, Schwing, Kirillov, Girdhar, "Masked-attention Mask Transformer for Universal Image Segmentation", CVPR 2022,
arXiv:2112.01527; official code facebookresearch/Mask2Former (MIT), read and written anew. Equal to transformers'
`Mask2FormerForUniversalSegmentation` (Apache-2.0) in training and evaluation, losses included (`make parity`).

Maps of strides 8, 16 and 32 look at each other by deformable attention; a pyramid brings the finest of them to stride 4. Learned
queries look at one of the three maps in each of nine layers, the coarsest first, where their mask is; a query whose mask is empty
there looks everywhere. All ten predictions are learned from, the first of them made by the queries as they are.

Names of mmdet and mmseg are those of mmdet 3.3's constructors; none of its files was at hand.

Published: 100 queries, 200 for instances and panoptic segments with Swin-L; stochastic depth 0.3 in Swin.

**Deviations**
- Pictures are padded to multiples of 32 by whoever gives them, as `configs/model/mask2former.yaml` says.
- Batch norms learn by default; those of the official ResNets are frozen (`frozen_norm`), but with Cityscapes synchronized.
- What the queries look at is predicted at the size of the map that they look at: of masks, which are products, and of what they
  are products of, interpolation is the same. Evaluation makes one mask a query in full, training all ten together.
- The last convolution of the pixel decoder, 1x1, is applied to the queries' side of that product: same result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trimask.layers.backbone import Backbone
from trimask.layers.backbone_names import (
    DETECTRON2,
    MMSEG,
    TRANSFORMERS,
    convert_detectron2,
    convert_mmseg,
    convert_transformers,
)
from trimask.layers.deformable_attention import DeformableAttention, places_of_cells
from trimask.layers.map_norms import MapNorm, map_norms
from trimask.layers.plain_vit import as_tokens
from trimask.layers.sine_positions import sine_tokens
from trimask.outputs import QueryOutput
from trimask.types import Size
from trimask.weights import RenameTable, join

NUM_LEVELS = 3  # that queries look at; one finer map of the backbone is for the masks
NUM_GROUPS = 32  # of group normalization, as in its paper


# --- the pixel decoder ---


class EncoderLayer(nn.Module):
    """Cells of all maps look at each other; the norms follow."""

    def __init__(self, channels: int, num_heads: int) -> None:
        super().__init__()
        self.attention = DeformableAttention(channels, num_heads=num_heads, num_levels=NUM_LEVELS)
        self.norm1 = nn.LayerNorm(channels)
        self.mlp = _two_layers(channels, 4 * channels)
        self.norm2 = nn.LayerNorm(channels)

    def forward(self, x: Tensor, positions: Tensor, places: Sequence[Tensor], sizes: Sequence[Size]) -> Tensor:
        """(B, N, D) cells, (N, D) their positions -> (B, N, D). Args: places, sizes: see `DeformableAttention`."""
        x = self.norm1(x + self.attention(x + positions, x, places, sizes))
        return self.norm2(x + self.mlp(x))


class PixelDecoder(nn.Module):
    """Maps of a backbone, finest first -> the three that queries look at, coarsest first, and the one that masks are made of.

    Args:
        in_channels: of the four maps.
        channels: of all answers.
        num_layers: in which the three coarser maps look at each other.
        num_heads: of that attention.
    """

    def __init__(self, in_channels: Sequence[int], channels: int, *, num_layers: int, num_heads: int) -> None:
        super().__init__()
        finest, *coarser = in_channels
        projections = [nn.Conv2d(width, channels, 1) for width in coarser[::-1]]
        lateral = nn.Conv2d(finest, channels, 1, bias=False)
        smooth = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        for conv in projections:
            nn.init.xavier_uniform_(conv.weight)
            nn.init.zeros_(conv.get_parameter("bias"))
        for conv in (lateral, smooth):
            nn.init.kaiming_uniform_(conv.weight, a=1)
        self.project = nn.ModuleList(nn.Sequential(conv, nn.GroupNorm(NUM_GROUPS, channels)) for conv in projections)
        self.level_embed = nn.Parameter(torch.randn(NUM_LEVELS, channels))
        self.layers = nn.ModuleList(EncoderLayer(channels, num_heads) for _ in range(num_layers))
        self.lateral = nn.Sequential(lateral, nn.GroupNorm(NUM_GROUPS, channels))
        self.smooth = nn.Sequential(smooth, nn.GroupNorm(NUM_GROUPS, channels), nn.ReLU())

    def forward(self, maps: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
        """(B, in_channels[i], h_i, w_i) -> (B, channels, h_i, w_i) of i = 3, 2, 1, and of the finest."""
        finest, *coarser = maps
        levels = self._encoded([project(x) for project, x in zip(self.project, coarser[::-1], strict=True)])
        beside = self.lateral(finest)
        return levels, self.smooth(beside + _resized(levels[-1], beside.shape[-2:]))

    def _encoded(self, levels: Sequence[Tensor]) -> list[Tensor]:
        sizes = [(level.shape[2], level.shape[3]) for level in levels]
        x = torch.cat([as_tokens(level) for level in levels], dim=1)
        positions = [sine_tokens(level)[0] + embed for level, embed in zip(levels, self.level_embed, strict=True)]
        besides = torch.cat(positions), places_of_cells(sizes, like=x), sizes
        for layer in self.layers:
            x = layer(x, *besides)
        parts = x.split([height * width for height, width in sizes], dim=1)
        return [part.transpose(1, 2).unflatten(2, size) for part, size in zip(parts, sizes, strict=True)]


# --- the transformer decoder ---


class Attention(nn.Module):
    """Queries -> the mean of the values, weighted by how much their keys are like the queries."""

    def __init__(self, channels: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.in_proj = nn.Linear(channels, 3 * channels)
        self.out_proj = nn.Linear(channels, channels)

    def forward(self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, Q, D), (B, N, D) twice, and (B, Q, N) where to look -> (B, Q, D)."""
        parts = zip((queries, keys, values), self.in_proj.weight.chunk(3), self.in_proj.bias.chunk(3), strict=True)
        q, k, v = (F.linear(*part).unflatten(2, (self.num_heads, -1)).transpose(1, 2) for part in parts)
        seen = F.scaled_dot_product_attention(q, k, v, attn_mask=None if mask is None else mask[:, None])
        return self.out_proj(seen.transpose(1, 2).flatten(2))


class DecoderLayer(nn.Module):
    """Queries look at the inside of their masks, then at each other; the norms follow."""

    def __init__(self, channels: int, num_heads: int) -> None:
        super().__init__()
        self.cross_attention = Attention(channels, num_heads)
        self.norm1 = nn.LayerNorm(channels)
        self.attention = Attention(channels, num_heads)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = _two_layers(channels, 8 * channels)
        self.norm3 = nn.LayerNorm(channels)
        for module in (self.cross_attention, self.attention):
            for layer in (module.in_proj, module.out_proj):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, positions: Tensor, keys: Tensor, memory: Tensor, mask: Tensor) -> Tensor:
        """(B, Q, D) and (Q, D) positions; (B, N, D) memory with its positions, and without; (B, Q, N) -> (B, Q, D)."""
        x = self.norm1(x + self.cross_attention(x + positions, keys, memory, mask))
        placed = x + positions
        x = self.norm2(x + self.attention(placed, placed, x))
        return self.norm3(x + self.mlp(x))


class TransformerDecoder(nn.Module):
    """Maps -> masks and classes of the queries, after each layer in training, after the last one in evaluation.

    Args:
        num_classes: of objects; there is one logit more, for none.
        channels: of the maps.
        num_queries: Q.
        num_layers: in which queries look at one map each.
        num_heads: of both attentions.
    """

    def __init__(self, num_classes: int, channels: int, *, num_queries: int, num_layers: int, num_heads: int) -> None:
        super().__init__()
        self.queries = nn.Embedding(num_queries, channels)
        self.positions = nn.Embedding(num_queries, channels)
        self.level_embed = nn.Embedding(NUM_LEVELS, channels)
        self.layers = nn.ModuleList(DecoderLayer(channels, num_heads) for _ in range(num_layers))
        self.norm = nn.LayerNorm(channels)
        self.classify = nn.Linear(channels, num_classes + 1)
        self.mask_head = nn.Sequential(
            nn.Linear(channels, channels),
            nn.ReLU(),
            nn.Linear(channels, channels),
            nn.ReLU(),
            nn.Linear(channels, channels),
        )
        self.mask_features = nn.Conv2d(channels, channels, 1)
        nn.init.kaiming_uniform_(self.mask_features.weight, a=1)
        nn.init.zeros_(self.mask_features.get_parameter("bias"))

    def forward(self, levels: Sequence[Tensor], features: Tensor) -> list[QueryOutput]:
        """(B, D, h_i, w_i) maps that queries look at, and (B, D, h, w) what masks are made of."""
        memory = [as_tokens(x) + embed for x, embed in zip(levels, self.level_embed.weight, strict=True)]
        keys = [x + sine_tokens(level) for x, level in zip(memory, levels, strict=True)]
        seen = [_resized(features.detach(), level.shape[-2:]) for level in levels]
        x = self.queries.weight.expand(features.shape[0], -1, -1)
        states = [self.norm(x)]
        kernels = [self._kernels(states[0])]
        for index, layer in enumerate(self.layers):
            level = index % NUM_LEVELS
            inside = _where_to_look(kernels[-1], seen[level])
            x = layer(x, self.positions.weight, keys[level], memory[level], inside)
            states.append(self.norm(x))
            kernels.append(self._kernels(states[-1]))
        first = 0 if self.training else len(self.layers)
        masks = _products(torch.cat(kernels[first:], dim=1), features)
        classes = self.classify(torch.cat(states[first:], dim=1))
        each = (x.unflatten(1, (-1, self.queries.num_embeddings)).unbind(1) for x in (masks, classes))
        return [QueryOutput(*pair) for pair in zip(*each, strict=True)]

    def _kernels(self, queries: Tensor) -> Tensor:
        """(B, Q, D) -> (B, Q, D + 1): what each of them multiplies the features with, and what it adds."""
        weight, bias = self.mask_features.weight.flatten(1), self.mask_features.get_parameter("bias")
        return self.mask_head(queries) @ torch.cat([weight, bias[:, None]], dim=1)


def _products(kernels: Tensor, features: Tensor) -> Tensor:
    """(B, T, D + 1) and (B, D, h, w) -> (B, T, h, w)."""
    products = torch.baddbmm(kernels[..., -1:], kernels[..., :-1], features.flatten(2))
    return products.unflatten(2, features.shape[-2:])


@torch.no_grad()
def _where_to_look(kernels: Tensor, features: Tensor) -> Tensor:
    """(B, Q, D + 1) and (B, D, h, w) -> (B, Q, h * w): the inside of the mask, or everywhere if it is empty."""
    inside = _products(kernels, features).flatten(2) >= 0
    return inside | ~inside.any(dim=-1, keepdim=True)


def _resized(x: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(x, tuple(size), mode="bilinear", align_corners=False)


def _two_layers(channels: int, inner: int) -> nn.Sequential:
    first, second = nn.Linear(channels, inner), nn.Linear(inner, channels)
    for layer in (first, second):
        nn.init.xavier_uniform_(layer.weight)
    return nn.Sequential(first, nn.ReLU(), second)


# --- other libraries' weights ---

_PARTS = (".self_attn.q_proj.", ".self_attn.k_proj.", ".self_attn.v_proj.")


def _convert_detectron2(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without what is a setting here."""
    unused = ("criterion.empty_weight", "pixel_mean", "pixel_std")
    return convert_detectron2({name: value for name, value in weights.items() if name not in unused})


def _convert_transformers(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The backbone by its usual name, projections joined, without what is a setting here."""
    kept = {name.replace("model.pixel_level_module.encoder.", "backbone."): value for name, value in weights.items()}
    kept.pop("criterion.empty_weight", None)
    return join(convert_transformers(kept), _PARTS, ".self_attn.in_proj.")


_HEAD_DETECTRON2 = (
    (r"^norms\.(\d)\.", r"backbone.norm\1."),
    (r"^pixel_decoder\.project\.", "sem_seg_head.pixel_decoder.input_proj."),
    (r"^pixel_decoder\.level_embed$", "sem_seg_head.pixel_decoder.transformer.level_embed"),
    (r"^pixel_decoder\.layers\.", "sem_seg_head.pixel_decoder.transformer.encoder.layers."),
    (r"\.encoder\.layers\.(\d+)\.attention\.", r".encoder.layers.\1.self_attn."),
    (r"\.encoder\.layers\.(\d+)\.mlp\.0\.", r".encoder.layers.\1.linear1."),
    (r"\.encoder\.layers\.(\d+)\.mlp\.2\.", r".encoder.layers.\1.linear2."),
    (r"^pixel_decoder\.lateral\.0\.", "sem_seg_head.pixel_decoder.adapter_1."),
    (r"^pixel_decoder\.lateral\.1\.", "sem_seg_head.pixel_decoder.adapter_1.norm."),
    (r"^pixel_decoder\.smooth\.0\.", "sem_seg_head.pixel_decoder.layer_1."),
    (r"^pixel_decoder\.smooth\.1\.", "sem_seg_head.pixel_decoder.layer_1.norm."),
    (r"^decoder\.mask_features\.", "sem_seg_head.pixel_decoder.mask_features."),
    (r"^decoder\.", "sem_seg_head.predictor."),
    (r"\.predictor\.queries\.", ".predictor.query_feat."),
    (r"\.predictor\.positions\.", ".predictor.query_embed."),
    (r"\.predictor\.norm\.", ".predictor.decoder_norm."),
    (r"\.predictor\.classify\.", ".predictor.class_embed."),
    *((rf"\.predictor\.mask_head\.{2 * index}\.", f".predictor.mask_embed.layers.{index}.") for index in range(3)),
    (r"(\.layers\.\d+\.(?:cross_)?attention)\.in_proj\.", r"\1.in_proj_"),
    (
        r"\.predictor\.layers\.(\d+)\.cross_attention\.",
        r".predictor.transformer_cross_attention_layers.\1.multihead_attn.",
    ),
    (r"\.predictor\.layers\.(\d+)\.attention\.", r".predictor.transformer_self_attention_layers.\1.self_attn."),
    (r"\.predictor\.layers\.(\d+)\.norm1\.", r".predictor.transformer_cross_attention_layers.\1.norm."),
    (r"\.predictor\.layers\.(\d+)\.norm2\.", r".predictor.transformer_self_attention_layers.\1.norm."),
    (r"\.predictor\.layers\.(\d+)\.norm3\.", r".predictor.transformer_ffn_layers.\1.norm."),
    (r"\.predictor\.layers\.(\d+)\.mlp\.0\.", r".predictor.transformer_ffn_layers.\1.linear1."),
    (r"\.predictor\.layers\.(\d+)\.mlp\.2\.", r".predictor.transformer_ffn_layers.\1.linear2."),
)
_HEAD_TRANSFORMERS = (
    (r"^norms\.0\.", "backbone.hidden_states_norms.stage1."),
    (r"^norms\.1\.", "backbone.hidden_states_norms.stage2."),
    (r"^norms\.2\.", "backbone.hidden_states_norms.stage3."),
    (r"^norms\.3\.", "backbone.hidden_states_norms.stage4."),
    (r"^decoder\.mask_features\.", "pixel_decoder.mask_projection."),
    (r"^decoder\.classify\.", "class_predictor."),
    (r"^pixel_decoder\.project\.", "pixel_decoder.input_projections."),
    (r"^pixel_decoder\.lateral\.", "pixel_decoder.adapter_1."),
    (r"^pixel_decoder\.smooth\.", "pixel_decoder.layer_1."),
    (r"^pixel_decoder\.layers\.(\d+)\.attention\.", r"pixel_decoder.encoder.layers.\1.self_attn."),
    (r"^pixel_decoder\.layers\.(\d+)\.norm1\.", r"pixel_decoder.encoder.layers.\1.self_attn_layer_norm."),
    (r"^pixel_decoder\.layers\.(\d+)\.norm2\.", r"pixel_decoder.encoder.layers.\1.final_layer_norm."),
    (r"^pixel_decoder\.layers\.", "pixel_decoder.encoder.layers."),
    (r"^pixel_decoder\.", "model.pixel_level_module.decoder."),
    (r"^decoder\.queries\.", "model.transformer_module.queries_features."),
    (r"^decoder\.positions\.", "model.transformer_module.queries_embedder."),
    (r"^decoder\.level_embed\.", "model.transformer_module.level_embed."),
    (r"^decoder\.norm\.", "decoder.layernorm."),
    *(
        (rf"^decoder\.mask_head\.{2 * index}\.", f"decoder.mask_predictor.mask_embedder.{index}.0.")
        for index in range(3)
    ),
    (r"^decoder\.layers\.(\d+)\.cross_attention\.in_proj\.", r"decoder.layers.\1.cross_attn.in_proj_"),
    (r"^decoder\.layers\.(\d+)\.cross_attention\.", r"decoder.layers.\1.cross_attn."),
    (r"^decoder\.layers\.(\d+)\.attention\.", r"decoder.layers.\1.self_attn."),
    (r"^decoder\.layers\.(\d+)\.norm1\.", r"decoder.layers.\1.cross_attn_layer_norm."),
    (r"^decoder\.layers\.(\d+)\.norm2\.", r"decoder.layers.\1.self_attn_layer_norm."),
    (r"^decoder\.layers\.(\d+)\.norm3\.", r"decoder.layers.\1.final_layer_norm."),
    (r"^decoder\.", "model.transformer_module.decoder."),
    (r"(\.decoder\.(?:encoder\.)?layers\.\d+)\.mlp\.0\.", r"\1.fc1."),
    (r"(\.decoder\.(?:encoder\.)?layers\.\d+)\.mlp\.2\.", r"\1.fc2."),
)

_HEAD_MMSEG = (
    (r"^norms\.(\d)\.", r"backbone.norm\1."),
    (r"^pixel_decoder\.project\.(\d)\.0\.", r"pixel_decoder.input_convs.\1.conv."),
    (r"^pixel_decoder\.project\.(\d)\.1\.", r"pixel_decoder.input_convs.\1.gn."),
    (r"^pixel_decoder\.level_embed$", "pixel_decoder.level_encoding.weight"),
    (r"^pixel_decoder\.lateral\.0\.", "pixel_decoder.lateral_convs.0.conv."),
    (r"^pixel_decoder\.lateral\.1\.", "pixel_decoder.lateral_convs.0.gn."),
    (r"^pixel_decoder\.smooth\.0\.", "pixel_decoder.output_convs.0.conv."),
    (r"^pixel_decoder\.smooth\.1\.", "pixel_decoder.output_convs.0.gn."),
    (r"^pixel_decoder\.layers\.(\d+)\.attention\.", r"pixel_decoder.encoder.layers.\1.self_attn."),
    (r"^pixel_decoder\.layers\.", "pixel_decoder.encoder.layers."),
    (r"^decoder\.mask_features\.", "pixel_decoder.mask_feature."),
    (r"^decoder\.queries\.", "query_feat."),
    (r"^decoder\.positions\.", "query_embed."),
    (r"^decoder\.level_embed\.", "level_embed."),
    (r"^decoder\.norm\.", "transformer_decoder.post_norm."),
    (r"^decoder\.classify\.", "cls_embed."),
    (r"^decoder\.mask_head\.", "mask_embed."),
    (r"^decoder\.layers\.(\d+)\.cross_attention\.", r"transformer_decoder.layers.\1.cross_attn.attn."),
    (r"^decoder\.layers\.(\d+)\.attention\.", r"transformer_decoder.layers.\1.self_attn.attn."),
    (r"^decoder\.layers\.", "transformer_decoder.layers."),
    (r"\.attn\.in_proj\.", ".attn.in_proj_"),
    (r"(coder\.layers\.\d+)\.mlp\.0\.", r"\1.ffn.layers.0.0."),
    (r"(coder\.layers\.\d+)\.mlp\.2\.", r"\1.ffn.layers.1."),
    *((rf"(coder\.layers\.\d+)\.norm{number}\.", rf"\1.norms.{number - 1}.") for number in (1, 2, 3)),
    (r"^(?!backbone\.)(?=.)", "decode_head."),
)


class Mask2Former(nn.Module):
    """A mask and a class for each query; see above.

    Args:
        num_classes: of objects; there is one logit more, for none.
        backbone: timm name; its last four levels are used.
        pretrained: see `Backbone`.
        in_channels: channels of the pictures.
        drop_path: rate of stochastic depth in the last block of the backbone.
        frozen_norm: see `Backbone`; published for ResNets, but Mask2Former's on Cityscapes.
        map_norm: see `map_norms`.
        channels: width of both decoders.
        num_queries: Q.
        encoder_layers: of the pixel decoder.
        decoder_layers: in each of which the queries look at one map.
        num_heads: of every attention.

    Raises:
        ValueError: see `Backbone`; or a width that groups, heads or positions do not divide.
    """

    output = QueryOutput
    tiny: ClassVar[dict[str, Any]] = {
        "backbone": "test_resnet",
        "channels": 64,
        "num_queries": 8,
        "encoder_layers": 2,
        "decoder_layers": 3,
        "num_heads": 4,
    }
    RENAMES: ClassVar[dict[str, RenameTable]] = {
        "detectron2": (*DETECTRON2, *_HEAD_DETECTRON2),
        "mmdet": (*MMSEG, *_HEAD_MMSEG, (r"^decode_head\.", "panoptic_head.")),
        "mmseg": (*MMSEG, *_HEAD_MMSEG),
        "transformers": (*TRANSFORMERS, *_HEAD_TRANSFORMERS),
        "transformers_timm": (
            (r"^backbone\.(mean|std)$", ""),
            (r"^backbone\.body\.", "backbone._backbone."),
            *_HEAD_TRANSFORMERS,
        ),
    }
    CONVERSIONS: ClassVar[dict[str, Any]] = {
        "detectron2": _convert_detectron2,
        "mmdet": convert_mmseg,
        "mmseg": convert_mmseg,
        "transformers": _convert_transformers,
        "transformers_timm": _convert_transformers,
    }

    def __init__(
        self,
        num_classes: int,
        *,
        backbone: str = "resnet50",
        pretrained: bool | str = True,
        in_channels: int = 3,
        drop_path: float = 0.0,
        frozen_norm: bool = False,
        map_norm: MapNorm = "published",
        channels: int = 256,
        num_queries: int = 100,
        encoder_layers: int = 6,
        decoder_layers: int = 9,
        num_heads: int = 8,
    ) -> None:
        super().__init__()
        if channels % NUM_GROUPS or channels % num_heads:
            raise ValueError(
                f"`channels` is a multiple of {NUM_GROUPS}, for group normalization, and of the {num_heads} heads; "
                f"got {channels}."
            )
        if num_queries < 1:
            raise ValueError(f"Mask2Former needs at least one query; got num_queries={num_queries}.")
        self.backbone = Backbone(
            backbone, pretrained=pretrained, in_channels=in_channels, drop_path=drop_path, frozen_norm=frozen_norm
        )
        widths = self.backbone.channels[-NUM_LEVELS - 1 :]
        self.norms = map_norms(widths, map_norm, backbone=backbone)
        self.pixel_decoder = PixelDecoder(widths, channels, num_layers=encoder_layers, num_heads=num_heads)
        self.decoder = TransformerDecoder(
            num_classes, channels, num_queries=num_queries, num_layers=decoder_layers, num_heads=num_heads
        )

    def forward(self, images: Tensor) -> QueryOutput:
        """(B, in_channels, H, W) in 0..255 -> masks of a quarter of the picture's size, and classes."""
        maps = self.backbone(images)[-NUM_LEVELS - 1 :]
        if self.norms is not None:
            maps = [norm(x) for norm, x in zip(self.norms, maps, strict=True)]
        *earlier, last = self.decoder(*self.pixel_decoder(maps))
        return QueryOutput(last.masks, last.classes, tuple(earlier))
