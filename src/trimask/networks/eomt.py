"""EoMT: a plain vision transformer whose last blocks also hold queries, each of which becomes a mask and a class.

Source: Kerssies et al., "Your ViT is Secretly an Image Segmentation Model", CVPR 2025, arXiv:2503.19108; official code
tue-mps/eomt (MIT), read and written anew. Equal to transformers' `EomtForUniversalSegmentation` (DINOv2 with registers) and
`EomtDinov3ForUniversalSegmentation` (`make parity`), in training with all masks of the attention.

In training, before each of the last blocks, the queries predict masks and then look at their inside alone. The share of queries
that do falls from 1 to 0, block after block (`set_progress`), so that evaluation needs neither masks nor their predictions.
Published, in steps of the run: the first block begins after a sixth, the last one after four sixths, each takes a sixth, and the
share falls as (1 - t)^0.9: COCO [14782, 29564, 44346, 59128] of 88,716 steps; Cityscapes, three blocks, [3317, 8292, 13268] of
19,902.

Published sizes: 3 blocks with queries for ViT-S and B, 4 for L, 5 for g; 200 queries for instances and panoptic segments, 100
for classes; patches of 14 pixels resampled to 16.

**Deviations**
- Evaluation is always without masks, also before their share is 0; the official code then masks in evaluation as in training.
- Pictures of any size, padded to whole patches at the bottom and right, with positions resampled as timm does it; the official
  network takes squares of one size. For its checkpoints give that size as `image_size`.
- Rotary positions are not rescaled at random in training, as transformers' DINOv3, which the official code trains, does it.
- Maps are doubled by a matrix product in place of the transposed convolution that it is: same result.
- Queries and all other tokens attend in two calls, the latter without a mask: same result.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import log2
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from trimask.layers.plain_vit import PlainViT, as_map, as_tokens, let_in_front
from trimask.outputs import QueryOutput
from trimask.types import Size
from trimask.weights import RenameTable, join

MASK_POWER = 0.9  # of the share of masked queries; `poly_power` of the official configurations


class Upscale(nn.Module):
    """(B, D, h, w) -> (B, D, 2h, 2w)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.ConvTranspose2d(width, width, 2, stride=2)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False)
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        x = self._doubled(x)
        if (
            self.training
        ):  # what GELU gives is made again for the gradient: a tenth less memory in all, at no time to speak of
            x = checkpoint(self._mixed, x, use_reentrant=False, preserve_rng_state=False)
        else:
            x = self._mixed(x)
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    def _mixed(self, x: Tensor) -> Tensor:
        return self.conv2(F.gelu(x))

    def _doubled(self, x: Tensor) -> Tensor:
        """`conv1` as one product for each cell, whose windows do not overlap: half the time on a CPU, backward included."""
        weight = self.conv1.weight.permute(2, 3, 1, 0).flatten(0, 2)  # (2 * 2 * D, D)
        cells = F.linear(x.permute(0, 2, 3, 1), weight, self.conv1.get_parameter("bias").repeat(4))
        cells = cells.unflatten(3, (2, 2, -1)).transpose(2, 3)  # (B, h, 2, w, 2, D)
        return cells.flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)


class _Products(torch.autograd.Function):
    """(B, Q, D) and (B, P, D) of one type -> (B, Q, P). The gradient of the second lies in memory as it does itself: torch's own
    lies the other way round, so that the layer norm behind it would begin with a copy."""

    @staticmethod
    def forward(ctx: Any, queries: Tensor, cells: Tensor) -> Tensor:
        ctx.save_for_backward(queries, cells)
        return queries @ cells.transpose(1, 2)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        queries, cells = ctx.saved_tensors
        return gradient @ cells, gradient.transpose(1, 2) @ queries


# --- other libraries' weights ---

_UNUSED = (
    "network.attn_mask_probs",
    "network.encoder.pixel_mean",
    "network.encoder.pixel_std",
    "criterion.empty_weight",
)
_PROJECTIONS = (".q_proj.", ".k_proj.", ".v_proj.")


def _convert_eomt(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without what is a setting here."""
    return {name: value for name, value in weights.items() if name not in _UNUSED}


def _convert_transformers(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Projections joined, and positions with a batch axis. The giant's gated perceptron has older and newer names."""
    kept: dict[str, Tensor] = {}
    for name, value in weights.items():
        if name in ("attn_mask_probs", "criterion.empty_weight") or not value.numel():  # e.g. of no registers
            continue
        for theirs, ours in (("weights_in", "fc1"), ("weights_out", "fc2"), ("down_proj", "fc2")):
            name = name.replace(f".mlp.{theirs}.", f".mlp.{ours}.")
        kept[name] = value[None] if name == "embeddings.position_embeddings.weight" else value
    return join(join(kept, _PROJECTIONS, ".qkv."), (".mlp.gate_proj.", ".mlp.up_proj."), ".mlp.fc1.")


def _convert_dinov3(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Of transformers and of the official DINOv3 checkpoints: projections joined, whose keys have no bias."""
    unused = {*_UNUSED, "attn_mask_probs", "embeddings.mask_token"}
    kept = {name: value for name, value in weights.items() if name not in unused}
    biases = {name: value for name, value in kept.items() if name.endswith(("q_proj.bias", "v_proj.bias"))}
    joined = join({name: value for name, value in kept.items() if name not in biases}, _PROJECTIONS, ".qkv.")
    return joined | {name.replace("_proj.bias", "_bias"): value for name, value in biases.items()}


_HEADS = (
    (r"^queries\.", "network.q."),
    (r"^classify\.", "network.class_head."),
    (r"^(mask_head|upscale)\.", r"network.\1."),
)
_HEADS_TRANSFORMERS = (
    (r"^backbone\.(mean|std)$", ""),
    (r"^queries\.", "query."),
    (r"^classify\.", "class_predictor."),
    (r"^mask_head\.0\.", "mask_head.fc1."),
    (r"^mask_head\.2\.", "mask_head.fc2."),
    (r"^mask_head\.4\.", "mask_head.fc3."),
    (r"^upscale\.(\d+)\.norm\.", r"upscale_block.block.\1.layernorm2d."),
    (r"^upscale\.", "upscale_block.block."),
    (r"^backbone\.body\.norm\.", "layernorm."),
)
_DINOV3 = (
    (r"\.attn\.proj\.", ".attention.o_proj."),
    (r"\.attn\.", ".attention."),
    (r"\.gamma_(\d)$", r".layer_scale\1.lambda1"),
    (r"\.mlp\.fc1\.", ".mlp.up_proj."),
    (r"\.mlp\.fc2\.", ".mlp.down_proj."),
)


class EoMT(nn.Module):
    """A mask and a class for each query; see above.

    Args:
        num_classes: of objects; there is one logit more, for none.
        backbone: timm name of a plain vision transformer, with learned or rotary positions (DINOv2, DINOv3, ...).
        pretrained: see `Backbone`.
        in_channels: channels of the pictures.
        patch_size: see `PlainViT`.
        image_size: see `PlainViT`; square that the positions are kept for.
        num_queries: Q.
        num_blocks: how many of the last blocks hold the queries.
        annealing: let go of the masks in the course of training; without, all queries keep them to the end.
        drop_path: rate of stochastic depth; officially none.

    Raises:
        ValueError: see `PlainViT`; or no query, or not that many blocks.
    """

    output = QueryOutput
    tiny: ClassVar[dict[str, Any]] = {"backbone": "test_vit", "patch_size": 8, "num_queries": 8, "num_blocks": 2}
    RENAMES: ClassVar[dict[str, RenameTable]] = {
        "eomt": ((r"^backbone\.(mean|std)$", ""), (r"^backbone\.body\.", "network.encoder.backbone."), *_HEADS),
        "eomt_dinov3": (
            (r"^backbone\.(mean|std)$", ""),
            (r"^backbone\.body\.", "network.encoder.backbone."),
            *_HEADS,
            (r"\.backbone\.cls_token$", ".backbone.patch_embed.cls_token"),
            (r"\.backbone\.reg_token$", ".backbone.patch_embed.register_tokens"),
            (r"\.patch_embed\.proj\.", ".patch_embed.patch_embeddings."),
            *_DINOV3,
        ),
        "transformers": (
            *_HEADS_TRANSFORMERS,
            (r"^backbone\.body\.cls_token$", "embeddings.cls_token"),
            (r"^backbone\.body\.reg_token$", "embeddings.register_tokens"),
            (r"^backbone\.body\.pos_embed$", "embeddings.position_embeddings.weight"),
            (r"^backbone\.body\.patch_embed\.proj\.", "embeddings.patch_embeddings.projection."),
            (r"^backbone\.body\.blocks\.", "layers."),
            (r"\.attn\.proj\.", ".attention.out_proj."),
            (r"\.attn\.", ".attention."),
            (r"\.ls(\d)\.gamma$", r".layer_scale\1.lambda1"),
        ),
        "transformers_dinov3": (
            *_HEADS_TRANSFORMERS,
            (r"^backbone\.body\.cls_token$", "embeddings.cls_token"),
            (r"^backbone\.body\.reg_token$", "embeddings.register_tokens"),
            (r"^backbone\.body\.patch_embed\.proj\.", "embeddings.patch_embeddings."),
            (r"^backbone\.body\.blocks\.", "layers."),
            *_DINOV3,
        ),
    }
    CONVERSIONS: ClassVar[dict[str, Any]] = {
        "eomt": _convert_eomt,
        "eomt_dinov3": _convert_dinov3,
        "transformers": _convert_transformers,
        "transformers_dinov3": _convert_dinov3,
    }
    BASES: ClassVar[dict[str, RenameTable]] = {
        # differences from the files of facebook/dinov3-*
        "eomt_dinov3": (
            (r"^(?!network\.encoder\.backbone\.).*", ""),
            (r"^network\.encoder\.backbone\.patch_embed\.", "embeddings."),
            (r"^network\.encoder\.backbone\.blocks\.", "layer."),
            (r"^network\.encoder\.backbone\.", ""),
        ),
    }

    mask_shares: Tensor

    def __init__(
        self,
        num_classes: int,
        *,
        backbone: str = "vit_small_patch14_reg4_dinov2",
        pretrained: bool | str = True,
        in_channels: int = 3,
        patch_size: int | None = 16,
        image_size: int | None = None,
        num_queries: int = 200,
        num_blocks: int = 3,
        annealing: bool = True,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.backbone = PlainViT(
            backbone,
            pretrained=pretrained,
            in_channels=in_channels,
            patch_size=patch_size,
            image_size=image_size,
            drop_path=drop_path,
        )
        width, depth = self.backbone.width, len(self.backbone.body.blocks)
        if num_queries < 1 or not 1 <= num_blocks <= depth:
            raise ValueError(
                f"EoMT needs at least one query, and 1 to {depth} of the blocks of {backbone!r} for them; got "
                f"num_queries={num_queries} and num_blocks={num_blocks}."
            )
        let_in_front(self.backbone, num_blocks, num_queries)
        self.queries = nn.Embedding(num_queries, width)
        self.classify = nn.Linear(width, num_classes + 1)
        self.mask_head = nn.Sequential(
            nn.Linear(width, width), nn.GELU(), nn.Linear(width, width), nn.GELU(), nn.Linear(width, width)
        )
        num_upscale = max(1, int(log2(self.backbone.patch_size)) - 2)  # to maps of about a quarter of the picture
        self.upscale = nn.Sequential(*[Upscale(width) for _ in range(num_upscale)])
        self.num_queries, self.num_blocks, self.annealing = num_queries, num_blocks, annealing
        self.num_in_front = num_queries + self.backbone.body.num_prefix_tokens
        self.register_buffer("mask_shares", torch.ones(num_blocks), persistent=False)
        self._masked = [True] * num_blocks  # known without asking the device

    def set_progress(self, fraction: float) -> None:
        """How much of the run is done, 0..1: sets the share of queries that are masked in each block."""
        if self.annealing:
            shares = mask_shares(fraction, self.num_blocks)
            self.mask_shares.copy_(torch.tensor(shares))
            self._masked = [share > 0 for share in shares]

    def forward(self, images: Tensor) -> QueryOutput:
        """(B, in_channels, H, W) in 0..255 -> masks of about a quarter of the picture's size, and classes."""
        x, besides, size = self.backbone.embed(images)
        blocks = self.backbone.body.blocks
        first = len(blocks) - self.num_blocks
        aux: list[QueryOutput] = []
        for index, (block, positions) in enumerate(zip(blocks, besides, strict=True)):
            mask = None
            if index == first:
                x = torch.cat([self.queries.weight.expand(x.shape[0], -1, -1), x], dim=1)
            if index >= first and self.training:
                aux.append(self._predict(x, size))
                if self._masked[index - first]:
                    mask = self._attention_mask(aux[-1].masks, self.mask_shares[index - first], size)
            x = block(x, attn_mask=mask, **positions)
        answer = self._predict(x, size)
        return QueryOutput(answer.masks, answer.classes, tuple(aux))

    def _predict(self, x: Tensor, size: Size) -> QueryOutput:
        """(B, Q + P + h * w, D) tokens -> what the queries say."""
        x = self.backbone.body.norm(x)
        queries, patches = x[:, : self.num_queries], x[:, self.num_in_front :]
        features = self.upscale(as_map(patches, size))
        looks = self.mask_head(queries)
        masks = _Products.apply(looks, as_tokens(features).to(looks.dtype)).unflatten(2, features.shape[-2:])
        return QueryOutput(masks, self.classify(queries))

    @torch.no_grad()
    def _attention_mask(self, masks: Tensor, share: Tensor, size: Size) -> Tensor:
        """(B, Q, h', w') logits -> (B, 1, Q, Q + P + h * w): True where a query may look; patches outside its mask are not.

        Only this share of the queries, drawn at random, is held to its mask.
        """
        inside = F.interpolate(masks, size, mode="bilinear", align_corners=False).flatten(2) > 0
        free = torch.rand(*inside.shape[:2], 1, device=inside.device) >= share
        return F.pad(inside | free, (self.num_in_front, 0), value=True)[:, None]


def mask_shares(fraction: float, num_blocks: int) -> list[float]:
    """The share of masked queries in each block when so much of the run is done."""
    starts = [1 / 6 + 3 / 6 * block / max(1, num_blocks - 1) for block in range(num_blocks)]
    done = [min(max(6 * (fraction - start), 0.0), 1.0) for start in starts]
    return [(1 - share) ** MASK_POWER for share in done]
