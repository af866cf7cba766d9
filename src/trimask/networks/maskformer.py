"""MaskFormer: queries ask a map, by a transformer decoder, for one mask and one class each.

Source: Cheng, Schwing, Kirillov, "Per-Pixel Classification is Not All You Need for Semantic Segmentation", NeurIPS 2021,
arXiv:2107.06278; official code facebookresearch/MaskFormer (CC BY-NC 4.0), read and written anew. Equal to transformers'
`MaskFormerForInstanceSegmentation` (Apache-2.0), and with an encoder to that with its `DetrEncoder` (`make parity`).

The coarsest map of the backbone goes two ways: down a feature pyramid to the finest level, and as memory into the decoder of DETR
(Carion et al., ECCV 2020, arXiv:2005.12872). With `encoder_layers`, a transformer encoder stands in front of both, the official
`TransformerEncoderPixelDecoder` since facebookresearch/MaskFormer#1; before, its decoder saw the map without it, and such files
are refused here for their `input_proj`.

Published: 100 queries and 6 layers of the decoder; 6 of the encoder for panoptic segments on ResNets, otherwise none. Criterion
and panoptic answers have other settings than those of Mask2Former: see `losses.query`, and `inside_only` of `decode.queries`.

**Deviations**
- Pictures (officially all but COCO's) are padded to multiples of 32 by whoever gives them, see `configs/model/maskformer.yaml`.
- Batch norms learn by default; those of the official ResNets are frozen (`frozen_norm`).
- From transformers, as the official code: dropout also of the weights of the attention; the answers of earlier layers are normed
  as the last one is, and there is none of the queries before the first layer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trimask.layers.backbone import Backbone
from trimask.layers.backbone_names import DETECTRON2, TRANSFORMERS, convert_detectron2, convert_transformers
from trimask.layers.map_norms import MapNorm, map_norms
from trimask.layers.plain_vit import as_tokens
from trimask.layers.sine_positions import sine_tokens
from trimask.outputs import QueryOutput
from trimask.weights import RenameTable, join

NUM_LEVELS = 4
NUM_GROUPS = 32  # of group normalization, as in its paper


# --- the pixel decoder ---


class ConvGroupNorm(nn.Sequential):
    """Convolution without bias, group normalization; the size stays. Members: `conv`, `norm`."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False)
        self.norm = nn.GroupNorm(NUM_GROUPS, out_channels)
        _initialize(self.conv)


class PixelDecoder(nn.Module):
    """Maps of a backbone, finest first -> one map of the finest's size that has seen them all."""

    def __init__(self, in_channels: Sequence[int], channels: int) -> None:
        super().__init__()
        *finer, coarsest = in_channels
        self.laterals = nn.ModuleList(ConvGroupNorm(width, channels, 1) for width in finer)
        self.smooth = nn.ModuleList(ConvGroupNorm(width, channels, 3) for width in [*[channels] * len(finer), coarsest])
        self.mask_features = nn.Conv2d(channels, channels, 3, padding=1)
        _initialize(self.mask_features)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """(B, in_channels[i], h_i, w_i) -> (B, channels, h_0, w_0)."""
        *finer, coarsest = maps
        *smooth, first = self.smooth
        x = F.relu(first(coarsest))
        for level in range(len(finer) - 1, -1, -1):
            beside = self.laterals[level](finer[level])
            x = beside + F.interpolate(x, beside.shape[-2:], mode="nearest")
            x = F.relu(smooth[level](x))
        return self.mask_features(x)


def _initialize(conv: nn.Conv2d) -> None:
    """As Caffe2's XavierFill: uniform, variance 1 / fan in."""
    nn.init.kaiming_uniform_(conv.weight, a=1)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)


# --- the transformer ---


class Attention(nn.Module):
    """What tokens see is added to them; the norm follows."""

    def __init__(self, channels: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.attend = nn.MultiheadAttention(channels, num_heads, dropout=dropout, batch_first=True)
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(channels)
        nn.init.xavier_uniform_(self.attend.out_proj.weight)

    def forward(self, x: Tensor, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """(B, N, D) tokens, the same with positions, (B, M, D) what they look at with positions, and without."""
        seen, _ = self.attend(queries, keys, values, need_weights=False)
        return self.norm(x + self.dropout(seen))


class FeedForward(nn.Module):
    """A perceptron beside a shortcut; the norm follows."""

    def __init__(self, channels: int, inner_channels: int, dropout: float) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(channels, inner_channels), nn.ReLU(), nn.Dropout(dropout), nn.Linear(inner_channels, channels)
        )
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(channels)
        for layer in self.mlp:
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x + self.dropout(self.mlp(x)))


class EncoderLayer(nn.Module):
    """Tokens look at each other."""

    def __init__(self, channels: int, *, num_heads: int, inner_channels: int, dropout: float) -> None:
        super().__init__()
        self.self_attention = Attention(channels, num_heads, dropout)
        self.feed_forward = FeedForward(channels, inner_channels, dropout)

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        """(B, N, D) tokens, (1, N, D) their positions -> (B, N, D)."""
        placed = x + positions
        return self.feed_forward(self.self_attention(x, placed, placed, x))


class DecoderLayer(nn.Module):
    """Tokens look at each other and then at the memory."""

    def __init__(self, channels: int, *, num_heads: int, inner_channels: int, dropout: float) -> None:
        super().__init__()
        self.self_attention = Attention(channels, num_heads, dropout)
        self.cross_attention = Attention(channels, num_heads, dropout)
        self.feed_forward = FeedForward(channels, inner_channels, dropout)

    def forward(self, x: Tensor, positions: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """(B, Q, D) tokens and their positions, (B, N, D) memory with positions, and without -> (B, Q, D)."""
        placed = x + positions
        x = self.self_attention(x, placed, placed, x)
        return self.feed_forward(self.cross_attention(x, x + positions, keys, values))


class MapEncoder(nn.Module):
    """A map in another width, whose cells look at each other."""

    def __init__(self, in_channels: int, channels: int, num_layers: int, **settings: Any) -> None:
        super().__init__()
        self.project = nn.Conv2d(in_channels, channels, 1)
        self.layers = nn.ModuleList(EncoderLayer(channels, **settings) for _ in range(num_layers))
        _initialize(self.project)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, h, w) -> (B, channels, h, w)."""
        x = self.project(x)
        tokens, positions = as_tokens(x), sine_tokens(x)
        for layer in self.layers:
            tokens = layer(tokens, positions)
        return tokens.transpose(1, 2).unflatten(2, x.shape[-2:])


# --- other libraries' weights ---


def _convert_detectron2(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without what is a setting here. The first files do not say that the pixel decoder is one."""
    unnamed = re.compile(r"^sem_seg_head\.(?!predictor\.|pixel_decoder\.)")
    return {
        unnamed.sub("sem_seg_head.pixel_decoder.", name): value
        for name, value in convert_detectron2(weights).items()
        if name != "criterion.empty_weight"
    }


def _convert_transformers(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Projections joined; without settings, and the last norm of Swin, which maps do not pass."""
    unused = re.compile(r"^criterion\.empty_weight$|^model\.pixel_level_module\.encoder\.model\.layernorm\.")
    kept = {name: value for name, value in convert_transformers(weights).items() if not unused.match(name)}
    return join(kept, (".q_proj.", ".k_proj.", ".v_proj."), ".in_proj.")


_DETECTRON2 = (
    *DETECTRON2,
    (r"^norms\.", "backbone.norm"),
    (r"^encoder\.project\.", "sem_seg_head.pixel_decoder.input_proj."),
    (r"^encoder\.layers\.", "sem_seg_head.pixel_decoder.transformer.encoder.layers."),
    *((rf"^pixel_decoder\.laterals\.{level}\.", f"pixel_decoder.adapter_{level + 1}.") for level in range(3)),
    *((rf"^pixel_decoder\.smooth\.{level}\.", f"pixel_decoder.layer_{level + 1}.") for level in range(4)),
    (r"^(pixel_decoder\..+)\.conv\.", r"\1."),
    (r"^pixel_decoder\.", "sem_seg_head.pixel_decoder."),
    (r"^project\.", "sem_seg_head.predictor.input_proj."),
    (r"^queries\.", "sem_seg_head.predictor.query_embed."),
    (r"^(layers|norm)\.", r"sem_seg_head.predictor.transformer.decoder.\1."),
    (r"^classify\.", "sem_seg_head.predictor.class_embed."),
    *((rf"^mask_head\.{2 * layer}\.", f"sem_seg_head.predictor.mask_embed.layers.{layer}.") for layer in range(3)),
    (r"\.self_attention\.attend\.", ".self_attn."),
    (r"\.cross_attention\.attend\.", ".multihead_attn."),
    (r"\.feed_forward\.mlp\.0\.", ".linear1."),
    (r"\.feed_forward\.mlp\.3\.", ".linear2."),
    (r"\.self_attention\.norm\.", ".norm1."),
    (r"\.cross_attention\.norm\.", ".norm2."),
    (r"(\.encoder\.layers\.\d+)\.feed_forward\.norm\.", r"\1.norm2."),
    (r"\.feed_forward\.norm\.", ".norm3."),
)
_TRANSFORMERS = (
    *TRANSFORMERS,
    (r"^backbone\.(?=embedder\.|encoder\.stages\.)", "model.pixel_level_module.encoder."),
    (r"^backbone\.", "model.pixel_level_module.encoder.model."),
    (r"^norms\.", "model.pixel_level_module.encoder.hidden_states_norms."),
    # theirs go from coarse to fine
    *((rf"^pixel_decoder\.laterals\.{level}\.", f"pixel_decoder.fpn.layers.{2 - level}.proj.") for level in range(3)),
    *((rf"^pixel_decoder\.smooth\.{level}\.", f"pixel_decoder.fpn.layers.{2 - level}.block.") for level in range(3)),
    (r"^pixel_decoder\.smooth\.3\.", "pixel_decoder.fpn.stem."),
    (r"^(pixel_decoder\..+)\.conv\.", r"\1.0."),
    (r"^(pixel_decoder\..+)\.norm\.", r"\1.1."),
    (r"^pixel_decoder\.mask_features\.", "pixel_decoder.mask_projection."),
    (r"^pixel_decoder\.", "model.pixel_level_module.decoder."),
    (r"^project\.", "model.transformer_module.input_projection."),
    (r"^queries\.", "model.transformer_module.queries_embedder."),
    (r"^norm\.", "model.transformer_module.decoder.layernorm."),
    (r"^layers\.", "model.transformer_module.decoder.layers."),
    (r"^classify\.", "class_predictor."),
    *((rf"^mask_head\.{2 * layer}\.", f"mask_embedder.{layer}.0.") for layer in range(3)),
    (r"\.attend\.in_proj_", ".attend.in_proj."),
    (r"\.self_attention\.attend\.", ".self_attn."),
    (r"\.cross_attention\.attend\.", ".encoder_attn."),
    (r"\.self_attention\.norm\.", ".self_attn_layer_norm."),
    (r"\.cross_attention\.norm\.", ".encoder_attn_layer_norm."),
    (r"\.feed_forward\.mlp\.0\.", ".fc1."),
    (r"\.feed_forward\.mlp\.3\.", ".fc2."),
    (r"\.feed_forward\.norm\.", ".final_layer_norm."),
)


class MaskFormer(nn.Module):
    """A mask and a class for each query; see above.

    Args:
        num_classes: of objects; there is one logit more, for none.
        backbone: timm name; its last four levels are used.
        pretrained: see `Backbone`.
        in_channels: channels of the pictures.
        drop_path: rate of stochastic depth in the last block of the backbone; officially 0.3 for Swin.
        frozen_norm: see `Backbone`; published for ResNets.
        map_norm: of the maps of the backbone, see `layers.map_norms`.
        channels: D, of the pyramid, the tokens and the embeddings of masks.
        num_queries: Q.
        num_layers: of the decoder, each of which answers in training.
        encoder_layers: of the encoder on the coarsest map; 0 for no encoder.
        num_heads, inner_channels, dropout: of the transformer.

    Raises:
        ValueError: see `Backbone`; or `channels` is no multiple of 32 and of the heads, or there is no query or layer.
    """

    output = QueryOutput
    tiny: ClassVar[dict[str, Any]] = {
        "backbone": "test_resnet",
        "channels": 64,
        "num_queries": 8,
        "num_layers": 2,
        "encoder_layers": 1,
        "inner_channels": 128,
        # so little that two pictures can be learned by heart; without any, the first layer's queries and keys, which look at
        # equal values, would have no gradient
        "dropout": 0.01,
    }
    RENAMES: ClassVar[dict[str, RenameTable]] = {"detectron2": _DETECTRON2, "transformers": _TRANSFORMERS}
    CONVERSIONS: ClassVar[dict[str, Any]] = {"detectron2": _convert_detectron2, "transformers": _convert_transformers}

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
        num_layers: int = 6,
        encoder_layers: int = 0,
        num_heads: int = 8,
        inner_channels: int = 2048,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if channels % NUM_GROUPS or channels % num_heads:
            raise ValueError(
                f"MaskFormer's channels are divided into {NUM_GROUPS} groups and among {num_heads} heads; got {channels}."
            )
        if min(num_queries, num_layers) < 1 or encoder_layers < 0:
            raise ValueError(
                "MaskFormer needs at least one query and one layer of the decoder; got "
                f"num_queries={num_queries}, num_layers={num_layers} and encoder_layers={encoder_layers}."
            )
        settings: dict[str, Any] = {"num_heads": num_heads, "inner_channels": inner_channels, "dropout": dropout}
        self.backbone = Backbone(
            backbone, pretrained=pretrained, in_channels=in_channels, drop_path=drop_path, frozen_norm=frozen_norm
        )
        widths = self.backbone.channels[-NUM_LEVELS:]
        self.norms = map_norms(widths, map_norm, backbone=backbone)
        self.encoder: MapEncoder | None = None
        if encoder_layers:
            self.encoder = MapEncoder(widths[-1], channels, encoder_layers, **settings)
            widths = [*widths[:-1], channels]
        self.pixel_decoder = PixelDecoder(widths, channels)
        self.project: nn.Module = nn.Identity()
        if widths[-1] != channels:
            self.project = nn.Conv2d(widths[-1], channels, 1)
            _initialize(self.project)
        self.queries = nn.Embedding(num_queries, channels)
        self.layers = nn.ModuleList(DecoderLayer(channels, **settings) for _ in range(num_layers))
        self.norm = nn.LayerNorm(channels)
        self.classify = nn.Linear(channels, num_classes + 1)
        self.mask_head = nn.Sequential(
            nn.Linear(channels, channels),
            nn.ReLU(),
            nn.Linear(channels, channels),
            nn.ReLU(),
            nn.Linear(channels, channels),
        )

    def forward(self, images: Tensor) -> QueryOutput:
        """(B, in_channels, H, W) in 0..255 -> masks at the stride of the finest level, and classes."""
        maps = self.backbone(images)[-NUM_LEVELS:]
        if self.norms is not None:
            maps = [norm(x) for norm, x in zip(self.norms, maps, strict=True)]
        if self.encoder is not None:
            maps[-1] = self.encoder(maps[-1])
        features = self.pixel_decoder(maps)
        *earlier, last = self._decode(self.project(maps[-1]))
        answer = self._predict(last, features)
        aux = tuple(self._predict(x, features) for x in earlier) if self.training else ()
        return QueryOutput(answer.masks, answer.classes, aux)

    def _decode(self, memory: Tensor) -> list[Tensor]:
        """(B, D, h, w) -> (B, Q, D) what the queries know behind each layer."""
        values = as_tokens(memory)
        keys = values + sine_tokens(memory)
        positions = self.queries.weight.expand(memory.shape[0], -1, -1)
        x, states = torch.zeros_like(positions), []
        for layer in self.layers:
            x = layer(x, positions, keys, values)
            states.append(x)
        return states

    def _predict(self, x: Tensor, features: Tensor) -> QueryOutput:
        """(B, Q, D) -> what the queries say."""
        x = self.norm(x)
        return QueryOutput(torch.einsum("bqd,bdhw->bqhw", self.mask_head(x), features), self.classify(x))
