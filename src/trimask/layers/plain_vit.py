"""Plain vision transformers as backbones: one stride, maps from chosen blocks, pictures of any size.

Sources: Dosovitskiy et al., "An Image is Worth 16x16 Words", ICLR 2021, arXiv:2010.11929, as timm (Apache-2.0) has it:
`VisionTransformer` (ViT, DeiT, DINO, DINOv2, SigLIP, ...) and `Eva` (EVA-02, DINOv3 with rotary positions).

How learned positions follow the size of a picture is part of what is published with a network, and differs:

| `position_resize` | interpolation | of |
|---|---|---|
| "timm" | bicubic, antialiased | timm, DINOv2 with registers |
| "bicubic" | bicubic | mmsegmentation's Segmenter and DPT |
| "bilinear" | bilinear | SETR, the authors' Segmenter, transformers' DPT |
| "dinov2" | bicubic, a tenth of a cell wider than the grid | DINOv2 (`interpolate_offset=0.1`), but for its own size |

**Deviations**
- From timm: pictures come in as 0..255 and are normalized here, with the mean and std of the named weights.
- From timm, which refuses them: pictures that are no multiple of the patch are padded with the mean color at the bottom and
  right, as in mmsegmentation and Segmenter; DINOv2 pads on all four sides. The maps are those of the padded picture. Logits made
  of them and brought to the picture's size are therefore stretched by less than a patch, as in mmsegmentation; sizes that are
  multiples of the patch avoid that.
- From timm: positions are interpolated in their own precision, whatever it is.
- Where timm's model has its last norm behind the pooling (`fc_norm`), it is applied to every token.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal, get_args

import timm
import torch
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import Attention, apply_rot_embed_cat
from timm.models.eva import Eva, EvaAttention
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from trimask.layers.backbone import mean_and_std, whole_model
from trimask.types import Size

PositionResize = Literal["timm", "bicubic", "bilinear", "dinov2"]
Normalization = Literal["model", "imagenet"]


class PlainViT(nn.Module):
    """Pictures -> maps (or tokens) behind chosen blocks, first block first, all of one stride.

    Args:
        name: timm name of a plain transformer ("vit_base_patch16_384", "vit_small_patch14_dinov2", "vit_base_patch16_dinov3").
        pretrained: see `Backbone`.
        in_channels: channels of the pictures; timm adapts the pretrained patch embedding.
        out_indices: blocks whose output is given, from 0; negative ones count from the end. Those behind the last are dropped.
        norm: apply the model's last norm to everything that is given; without, it is dropped.
        patch_size: side of a patch in pixels; None for the model's own. timm resamples pretrained kernels and positions.
        class_token: without, the blocks see no class token, as in SETR-MLA.
        image_size: keep positions for square pictures of this size instead of the model's own: a multiple of the patch.
        position_resize: see above.
        norm_eps: of all layer norms; None for the model's own.
        drop_path: rate of stochastic depth in the last block; it grows linearly from 0 in the first.
        normalization: "model" for the mean and std of the named weights, "imagenet" for ImageNet's, as some networks are
            published with other ones than their initial weights were trained with.
        frozen: no gradients, and evaluation mode whatever the network's.

    Attributes:
        width: D, channels of every map.
        channels, strides: one number a map.
        patch_size: side of a patch in pixels.
        mean, std: (1, in_channels, 1, 1) buffers in 0..255; they travel with the weights.

    Raises:
        ValueError: see `Backbone`; or not a plain transformer, no such block, or options that it does not have.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        name: str,
        *,
        pretrained: bool | str = True,
        in_channels: int = 3,
        out_indices: Sequence[int] = (-1,),
        norm: bool = True,
        patch_size: int | None = None,
        class_token: bool = True,
        image_size: int | None = None,
        position_resize: PositionResize = "timm",
        norm_eps: float | None = None,
        drop_path: float = 0.0,
        normalization: Normalization = "model",
        frozen: bool = False,
    ) -> None:
        super().__init__()
        options = {} if patch_size is None else {"patch_size": patch_size}
        body: Any = _body(name, pretrained, in_chans=in_channels, drop_path_rate=drop_path, **options)
        self._blocks = _prune(body, name, out_indices, norm)
        _set_positions(body, name, position_resize)
        if not class_token:
            _drop_prefix(body, name)
        if image_size is not None:
            _keep_positions_for(body, name, image_size)
        for module in body.modules():
            if norm_eps is not None and isinstance(module, nn.LayerNorm):
                module.eps = norm_eps
        self.body = body
        self.width: int = body.embed_dim
        self.patch_size: int = body.patch_embed.patch_size[0]
        self.channels = [self.width] * len(self._blocks)
        self.strides = [self.patch_size] * len(self._blocks)
        self._norm = norm
        self._frozen = frozen
        if normalization == "imagenet":
            body.pretrained_cfg |= {"mean": IMAGENET_DEFAULT_MEAN, "std": IMAGENET_DEFAULT_STD}
        elif normalization != "model":
            raise ValueError(f"normalization is 'model' or 'imagenet'; got {normalization!r}.")
        mean, std = mean_and_std(body, in_channels)
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)
        if frozen:
            body.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> PlainViT:
        super().train(mode)
        if self._frozen:
            self.body.eval()
        return self

    def sharding_units(self) -> list[nn.Module]:
        """The blocks; see `tasks.sharding`."""
        return list(self.body.blocks)

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, in_channels, H, W) in 0..255, uint8 or float -> maps (B, D, H / patch, W / patch), rounded up."""
        tokens, _, size = self.tokens(images)
        return [as_map(x, size) for x in tokens]

    def tokens(self, images: Tensor) -> tuple[list[Tensor], list[Tensor], Size]:
        """Pictures as above -> behind each chosen block, patches (B, h * w, D) and prefix tokens (B, P, D); and (h, w).

        Prefix tokens are the class token, where there is one, and then the registers; P = 0 where there is neither.
        """
        images, size = self._prepared(images)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self._frozen):
            pairs = self._pairs(images)
        return [pair[0] for pair in pairs], [pair[1] for pair in pairs], size

    def embed(self, images: Tensor) -> tuple[Tensor, list[dict[str, Tensor]], Size]:
        """Pictures as above -> what goes into the first block, (B, P + h * w, D), prefix tokens first; what each block is to be
        called with besides tokens (rotary positions, where there are any); and (h, w)."""
        images, size = self._prepared(images)
        embedded = self.body._pos_embed(self.body.patch_embed(images))
        x, rotary = embedded if isinstance(embedded, tuple) else (embedded, None)
        if rotary is None:
            besides: list[dict[str, Tensor]] = [{} for _ in self.body.blocks]
        else:  # one for each block where they are learned
            each = rotary if getattr(self.body, "rope_mixed", False) else [rotary] * len(self.body.blocks)
            besides = [{"rope": positions} for positions in each]
        return self.body.norm_pre(x), besides, size

    def _prepared(self, images: Tensor) -> tuple[Tensor, Size]:
        """Normalized and padded to whole patches; and (h, w) of these."""
        images = (images.to(self.mean.dtype) - self.mean) / self.std
        height, width = images.shape[-2:]
        images = F.pad(images, (0, -width % self.patch_size, 0, -height % self.patch_size))
        return images, (images.shape[-2] // self.patch_size, images.shape[-1] // self.patch_size)

    def _pairs(self, images: Tensor) -> list[tuple[Tensor, Tensor]]:
        """(patches' tokens, prefix tokens) behind each chosen block."""
        has_prefix = self.body.num_prefix_tokens > 0
        found = self.body.forward_intermediates(
            images,
            indices=self._blocks,
            return_prefix_tokens=has_prefix,
            norm=self._norm,
            output_fmt="NLC",
            intermediates_only=True,
        )
        return found if has_prefix else [(x, x[:, :0]) for x in found]


# --- tokens that look at parts of the picture ---


def let_in_front(backbone: PlainViT, num_blocks: int, num_tokens: int) -> None:
    """Prepares the last blocks for so many more tokens, in front of all others: these may be given a mask.

    Afterwards `block(tokens, attn_mask=mask)` takes a mask (B, 1, num_tokens, N) of what each of them may look at. All other
    tokens look at everything, by a call of their own without a mask, for which there are faster kernels.

    Raises:
        ValueError: the attention of this backbone is of another kind.
    """
    for block in backbone.body.blocks[-num_blocks:]:
        attention = getattr(block, "attn", None)
        kind = _WITH_TOKENS_IN_FRONT.get(type(attention))
        if attention is None or kind is None:
            raise ValueError(f"timm's {type(attention or block).__name__} cannot be given tokens in front of its own.")
        block.attn.__class__ = kind
        if isinstance(block.attn, EvaAttention):
            block.attn.num_prefix_tokens += num_tokens  # they have no rotary position


class _Attention(Attention):
    """timm's, with a mask for the first tokens alone."""

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        query, key, value = self.qkv(x).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        return _finished(self, _attend(self, self.q_norm(query), self.k_norm(key), value, attn_mask), x)


class _EvaAttention(EvaAttention):
    """timm's, with a mask for the first tokens alone."""

    def forward(
        self, x: Tensor, rope: Tensor | None = None, attn_mask: Tensor | None = None, is_causal: bool = False
    ) -> Tensor:
        query, key, value = (part.unflatten(2, (self.num_heads, -1)).transpose(1, 2) for part in self._projected(x))
        query, key = self.q_norm(query), self.k_norm(key)
        if rope is not None:
            query, key = (self._turned(part, rope).type_as(value) for part in (query, key))
        return _finished(self, _attend(self, query, key, value, attn_mask), x)

    def _projected(self, x: Tensor) -> Sequence[Tensor]:
        """(B, N, D) -> queries, keys and values."""
        if self.qkv is None:
            return [projection(x) for projection in (self.q_proj, self.k_proj, self.v_proj)]
        biases: Any = (self.q_bias, self.k_bias, self.v_bias)
        bias = None if self.q_bias is None else torch.cat(biases)
        return F.linear(x, self.qkv.weight, bias).chunk(3, dim=2)

    def _turned(self, x: Tensor, rope: Tensor) -> Tensor:
        """(B, heads, N, width) with the rotary positions of the patches."""
        prefix, patches = x.tensor_split([self.num_prefix_tokens], dim=2)
        return torch.cat([prefix, apply_rot_embed_cat(patches, rope, half=self.rotate_half)], dim=2)


_WITH_TOKENS_IN_FRONT: dict[type, type] = {Attention: _Attention, EvaAttention: _EvaAttention}


def _attend(module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """(B, heads, N, width) each, mask (B, 1, Q, N) of the first Q -> (B, N, D)."""
    attend = partial(F.scaled_dot_product_attention, dropout_p=module.attn_drop.p if module.training else 0.0)
    if mask is None:
        found = attend(query, key, value)
    else:
        first, others = query.tensor_split([mask.shape[2]], dim=2)
        found = torch.cat([attend(first, key, value, attn_mask=mask), attend(others, key, value)], dim=2)
    return found.transpose(1, 2).flatten(2)


def _finished(module: Any, found: Tensor, x: Tensor) -> Tensor:
    """(B, N, D): what timm does behind the attention to `x`."""
    found = module.norm(found)
    if getattr(module, "gate", None) is not None:
        found = found * module.gate(x).sigmoid()
    return module.proj_drop(module.proj(found))


# --- shapes ---


def as_map(tokens: Tensor, size: Size) -> Tensor:
    """(B, h * w, D) -> (B, D, h, w), without a copy: the channels lie innermost."""
    return tokens.unflatten(1, size).permute(0, 3, 1, 2)


def as_tokens(feature_map: Tensor) -> Tensor:
    """The inverse of `as_map`: (B, D, h, w) -> (B, h * w, D)."""
    return feature_map.permute(0, 2, 3, 1).flatten(1, 2)


def transformer_block(width: int, num_heads: int, *, dropout: float = 0.0, drop_path: float = 0.0) -> nn.Module:
    """(B, N, D) -> (B, N, D): attention, then a perceptron four times as wide, each behind a norm (eps 1e-5)."""
    norm: Any = partial(nn.LayerNorm, eps=1e-5)
    return Block(
        width,
        num_heads,
        qkv_bias=True,
        proj_drop=dropout,
        attn_drop=dropout,
        drop_path=drop_path,
        norm_layer=norm,
    )


# --- building ---


def _body(name: str, pretrained: bool | str, **options: Any) -> nn.Module:
    """timm's model without its classifier."""
    if timm.is_model(name.partition(".")[0]):
        with torch.device("meta"):
            kind = type(timm.create_model(name))
        if not issubclass(kind, VisionTransformer | Eva):
            is_not = "not a plain vision transformer (VisionTransformer or Eva)"
            raise ValueError(f"{name!r} is timm's {kind.__name__}, {is_not}.")
    return whole_model(name, pretrained=pretrained, num_classes=0, dynamic_img_size=True, **options)


def _prune(body: Any, name: str, out_indices: Sequence[int], norm: bool) -> list[int]:
    """Drops what lies behind the last chosen block; returns the blocks counted from 0."""
    depth = len(body.blocks)
    if not out_indices or not all(-depth <= index < depth for index in out_indices):
        raise ValueError(
            f"{name!r} has the blocks 0 to {depth - 1}; out_indices={list(out_indices)} are not some of them."
        )
    chosen = [index % depth for index in out_indices]
    if chosen != sorted(set(chosen)):
        raise ValueError(f"out_indices={list(out_indices)} must grow: maps are given from the first block to the last.")
    if isinstance(body.norm, nn.Identity):
        body.norm = body.fc_norm
    body.prune_intermediate_layers(chosen, prune_norm=not norm)
    return chosen


def _drop_prefix(body: Any, name: str) -> None:
    if type(body) is not _Resizing or body.num_reg_tokens:
        raise ValueError(f"The class token of {name!r} cannot be left out.")
    if not body.no_embed_class:
        body.pos_embed = nn.Parameter(body.pos_embed[:, body.num_prefix_tokens :].detach().clone())
    body.cls_token, body.has_class_token, body.num_prefix_tokens = None, False, 0


# --- positions ---


class _Resizing(VisionTransformer):
    """timm's model with a choice of how its positions follow the size of a picture."""

    pos_embed: Any
    position_resize: Any

    def _pos_embed(self, x: Tensor) -> Tensor:
        """(B, h, w, D) patches -> (B, P + h * w, D) with prefix tokens and positions."""
        size = x.shape[1], x.shape[2]
        positions: Tensor = self.pos_embed
        num_prefix = 0 if self.no_embed_class else self.num_prefix_tokens
        grid = _resized(positions[:, num_prefix:], self.patch_embed.grid_size, size, self.position_resize)
        x = x.flatten(1, 2) + grid
        if self.num_prefix_tokens == 0:
            return x
        prefix = torch.cat([token for token in (self.cls_token, self.reg_token) if isinstance(token, Tensor)], dim=1)
        if num_prefix:
            prefix = prefix + positions[:, :num_prefix]
        return torch.cat([prefix.expand(x.shape[0], -1, -1), x], dim=1)


def _set_positions(body: Any, name: str, how: PositionResize) -> None:
    if how not in get_args(PositionResize):
        raise ValueError(f"position_resize is one of {', '.join(get_args(PositionResize))}; got {how!r}.")
    if body.pos_embed is None:
        return  # rotary positions: computed for every size
    if type(body) is VisionTransformer:
        body.__class__ = _Resizing  # as layers/swin.py does
        vars(body)["position_resize"] = how
    elif how != "timm":
        raise ValueError(f"The positions of {name!r} can be resized in timm's way alone; got {how!r}.")


def _keep_positions_for(body: Any, name: str, image_size: int) -> None:
    patch_size = body.patch_embed.patch_size[0]
    if type(body) is not _Resizing:
        raise ValueError(f"{name!r} has no positions that could be kept for another size; leave out image_size.")
    if image_size % patch_size:
        raise ValueError(f"image_size must be a multiple of the patch, {patch_size} pixels; got {image_size}.")
    num_prefix = 0 if body.no_embed_class else body.num_prefix_tokens
    positions = body.pos_embed.detach()
    size = image_size // patch_size, image_size // patch_size
    grid = _resized(positions[:, num_prefix:], body.patch_embed.grid_size, size, body.position_resize)
    body.pos_embed = nn.Parameter(torch.cat([positions[:, :num_prefix], grid], dim=1))
    body.patch_embed.set_input_size((image_size, image_size))


def _resized(positions: Tensor, old_size: Size, size: Size, how: PositionResize) -> Tensor:
    """(1, h * w, D) positions of a grid of the old size -> those of a grid of another. The same size leaves them as they are."""
    grid = positions.unflatten(1, old_size)  # (1, h, w, D)
    if how == "dinov2":
        rows, columns = _dinov2_matrices(old_size, size, grid)
        return torch.einsum("yh,xw,bhwd->byxd", rows, columns, grid).flatten(1, 2)
    grid = grid.permute(0, 3, 1, 2)
    mode = "bilinear" if how == "bilinear" else "bicubic"
    grid = F.interpolate(grid, size, mode=mode, align_corners=False, antialias=how == "timm")
    return grid.flatten(2).transpose(1, 2)


def _dinov2_matrices(old_size: Size, size: Size, like: Tensor) -> tuple[Tensor, Tensor]:
    """(H, h) and (W, w): rows and columns of the new grid from those of the old one.

    DINOv2 asks for a grid that is 0.1 cells larger and gets one of the size that it wants, a little out of place. Its weights
    are used to that. Written with tensors, so that an export holds for every size.
    """
    sides = [torch.full((), side, dtype=torch.float64, device=like.device) for side in size]
    is_another = torch.stack([side != old for side, old in zip(sides, old_size, strict=True)]).any()
    matrices = [
        _bicubic_matrix(new, old, (side + 0.1 * is_another.double()) / old, like)
        for new, old, side in zip(size, old_size, sides, strict=True)
    ]
    return matrices[0], matrices[1]


def _bicubic_matrix(num_new: int, num_old: int, scale: Tensor, like: Tensor) -> Tensor:
    """(num_new, num_old) weights of `F.interpolate(mode="bicubic", scale_factor=scale)`: Keys' kernel with a = -0.75."""
    position = (torch.arange(num_new, dtype=torch.float64, device=like.device) + 0.5) / scale - 0.5
    taps = position.floor()[:, None] + torch.arange(-1, 3, device=like.device)  # (num_new, 4)
    distance = (position[:, None] - taps).abs()
    near = (1.25 * distance - 2.25) * distance**2 + 1
    far = ((-0.75 * distance + 3.75) * distance - 6) * distance + 3
    weights = torch.where(distance <= 1, near, far)
    hit = taps.clamp(0, num_old - 1)[..., None] == torch.arange(num_old, device=like.device)
    return (weights[..., None] * hit).sum(dim=1).to(like.dtype)
