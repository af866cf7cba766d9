"""Segmenter: a plain vision transformer, and a decoder in which class tokens meet the patches.

Source: Strudel, Garcia, Laptev, Schmid, "Segmenter: Transformer for Semantic Segmentation", ICCV 2021, arXiv:2105.05633; official
code rstrudel/segmenter (MIT), segm/model. With the same weights the logits are mmsegmentation's (Apache-2.0,
`SegmenterMaskTransformerHead`) and, with `norm_eps=1e-5`, those of the official code (`make parity`).

| | official | mmsegmentation |
|---|---|---|
| `position_resize` | "bilinear" (default) | "bicubic" |
| `norm_eps` of the encoder | 1e-5, although its weights were trained with 1e-6 | 1e-6 |
| stochastic depth | 0.1 in the encoder | 0.1 in both, on the perceptrons alone |
| dropout in the decoder | 0.1 (default) | 0 |

Both train crops with positions that were resized to the crop once: `image_size=512` (Seg-L: 640). Released files need it.

**Deviations**
- The encoder's norms have the model's own eps (1e-6 in timm) by default.
- Stochastic depth acts on attention and perceptron of a block alike, as officially.
- Pictures that are no multiple of the patch are padded as officially (bottom, right), and the logits brought to the picture's
  size as in mmsegmentation; the official code upsamples them to the padded size and crops.
- The decoder's projections of patches and classes are initialized as officially (normal, 1 / sqrt(D)).
- The mask decoder normalizes over the classes. With `num_classes=1` there would be nothing left: the cosine itself is scaled and
  shifted. With two, as published, little more than the sign of their difference is left; prefer one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trimask.layers.backbone_names import MMSEG, OFFICIAL, convert_mmseg
from trimask.layers.plain_vit import PlainViT, PositionResize, as_map, transformer_block
from trimask.outputs import DenseOutput
from trimask.weights import RenameTable


def _convert_mmseg(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The 1x1 convolution of the linear decoder as the linear layer that it is."""
    converted = convert_mmseg(weights)
    classifier = "decode_head.conv_seg.weight"
    if classifier in converted:
        converted[classifier] = converted[classifier].flatten(1)
    return converted


def _convert_segmenter(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Matrices that are multiplied from the right, transposed; without the encoder's classifier of pictures."""
    kept = {name: value for name, value in weights.items() if not name.startswith("encoder.head.")}
    for name in kept.keys() & {"decoder.proj_patch", "decoder.proj_classes"}:
        kept[name] = kept[name].T.contiguous()
    return kept


class Segmenter(nn.Module):
    """One logit a class and patch.

    Args:
        num_classes: channels of the logits.
        backbone: timm name of a plain vision transformer.
        pretrained: see `Backbone`.
        in_channels: channels of the pictures.
        patch_size: see `PlainViT`.
        decoder: "mask", or "linear" for one linear layer.
        num_layers: blocks of the mask decoder.
        image_size, position_resize, norm_eps: of the encoder; see `PlainViT` and above.
        drop_path: rate of stochastic depth in the encoder's last block.
        decoder_drop_path: the same in the mask decoder.
        dropout: of the mask decoder.

    Raises:
        ValueError: see `PlainViT`; an unknown decoder, or num_layers < 1.
    """

    output = DenseOutput
    tiny: ClassVar[dict[str, Any]] = {"backbone": "test_vit", "patch_size": 8}
    RENAMES: ClassVar[dict[str, RenameTable]] = {
        "mmseg": (
            *MMSEG,
            (r"^decoder\.classify\.", "decode_head.conv_seg."),
            (r"^decoder\.class_tokens$", "decode_head.cls_emb"),
            (r"^decoder\.project\.", "decode_head.dec_proj."),
            (r"^decoder\.patch_projection\.", "decode_head.patch_proj."),
            (r"^decoder\.class_projection\.", "decode_head.classes_proj."),
            (r"^decoder\.blocks\.(\d+)\.norm(\d)\.", r"decode_head.layers.\1.ln\2."),
            (r"^decoder\.blocks\.(\d+)\.attn\.qkv\.", r"decode_head.layers.\1.attn.attn.in_proj_"),
            (r"^decoder\.blocks\.(\d+)\.attn\.proj\.", r"decode_head.layers.\1.attn.attn.out_proj."),
            (r"^decoder\.blocks\.(\d+)\.mlp\.fc1\.", r"decode_head.layers.\1.ffn.layers.0.0."),
            (r"^decoder\.blocks\.(\d+)\.mlp\.fc2\.", r"decode_head.layers.\1.ffn.layers.1."),
            (r"^decoder\.norm\.", "decode_head.decoder_norm."),
            (r"^decoder\.mask_norm\.", "decode_head.mask_norm."),
        ),
        "segmenter": (
            *OFFICIAL,
            (r"^backbone\.", "encoder."),
            (r"^decoder\.classify\.", "decoder.head."),
            (r"^decoder\.class_tokens$", "decoder.cls_emb"),
            (r"^decoder\.project\.", "decoder.proj_dec."),
            (r"^decoder\.patch_projection\.weight$", "decoder.proj_patch"),
            (r"^decoder\.class_projection\.weight$", "decoder.proj_classes"),
            (r"^decoder\.norm\.", "decoder.decoder_norm."),
        ),
    }
    CONVERSIONS: ClassVar[dict[str, Any]] = {"mmseg": _convert_mmseg, "segmenter": _convert_segmenter}

    def __init__(
        self,
        num_classes: int,
        *,
        backbone: str = "vit_base_patch16_384",
        pretrained: bool | str = True,
        in_channels: int = 3,
        patch_size: int | None = None,
        decoder: Literal["mask", "linear"] = "mask",
        num_layers: int = 2,
        image_size: int | None = None,
        position_resize: PositionResize = "bilinear",
        norm_eps: float | None = None,
        drop_path: float = 0.1,
        decoder_drop_path: float = 0.0,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.backbone = PlainViT(
            backbone,
            pretrained=pretrained,
            in_channels=in_channels,
            patch_size=patch_size,
            image_size=image_size,
            position_resize=position_resize,
            norm_eps=norm_eps,
            drop_path=drop_path,
        )
        width = self.backbone.width
        self.decoder: nn.Module
        if decoder == "mask":
            self.decoder = MaskDecoder(
                width, num_classes, num_layers=num_layers, dropout=dropout, drop_path=decoder_drop_path
            )
        elif decoder == "linear":
            self.decoder = LinearDecoder(width, num_classes)
        else:
            raise ValueError(f"Segmenter has the decoders 'mask' and 'linear'; got {decoder!r}.")

    def forward(self, images: Tensor) -> DenseOutput:
        """(B, in_channels, H, W) in 0..255 -> logits (B, num_classes, H / patch, W / patch), rounded up."""
        (tokens,), _, size = self.backbone.tokens(images)
        return DenseOutput(as_map(self.decoder(tokens), size))

    def no_weight_decay(self) -> set[str]:
        """For optim.groups: the class tokens, as in the official code."""
        return {"decoder.class_tokens"}


class MaskDecoder(nn.Module):
    """Patches and class tokens in common blocks; the logits are the cosines between the two."""

    def __init__(self, width: int, num_classes: int, *, num_layers: int, dropout: float, drop_path: float) -> None:
        super().__init__()
        if num_layers < 1:
            raise ValueError(f"The mask decoder needs at least one block; got num_layers={num_layers}.")
        self.class_tokens = nn.Parameter(torch.empty(1, num_classes, width))
        self.project = nn.Linear(width, width)
        rates = [drop_path * layer / max(1, num_layers - 1) for layer in range(num_layers)]
        num_heads = max(1, width // 64)
        self.blocks = nn.Sequential(
            *[transformer_block(width, num_heads, dropout=dropout, drop_path=rate) for rate in rates]
        )
        self.norm = nn.LayerNorm(width)
        self.patch_projection = nn.Linear(width, width, bias=False)
        self.class_projection = nn.Linear(width, width, bias=False)
        self.mask_norm = nn.LayerNorm(num_classes)
        _initialize(self)
        nn.init.trunc_normal_(self.class_tokens, std=0.02)
        for projection in (self.patch_projection, self.class_projection):
            nn.init.normal_(projection.weight, std=width**-0.5)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, h * w, D) -> (B, h * w, C)."""
        num_classes = self.class_tokens.shape[1]
        x = torch.cat([self.project(tokens), self.class_tokens.expand(tokens.shape[0], -1, -1)], dim=1)
        x = self.norm(self.blocks(x))
        patches = F.normalize(self.patch_projection(x[:, :-num_classes]), dim=2)
        classes = F.normalize(self.class_projection(x[:, -num_classes:]), dim=2)
        cosines = patches @ classes.transpose(1, 2)
        if num_classes == 1:
            return cosines * self.mask_norm.weight + self.mask_norm.bias
        return self.mask_norm(cosines)


class LinearDecoder(nn.Module):
    """(B, h * w, D) -> (B, h * w, C)."""

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.classify = nn.Linear(width, num_classes)
        _initialize(self)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.classify(tokens)


def _initialize(decoder: nn.Module) -> None:
    for module in decoder.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
