"""Mix Transformer (MiT), the encoder of SegFormer: B0 to B5, which timm does not have.

Source: Xie et al., "SegFormer: Simple and Efficient Design for Semantic Segmentation with Transformers", NeurIPS 2021,
arXiv:2105.15203. Official code: NVlabs/SegFormer, mmseg/models/backbones/mix_transformer.py (NVIDIA Source Code License,
not for commercial use; nothing of it is here). The function is also that of mmsegmentation's `MixVisionTransformer` and of
transformers' `SegformerModel` (both Apache-2.0), which read the same weights and differ in one number:

| eps of layer norms | in blocks and behind stages | in patch embeddings and reductions |
|---|---|---|
| official, smp | 1e-6 | 1e-5 |
| mmsegmentation | 1e-6 | 1e-6 |
| transformers | 1e-5 | 1e-5 |

**Deviations**
- Pictures come in as 0..255 and are normalized here, as in `layers.backbone.Backbone`.
- Maps are (B, h, w, D) inside and (B, D, h, w) with channels last outside, whatever the memory format of the weights: the
  norms and linear layers want the former, the convolutions take the latter, and nothing is ever copied in between.
- Dropout inside the blocks, which every published configuration sets to 0, is left out.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import StochasticDepth

from trimask.layers.depthwise import DepthwiseConv2d
from trimask.layers.normalization import IMAGENET_MEAN, IMAGENET_STD, per_channel
from trimask.weights import RenameTable, join, listed, load_strictly, read_weights, require_same_names, source_names

logger = logging.getLogger(__name__)

WIDTHS = (1, 2, 5, 8)  # of the stages as multiples of the first; also their numbers of heads
REDUCTIONS = (8, 4, 2, 1)  # of the keys' and values' map, along each side


@dataclass(frozen=True)
class Variant:
    """Attributes: width: channels of the first stage; depths: blocks a stage."""

    width: int
    depths: tuple[int, int, int, int]


VARIANTS = {
    "mit_b0": Variant(32, (2, 2, 2, 2)),
    "mit_b1": Variant(64, (2, 2, 2, 2)),
    "mit_b2": Variant(64, (3, 4, 6, 3)),
    "mit_b3": Variant(64, (3, 4, 18, 3)),
    "mit_b4": Variant(64, (3, 8, 27, 3)),
    "mit_b5": Variant(64, (3, 6, 40, 3)),
}


class MixTransformer(nn.Module):
    """Pictures -> feature maps at the strides 4, 8, 16 and 32, finest first.

    Args:
        name: "mit_b0" to "mit_b5".
        pretrained: initial weights. False: random; otherwise the path of a .safetensors, .pth, .pt or .bin file with the encoder
            trained on ImageNet, as NVlabs, mmsegmentation or transformers name its tensors, with or without its classifier.
            There is no hub for true.
        in_channels: channels of the pictures; beyond three (or below) the pretrained kernels repeat, as in timm.
        drop_path: rate of stochastic depth in the last block; it grows linearly from 0 in the first.
        eps: of all layer norms; None for those of the official code.

    Attributes:
        channels, strides: one number a map.
        mean, std: (1, in_channels, 1, 1) buffers in 0..255.

    Raises:
        ValueError: no such size, or weights that are not there or do not fit.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        name: str = "mit_b0",
        *,
        pretrained: bool | str = True,
        in_channels: int = 3,
        drop_path: float = 0.0,
        eps: float | None = None,
    ) -> None:
        super().__init__()
        if name not in VARIANTS:
            raise ValueError(f"There is no Mix Transformer {name!r}; there are {', '.join(VARIANTS)}.")
        weights = _initial_weights(name, pretrained)
        variant = VARIANTS[name]
        self.channels = [variant.width * factor for factor in WIDTHS]
        self.strides = [4, 8, 16, 32]
        rates = iter(torch.linspace(0, drop_path, sum(variant.depths), device="cpu").tolist())
        inputs = [in_channels, *self.channels[:-1]]
        both_eps = (1e-6, 1e-5) if eps is None else (eps, eps)
        self.stages = nn.ModuleList(
            Stage(
                inputs[level],
                self.channels[level],
                level,
                [next(rates) for _ in range(variant.depths[level])],
                both_eps,
            )
            for level in range(4)
        )
        self.register_buffer("mean", per_channel(IMAGENET_MEAN, in_channels))
        self.register_buffer("std", per_channel(IMAGENET_STD, in_channels))
        self.apply(_initialize)
        if weights is not None:
            _load(self, weights, str(pretrained))

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, in_channels, H, W) in 0..255, uint8 or float -> maps (B, channels[i], H / strides[i], W / strides[i]).

        Sizes are rounded up. Pictures must have 29 pixels or more on each side: the first reduction takes 8 cells of 4.
        """
        x = (images.to(self.mean.dtype) - self.mean) / self.std
        x = x.contiguous(memory_format=torch.channels_last)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps

    def sharding_units(self) -> list[nn.Module]:
        """The blocks; see `tasks.sharding`."""
        return [block for stage in self.stages for block in stage.get_submodule("blocks").children()]

    def group_matcher(self, coarse: bool = False) -> dict[str, object]:
        """Which parameter belongs to which layer, in the terms of timm's models; what does not decay shows by its shape."""
        within = r"^stages\.(\d+)" if coarse else r"^stages\.(\d+)\.blocks\.(\d+)"
        embeddings = [(r"^stages\.(\d+)\.embed", (0,)), (r"^stages\.(\d+)\.norm", (99999,))]
        return {"stem": r"^stages\.0\.embed", "blocks": within if coarse else [(within, None), *embeddings]}


class Stage(nn.Module):
    """Overlapping patches and their blocks.

    Args:
        level: 0 for the finest stage.
        drop_paths: rates of stochastic depth, one a block.
        eps: of the norms of blocks and behind them, and of those of patch embeddings and reductions.
    """

    def __init__(
        self, in_channels: int, channels: int, level: int, drop_paths: list[float], eps: tuple[float, float]
    ) -> None:
        super().__init__()
        self.embed = PatchEmbedding(in_channels, channels, *((7, 4) if level == 0 else (3, 2)), eps=eps[1])
        self.blocks = nn.ModuleList(
            Block(channels, WIDTHS[level], REDUCTIONS[level], drop_path=rate, eps=eps) for rate in drop_paths
        )
        self.norm = nn.LayerNorm(channels, eps=eps[0])

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, h, w) -> (B, channels, h / stride, w / stride), both with channels last."""
        x = self.embed(x)
        for block in self.blocks:
            x = block(x)
        return _channels_second(self.norm(x))


class PatchEmbedding(nn.Module):
    """A strided convolution whose patches overlap, and a norm."""

    def __init__(self, in_channels: int, channels: int, kernel_size: int, stride: int, *, eps: float) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, channels, kernel_size, stride, kernel_size // 2)
        self.norm = nn.LayerNorm(channels, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, h, w) -> (B, h / stride, w / stride, channels)."""
        return self.norm(_channels_last(self.conv(x)))


class Block(nn.Module):
    """Attention, then the MLP with its convolution, each behind a norm and beside a residual connection."""

    def __init__(
        self, channels: int, num_heads: int, reduction: int, *, drop_path: float, eps: tuple[float, float]
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels, eps=eps[0])
        self.attention = ReducedAttention(channels, num_heads, reduction, eps=eps[1])
        self.norm2 = nn.LayerNorm(channels, eps=eps[0])
        self.mlp = MixMLP(channels, 4 * channels)
        self.drop_path = StochasticDepth(drop_path, "row")

    def forward(self, x: Tensor) -> Tensor:
        """(B, h, w, channels) -> the same."""
        x = x + self.drop_path(self.attention(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class ReducedAttention(nn.Module):
    """Every cell attends to a map that is `reduction` times smaller along each side."""

    def __init__(self, channels: int, num_heads: int, reduction: int, *, eps: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Linear(channels, channels)
        self.key_value = nn.Linear(channels, 2 * channels)
        self.project = nn.Linear(channels, channels)
        self.reduce: nn.Conv2d | None = None
        if reduction > 1:
            self.reduce = nn.Conv2d(channels, channels, reduction, reduction)
            self.norm = nn.LayerNorm(channels, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        """(B, h, w, channels) -> the same."""
        context = x if self.reduce is None else self.norm(_channels_last(self.reduce(_channels_second(x))))
        query, key, value = (
            part.flatten(1, 2).unflatten(2, (self.num_heads, -1)).transpose(1, 2)  # (B, heads, cells, D / heads)
            for part in (self.query(x), *self.key_value(context).chunk(2, dim=3))
        )
        attended = F.scaled_dot_product_attention(query, key, value)
        return self.project(attended.transpose(1, 2).flatten(2).view_as(x))


class MixMLP(nn.Module):
    """Two linear layers with a depthwise convolution between them, which stands for position embeddings."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.expand = nn.Linear(channels, hidden)
        self.depthwise = DepthwiseConv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.shrink = nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, h, w, channels) -> the same."""
        x = _channels_last(self.depthwise(_channels_second(self.expand(x))))
        return self.shrink(F.gelu(x))


def _channels_last(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1)


def _channels_second(x: Tensor) -> Tensor:
    return x.permute(0, 3, 1, 2)


def _initialize(module: nn.Module) -> None:
    """As the official code; norms are as torch makes them."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Conv2d):
        fan_out = module.weight[0, 0].numel() * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
        nn.init.zeros_(module.get_parameter("bias"))


# --- names of the tensors elsewhere, for the rename tables of networks that have the encoder as `backbone` ---

Patterns = tuple[tuple[str, str], ...]


def _patterns(places: Mapping[str, str], inside_blocks: Mapping[str, str], *, first: int) -> Patterns:
    """Args:
    places: of the patch embedding, the blocks and the last norm of a stage, "{}" for its number.
    inside_blocks: members of a block.
    first: number of the first stage.
    """
    members = tuple(
        (rf"^(backbone\.stages\.\d\.blocks\.\d+\.){ours}\.", rf"\g<1>{theirs}.")
        for ours, theirs in inside_blocks.items()
    )
    outside = tuple(
        (rf"^backbone\.stages\.{level}\.{ours}\.", f"{theirs.format(level + first)}.")
        for level in range(4)
        for ours, theirs in places.items()
    )
    return ((r"^backbone\.(mean|std)$", ""), *members, *outside)


NVLABS = _patterns(
    {
        "embed.conv": "backbone.patch_embed{}.proj",
        "embed.norm": "backbone.patch_embed{}.norm",
        "blocks": "backbone.block{}",
        "norm": "backbone.norm{}",
    },
    {
        "attention.query": "attn.q",
        "attention.key_value": "attn.kv",
        "attention.project": "attn.proj",
        "attention.reduce": "attn.sr",
        "attention.norm": "attn.norm",
        "mlp.expand": "mlp.fc1",
        "mlp.depthwise": "mlp.dwconv.dwconv",
        "mlp.shrink": "mlp.fc2",
    },
    first=1,
)
SMP: Patterns = (*NVLABS, (r"^backbone\.", "encoder."))
MMSEG = _patterns(
    {
        "embed.conv": "backbone.layers.{}.0.projection",
        "embed.norm": "backbone.layers.{}.0.norm",
        "blocks": "backbone.layers.{}.1",
        "norm": "backbone.layers.{}.2",
    },
    {
        "attention.query": "attn.query",
        "attention.key_value": "attn.key_value",
        "attention.project": "attn.attn.out_proj",
        "attention.reduce": "attn.sr",
        "attention.norm": "attn.norm",
        "mlp.expand": "ffn.layers.0",
        "mlp.depthwise": "ffn.layers.1",
        "mlp.shrink": "ffn.layers.4",
    },
    first=0,
)
TRANSFORMERS = _patterns(
    {
        "embed.conv": "segformer.encoder.patch_embeddings.{}.proj",
        "embed.norm": "segformer.encoder.patch_embeddings.{}.layer_norm",
        "blocks": "segformer.encoder.block.{}",
        "norm": "segformer.encoder.layer_norm.{}",
    },
    {
        "norm1": "layer_norm_1",
        "norm2": "layer_norm_2",
        "attention.query": "attention.self.query",
        "attention.key_value": "attention.self.key_value",
        "attention.project": "attention.output.dense",
        "attention.reduce": "attention.self.sr",
        "attention.norm": "attention.self.layer_norm",
        "mlp.expand": "mlp.dense1",
        "mlp.depthwise": "mlp.dwconv.dwconv",
        "mlp.shrink": "mlp.dense2",
    },
    first=0,
)


def convert_mmseg(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Query apart from key and value, and the 1x1 convolutions of the MLP as linear layers."""
    converted: dict[str, Tensor] = {}
    for name, value in weights.items():
        if ".attn.attn.in_proj_" in name:
            query, key_value = (name.replace(".attn.in_proj_", part) for part in (".query.", ".key_value."))
            converted[query], converted[key_value] = value.tensor_split([len(value) // 3])
        elif name.endswith((".ffn.layers.0.weight", ".ffn.layers.4.weight")):
            converted[name] = value.flatten(1)
        else:
            converted[name] = value
    return converted


def convert_transformers(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Key and value joined."""
    return join(weights, [".attention.self.key.", ".attention.self.value."], ".attention.self.key_value.")


# --- initial weights ---


@dataclass(frozen=True)
class _Format:
    """How a file with the encoder alone is written.

    Attributes:
        sign: how the name of one of its tensors begins.
        prefix: what its names lack to be those of the rename table.
        classifier: how the names of its ImageNet classifier begin.
    """

    sign: str
    prefix: str
    classifier: str
    table: RenameTable
    convert: Callable[[Mapping[str, Tensor]], dict[str, Tensor]]


_FORMATS = {
    "NVlabs": _Format("patch_embed1.", "backbone.", "head.", NVLABS, dict),
    "mmsegmentation": _Format("layers.0.0.", "backbone.", "head.", MMSEG, convert_mmseg),
    "transformers": _Format("segformer.encoder.", "", "classifier.", TRANSFORMERS, convert_transformers),
}


def _initial_weights(name: str, pretrained: bool | str) -> dict[str, Tensor] | None:
    if pretrained is False:
        return None
    if isinstance(pretrained, str) and pretrained != "pypi":
        return read_weights(pretrained)
    file = f"{name}.pth of NVlabs/SegFormer, its conversion by mmsegmentation or the file of nvidia/{name.replace('_', '-')}"
    raise ValueError(
        f"No hub that is asked from here carries ImageNet weights of {name!r}; set `pretrained` to the path of a weights "
        f"file ({file}) or to false (random weights)."
    )


def _load(encoder: MixTransformer, weights: Mapping[str, Tensor], path: str) -> None:
    """Raises a ValueError that names the file, if it is of no known format or of another size."""
    found = [form for form in _FORMATS.values() if any(name.startswith(form.sign) for name in weights)]
    if not found:
        formats = ", ".join(_FORMATS)
        raise ValueError(f"{path}: no weights of a Mix Transformer as {formats} write them; it has: {listed(weights)}.")
    (form,) = found
    if unused := [name for name in weights if name.startswith(form.classifier)]:
        logger.warning("%s: the classifier (%s) is not used by a backbone.", path, listed(unused))
    kept = {form.prefix + name: value for name, value in weights.items() if name not in unused}
    converted = form.convert(kept)
    names = source_names([f"backbone.{name}" for name in encoder.state_dict()], form.table)
    require_same_names(names.values(), converted, subject=f"{path}: the weights")
    state = {ours.removeprefix("backbone."): converted[theirs] for ours, theirs in names.items()}
    stem = "stages.0.embed.conv.weight"
    state[stem] = _for_channels(state[stem], encoder.mean.shape[1])
    load_strictly(encoder, encoder.state_dict() | state, path)


def _for_channels(kernels: Tensor, in_channels: int) -> Tensor:
    """(D, 3, k, k) -> (D, in_channels, k, k) with answers of the same scale: one channel gets the sum of all three."""
    if in_channels == 1:
        return kernels.sum(dim=1, keepdim=True)
    repeated = kernels[:, [channel % 3 for channel in range(in_channels)]]
    return repeated * (3 / in_channels)
