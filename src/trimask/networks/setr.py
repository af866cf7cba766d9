"""SETR: a plain vision transformer as encoder; naive, progressive (PUP) or multi-level (MLA) upsampling behind it.

Source: Zheng et al., "Rethinking Semantic Segmentation from a Sequence-to-Sequence Perspective with Transformers", CVPR 2021,
arXiv:2012.15840; official code fudan-zvg/SETR (MIT). With the same weights the logits are mmsegmentation's (Apache-2.0,
configs/setr) and, with the options of the right column, those of the official code (`make parity`):

| | mmsegmentation (default) | official |
|---|---|---|
| naive | four times larger before the classifier: `naive_scale=4` | `naive_scale=1` |
| auxiliary heads | two convolutions: `aux_convs=2`; of naive on Cityscapes one | one: `aux_convs=1` |
| PUP: levels of these | the first three | `aux_levels=(0, 1, 2, 3)` |
| MLA: the classifier | 1x1: `mla_kernel=1` | `mla_kernel=3`, behind upsampling with aligned corners |

The published ones hold positions for their crops, `image_size=512` (ADE20K) or 768 (Cityscapes), which released files need. They
start from ViT-L/16 of 384 pixels, trained on ImageNet-21k and then -1k, and normalize with ImageNet's mean and std, although
those weights were trained with 0.5: that would be `normalization="model"`.

**Deviations**
- mmsegmentation's PUP and its auxiliary heads upsample their logits to the picture's size: the last of these steps is left to the
  output, which does the same, and the full-size logits never exist. For pictures that are no multiple of the patch,
  mmsegmentation upsamples to the padded size and from there to the picture's; here it is one step.
- The classifier commutes with upsampling and comes before it, where there are fewer pixels.
- Biases in front of batch norms, which the official code has, are folded into the running means of released files.
- No dropout in the encoder, as in all published configurations.
- MLA's encoder sees no class token. mmsegmentation and the official code keep one there, unused; here there is none.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trimask.layers.backbone_names import MMSEG, OFFICIAL, convert_mmseg
from trimask.layers.convs import ConvNormReLU, initialize_as_mmseg
from trimask.layers.plain_vit import Normalization, PlainViT, PositionResize, as_map
from trimask.outputs import DenseOutput
from trimask.weights import RenameTable

NORM_EPS = 1e-6
LEVELS = {"naive": (9, 14, 19, 23), "pup": (9, 14, 19, 23), "mla": (5, 11, 17, 23)}  # blocks of ViT-L


def _convert_mmseg(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    converted = convert_mmseg(weights)
    return _without_class_token(converted) if any(name.startswith("neck.") for name in converted) else converted


def _convert_official(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Biases folded into running means, classifiers named as such, and without layers that nothing uses."""
    kept = {name: value for name, value in weights.items() if not re.search(r"_head\.(\d\.)?conv_seg\.", name)}
    for name in [name for name in kept if re.search(r"\.syncbn_fc_\d\.running_mean$", name)]:
        bias = name.replace("syncbn_fc_", "conv_").replace("running_mean", "bias")
        if bias in kept:
            kept[name] = kept[name] - kept.pop(bias)
    converted = {}
    for name, value in kept.items():
        at = re.fullmatch(r"(.*_head\.(?:\d\.)?)conv_(\d)\.(weight|bias)", name)
        is_classifier = at is not None and f"{at[1]}syncbn_fc_{at[2]}.weight" not in kept
        converted[f"{at[1]}classify.{at[3]}" if at is not None and is_classifier else name] = value
    return _of_mla(converted) if any(name.startswith("backbone.mla.") for name in kept) else converted


def _of_mla(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Its classifier named as the others', for the deepest level first; a bias of 0 for the auxiliary ones, which have none."""
    converted = {name.replace("decode_head.cls.", "decode_head.classify."): value for name, value in weights.items()}
    classifier = "decode_head.classify.weight"
    if classifier in converted:
        converted[classifier] = torch.cat(converted[classifier].chunk(4, dim=1)[::-1], dim=1)
    for name in [name for name in converted if re.fullmatch(r"auxiliary_head\.\d\.aux\.weight", name)]:
        converted[name.replace("weight", "bias")] = converted[name].new_zeros(len(converted[name]))
    return _without_class_token(converted)


def _without_class_token(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """MLA's encoder has one, with a position, and removes both before the first block."""
    kept = {name: value for name, value in weights.items() if name != "backbone.cls_token"}
    if "backbone.pos_embed" in kept:
        kept["backbone.pos_embed"] = kept["backbone.pos_embed"][:, 1:]
    return kept


class SETR(nn.Module):
    """Logits at the picture's size / 4 (naive, MLA) or / 2 (PUP), for patches of 16.

    Args:
        num_classes: channels of the logits.
        backbone: timm name of a plain vision transformer.
        pretrained: see `Backbone`.
        in_channels: channels of the pictures.
        decoder: "naive", "pup" or "mla".
        levels: blocks whose maps are used, four for MLA; None for the published ones of ViT-L.
        image_size, position_resize, normalization: of the encoder; see `PlainViT` and above.
        channels: width of the heads, and of MLA's neck.
        mla_channels: width of each of the four branches of MLA's head.
        aux_levels: places in `levels` that have an auxiliary head (naive, PUP); MLA has one a level, unless this is empty.
        aux_convs, naive_scale, mla_kernel: see above.

    Raises:
        ValueError: see `PlainViT`; an unknown decoder, or levels that do not fit it.
    """

    output = DenseOutput
    tiny: ClassVar[dict[str, Any]] = {"backbone": "test_vit", "levels": (1, 2, 4, 5), "channels": 32}
    RENAMES: ClassVar[dict[str, RenameTable]] = {
        "mmseg": (
            *MMSEG,
            (r"^head\.branches\.", "decode_head.up_convs."),
            (r"^head\.", "decode_head."),
            (r"^aux_heads\.", "auxiliary_head."),
            (r"^aux_classifiers\.(\d)\.", r"auxiliary_head.\1.conv_seg."),
            (r"^neck\.norms\.", "neck.norm."),
            (r"^neck\.project\.", "neck.mla.channel_proj."),
            (r"^neck\.mix\.", "neck.mla.feat_extract."),
            (r"^(\w+_head\.(?:\d\.)?)convs\.(\d)\.", r"\1up_convs.\2.0."),
            (r"^(\w+_head\.(?:\d\.)?)classify\.", r"\1conv_seg."),
            (r"^(.*(?:up_convs\.\d\.\d|channel_proj\.\d|feat_extract\.\d))\.norm\.", r"\1.bn."),
        ),
        "setr": (
            *OFFICIAL,
            (r"^aux_heads\.", "auxiliary_head."),
            *((rf"^aux_classifiers\.{place}\.", f"auxiliary_head.{3 - place}.aux.") for place in range(4)),
            (r"^neck\.norms\.", "backbone.norm_"),
            *((rf"^neck\.project\.{level}\.conv\.", f"backbone.mla.mla_p{2 + level}_1x1.0.") for level in range(4)),
            *((rf"^neck\.project\.{level}\.norm\.", f"backbone.mla.mla_p{2 + level}_1x1.1.") for level in range(4)),
            *((rf"^neck\.mix\.{place}\.conv\.", f"backbone.mla.mla_p{5 - place}.0.") for place in range(4)),
            *((rf"^neck\.mix\.{place}\.norm\.", f"backbone.mla.mla_p{5 - place}.1.") for place in range(4)),
            *((rf"^head\.branches\.{place}\.", f"decode_head.mlahead.head{5 - place}.") for place in range(4)),
            (r"(mlahead\.head\d)\.0\.conv\.", r"\1.0."),
            (r"(mlahead\.head\d)\.0\.norm\.", r"\1.1."),
            (r"(mlahead\.head\d)\.1\.conv\.", r"\1.3."),
            (r"(mlahead\.head\d)\.1\.norm\.", r"\1.4."),
            (r"^head\.", "decode_head."),
            (r"(_head\.(?:\d\.)?)convs\.(\d)\.conv\.", r"\1conv_\2."),
            (r"(_head\.(?:\d\.)?)convs\.(\d)\.norm\.", r"\1syncbn_fc_\2."),
        ),
    }
    CONVERSIONS: ClassVar[dict[str, Any]] = {"mmseg": _convert_mmseg, "setr": _convert_official}

    def __init__(
        self,
        num_classes: int,
        *,
        backbone: str = "vit_large_patch16_384",
        pretrained: bool | str = True,
        in_channels: int = 3,
        decoder: Literal["naive", "pup", "mla"] = "pup",
        levels: Sequence[int] | None = None,
        image_size: int | None = None,
        position_resize: PositionResize = "bilinear",
        normalization: Normalization = "imagenet",
        channels: int = 256,
        mla_channels: int = 128,
        aux_levels: Sequence[int] = (0, 1, 2),
        aux_convs: int = 2,
        naive_scale: int = 4,
        mla_kernel: int = 1,
    ) -> None:
        super().__init__()
        if decoder not in LEVELS:
            raise ValueError(f"SETR has the decoders {', '.join(LEVELS)}; got {decoder!r}.")
        levels = LEVELS[decoder] if levels is None else levels
        if decoder == "mla" and len(levels) != 4:
            raise ValueError(f"MLA joins four levels; got levels={list(levels)}.")
        if not all(0 <= place < len(levels) for place in aux_levels):
            raise ValueError(f"aux_levels are places in levels, 0 to {len(levels) - 1}; got {list(aux_levels)}.")
        self.backbone = PlainViT(
            backbone,
            pretrained=pretrained,
            in_channels=in_channels,
            out_indices=levels,
            norm=False,
            class_token=decoder != "mla",
            image_size=image_size,
            position_resize=position_resize,
            normalization=normalization,
        )
        self.aux_levels = tuple(aux_levels)
        width, stride = self.backbone.width, self.backbone.patch_size
        self.head: nn.Module
        self.neck: MLANeck | None = None
        self.aux_heads, self.aux_classifiers = nn.ModuleList(), nn.ModuleList()
        if decoder == "mla":
            self.neck = MLANeck(width, channels)
            self.head = MLAHead(channels, num_classes, channels=mla_channels, kernel_size=mla_kernel)
            if aux_levels:
                self.aux_classifiers.extend(_classifier(channels, num_classes) for _ in levels)
        else:
            kernel_size, num_convs, scale = (1, 1, naive_scale) if decoder == "naive" else (3, 4, 2)
            aux_scale = naive_scale if decoder == "naive" else 4
            self.head = UpHead(width, num_classes, channels, kernel_size, num_convs, scale, stride)
            self.aux_heads.extend(
                UpHead(width, num_classes, channels, kernel_size, aux_convs, aux_scale, stride) for _ in aux_levels
            )

    def forward(self, images: Tensor) -> DenseOutput:
        """(B, in_channels, H, W) in 0..255 -> logits (B, num_classes, H / 4 or H / 2, ...) of the padded picture."""
        tokens, _, size = self.backbone.tokens(images)
        aux: list[Tensor] = []
        if self.neck is None:
            logits = self.head(tokens[-1], size)
            if self.training:
                aux = [head(tokens[level], size) for head, level in zip(self.aux_heads, self.aux_levels, strict=True)]
        else:
            maps = self.neck(tokens, size)
            logits = self.head(maps)
            if self.training and self.aux_classifiers:
                aux = [classify(x) for classify, x in zip(self.aux_classifiers, maps, strict=True)]
        return DenseOutput(logits, tuple(aux))


class UpHead(nn.Module):
    """Norm, then convolutions with upsampling behind each; the last step to the picture's size is left to the output.

    Args:
        width: channels of the tokens.
        channels: of the convolutions.
        scale: factor of each upsampling.
        stride: of the tokens.
    """

    def __init__(
        self, width: int, num_classes: int, channels: int, kernel_size: int, num_convs: int, scale: int, stride: int
    ) -> None:
        super().__init__()
        inputs = [width, *[channels] * (num_convs - 1)]
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.convs = nn.ModuleList(ConvNormReLU(given, channels, kernel_size) for given in inputs)
        self.classify = nn.Conv2d(channels, num_classes, 1)
        self.scale = scale
        self.last_scale = 1 if scale**num_convs == stride else scale
        initialize_as_mmseg(self, self.classify)

    def forward(self, tokens: Tensor, size: tuple[int, int]) -> Tensor:
        """(B, h * w, D), (h, w) -> (B, C, h', w')."""
        *others, last = self.convs
        x = as_map(self.norm(tokens), size)
        for conv in others:
            x = _upsample(conv(x), self.scale)
        return _upsample(self.classify(last(x)), self.last_scale)


class MLANeck(nn.Module):
    """Four maps of one size, each added to all deeper ones and mixed; the deepest comes out first."""

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width, eps=NORM_EPS) for _ in range(4))
        self.project = nn.ModuleList(ConvNormReLU(width, channels, 1) for _ in range(4))
        self.mix = nn.ModuleList(ConvNormReLU(channels, channels) for _ in range(4))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, tokens: Sequence[Tensor], size: tuple[int, int]) -> list[Tensor]:
        """Four (B, h * w, D), first block first, (h, w) -> four (B, channels, h, w), deepest first."""
        found: list[Tensor] = []
        total: Tensor | None = None
        for level, mix in zip((3, 2, 1, 0), self.mix, strict=True):
            projected = self.project[level](as_map(self.norms[level](tokens[level]), size))
            total = projected if total is None else total + projected
            found.append(mix(total))
        return found


class MLAHead(nn.Module):
    """Two convolutions a level, all joined, classified and upsampled fourfold.

    Args: kernel_size: of the classifier. 1 commutes with upsampling; 3 comes behind it, with corners aligned, as officially.
    """

    def __init__(self, in_channels: int, num_classes: int, *, channels: int, kernel_size: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(ConvNormReLU(in_channels, channels), ConvNormReLU(channels, channels)) for _ in range(4)
        )
        self.classify = nn.Conv2d(4 * channels, num_classes, kernel_size, padding=kernel_size // 2)
        initialize_as_mmseg(self, self.classify)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Four (B, in_channels, h, w) -> (B, C, 4h, 4w)."""
        joined = torch.cat([branch(x) for branch, x in zip(self.branches, maps, strict=True)], dim=1)
        if self.classify.kernel_size == (1, 1):
            return _upsample(self.classify(joined), 4)
        return self.classify(F.interpolate(joined, scale_factor=4, mode="bilinear", align_corners=True))


def _upsample(x: Tensor, scale: int) -> Tensor:
    return x if scale == 1 else F.interpolate(x, scale_factor=scale, mode="bilinear", align_corners=False)


def _classifier(channels: int, num_classes: int) -> nn.Conv2d:
    classify = nn.Conv2d(channels, num_classes, 1)
    initialize_as_mmseg(classify, classify)
    return classify
