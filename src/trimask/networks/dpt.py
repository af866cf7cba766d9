"""DPT: tokens of four blocks reassembled at four strides, fused from coarse to fine by convolutions.

Source: Ranftl, Bochkovskiy, Koltun, "Vision Transformers for Dense Prediction", ICCV 2021, arXiv:2103.13413; official code
isl-org/DPT (MIT). With the same weights the logits are mmsegmentation's (Apache-2.0, `DPTHead`) and, with the options of the
right column, those of transformers' `DPTForSemanticSegmentation` (Apache-2.0), which reads the official weights; with `AS_SMP`
they are those of `DPT` of segmentation_models_pytorch (MIT), whose coarsest map passes one more refinement (`make parity`):

| | mmsegmentation (default) | transformers, official |
|---|---|---|
| `align_corners` of the logits | False | True |
| `position_resize` | "bicubic" | "bilinear" |
| `norm_eps` of the encoder | 1e-5 | 1e-12 (`Intel/dpt-large-ade`) |
| `normalization` | "imagenet" | "model" (0.5) |
| batch norms in the fusion | `fusion_norm=True` | as in the file; without them the convolutions have biases |
| auxiliary head on the finest map | `aux=False` | `aux=True` |

`Intel/dpt-large-ade` is `backbone="vit_large_patch16_384", levels=(5, 11, 17, 23), widths=(256, 512, 1024, 1024), aux=True` with
these. Upsampling inside the fusion has aligned corners in both.

**Deviations**
- The official head upsamples its logits twofold; the output does that. Pictures that are no multiple of the patch are padded,
  as in mmsegmentation; transformers cuts the rest off.
- The class token's share of the readout is computed once a picture and added to every token; others join it to each token.
- The 1x1 convolution behind each upsampling of the fusion comes before it, where there is a quarter of the pixels.
- Initialization as in mmsegmentation. Whole channels are dropped before the classifier, as there; officially single numbers.
- Not here: the hybrid encoder (ResNet and transformer).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar, Literal

from torch import Tensor, nn
from torch.nn import functional as F

from trimask.layers.backbone_names import MMSEG, SMP_TIMM, convert_mmseg
from trimask.layers.convs import ConvNormReLU, initialize_as_mmseg
from trimask.layers.plain_vit import Normalization, PlainViT, PositionResize, as_map
from trimask.outputs import DenseOutput
from trimask.weights import RenameTable, join

# Arguments that make it smp's.
AS_SMP: Mapping[str, Any] = MappingProxyType(
    {
        "widths": (256, 512, 1024, 1024),
        "refine_coarsest": True,
        "align_corners": True,
        "position_resize": "timm",
        "norm_eps": None,
        "normalization": "model",
    }
)

_BLOCK = r"^backbone\.body\.blocks\.(\d+)\."
_THERE = r"dpt.encoder.layer.\1."


def _convert_transformers(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Query, key and value joined; without the last norm of the encoder and half of the first fusion, which nothing passes."""
    unused = ("dpt.layernorm.", "dpt.pooler.", "neck.fusion_stage.layers.0.residual_layer1.")
    kept = {name: value for name, value in weights.items() if not name.startswith(unused)}
    return join(
        kept, [f".attention.attention.{part}." for part in ("query", "key", "value")], ".attention.attention.qkv."
    )


def _convert_smp(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without the encoder's last norm and classifier, which nothing passes."""
    unused = ("encoder.model.norm.", "encoder.model.fc_norm.", "encoder.model.head.")
    return {name: value for name, value in weights.items() if not name.startswith(unused)}


class DPT(nn.Module):
    """One logit a class at every cell of stride 2 (half the stride of the finest reassembled map).

    Args:
        num_classes: channels of the logits.
        backbone: timm name of a plain vision transformer with a class token.
        pretrained: see `Backbone`.
        in_channels: channels of the pictures.
        levels: four blocks whose tokens are used; ViT-B's by default, (5, 11, 17, 23) for ViT-L.
        widths: channels of the four reassembled maps, finest first.
        channels: of the fusion.
        refine_coarsest: the coarsest map passes what refines the other three maps, too, as in smp.
        readout: what becomes of the class token: "project" (joined to each token and projected), "add" or "ignore".
        fusion_norm, aux, align_corners: see above.
        image_size, position_resize, norm_eps, normalization: of the encoder; see `PlainViT` and above.
        drop_path: rate of stochastic depth in the encoder's last block.
        dropout: rate at which whole channels are dropped before the classifier.

    Raises:
        ValueError: see `PlainViT`; not four levels, an unknown readout, or no class token to read out.
    """

    output = DenseOutput
    tiny: ClassVar[dict[str, Any]] = {
        "backbone": "test_vit",
        "levels": (1, 2, 4, 5),
        "widths": (16, 24, 32, 48),
        "channels": 32,
    }
    RENAMES: ClassVar[dict[str, RenameTable]] = {
        "mmseg": (
            *MMSEG,
            (r"^reassemble\.(\d)\.readout\.", r"decode_head.reassemble_blocks.readout_projects.\1.0."),
            (r"^reassemble\.(\d)\.project\.", r"decode_head.reassemble_blocks.projects.\1.conv."),
            (r"^reassemble\.(\d)\.resize\.", r"decode_head.reassemble_blocks.resize_layers.\1."),
            (r"^convs\.(\d)\.", r"decode_head.convs.\1.conv."),
            (r"^fusion\.(\d)\.skip\.", r"decode_head.fusion_blocks.\1.res_conv_unit1."),
            (r"^fusion\.(\d)\.refine\.", r"decode_head.fusion_blocks.\1.res_conv_unit2."),
            (r"^fusion\.(\d)\.project\.", r"decode_head.fusion_blocks.\1.project.conv."),
            (r"(res_conv_unit\d\.conv\d)\.norm\.", r"\1.bn."),
            (r"^head\.mix\.conv\.", "decode_head.project.conv."),
            (r"^head\.mix\.norm\.", "decode_head.project.bn."),
            (r"^head\.classify\.", "decode_head.conv_seg."),
        ),
        "transformers": (
            (r"^backbone\.(mean|std)$", ""),
            (r"^backbone\.body\.cls_token$", "dpt.embeddings.cls_token"),
            (r"^backbone\.body\.pos_embed$", "dpt.embeddings.position_embeddings"),
            (r"^backbone\.body\.patch_embed\.proj\.", "dpt.embeddings.patch_embeddings.projection."),
            (_BLOCK + r"norm1\.", _THERE + "layernorm_before."),
            (_BLOCK + r"norm2\.", _THERE + "layernorm_after."),
            (_BLOCK + r"attn\.qkv\.", _THERE + "attention.attention.qkv."),
            (_BLOCK + r"attn\.proj\.", _THERE + "attention.output.dense."),
            (_BLOCK + r"mlp\.fc1\.", _THERE + "intermediate.dense."),
            (_BLOCK + r"mlp\.fc2\.", _THERE + "output.dense."),
            (r"^reassemble\.(\d)\.readout\.", r"neck.reassemble_stage.readout_projects.\1.0."),
            (r"^reassemble\.(\d)\.project\.", r"neck.reassemble_stage.layers.\1.projection."),
            (r"^reassemble\.(\d)\.resize\.", r"neck.reassemble_stage.layers.\1.resize."),
            (r"^convs\.", "neck.convs."),
            (r"^fusion\.(\d)\.project\.", r"neck.fusion_stage.layers.\1.projection."),
            (r"^fusion\.(\d)\.skip\.", r"neck.fusion_stage.layers.\1.residual_layer1."),
            (r"^fusion\.(\d)\.refine\.", r"neck.fusion_stage.layers.\1.residual_layer2."),
            (r"(residual_layer\d)\.conv(\d)\.conv\.", r"\1.convolution\2."),
            (r"(residual_layer\d)\.conv(\d)\.norm\.", r"\1.batch_norm\2."),
            (r"^head\.", "head.head."),
            (r"^aux_head\.", "auxiliary_head.head."),
            (r"head\.head\.mix\.conv\.", "head.head.0."),
            (r"head\.head\.mix\.norm\.", "head.head.1."),
            (r"head\.head\.classify\.", "head.head.4."),
        ),
        "smp_timm": (
            *SMP_TIMM,
            (r"^reassemble\.(\d)\.readout\.", r"decoder.projection_blocks.\1.project.0."),
            (r"^reassemble\.(\d)\.project\.", r"decoder.reassemble_blocks.\1.project_to_out_channel."),
            (r"^reassemble\.(\d)\.resize\.", r"decoder.reassemble_blocks.\1.upsample."),
            (r"^convs\.(\d)\.", r"decoder.reassemble_blocks.\1.project_to_feature_dim."),
            (r"^fusion\.(\d)\.skip\.", r"decoder.fusion_blocks.\1.residual_conv_block1."),
            (r"^fusion\.(\d)\.refine\.", r"decoder.fusion_blocks.\1.residual_conv_block2."),
            (r"^fusion\.(\d)\.project\.", r"decoder.fusion_blocks.\1.project."),
            (r"(residual_conv_block\d)\.conv(\d)\.conv\.", r"\1.conv_\2."),
            (r"(residual_conv_block\d)\.conv(\d)\.norm\.", r"\1.batch_norm_\2."),
            (r"^head\.mix\.conv\.", "segmentation_head.head.0."),
            (r"^head\.mix\.norm\.", "segmentation_head.head.1."),
            (r"^head\.classify\.", "segmentation_head.head.4."),
        ),
    }
    CONVERSIONS: ClassVar[dict[str, Any]] = {
        "mmseg": convert_mmseg,
        "transformers": _convert_transformers,
        "smp_timm": _convert_smp,
    }

    def __init__(
        self,
        num_classes: int,
        *,
        backbone: str = "vit_base_patch16_224",
        pretrained: bool | str = True,
        in_channels: int = 3,
        levels: Sequence[int] = (2, 5, 8, 11),
        widths: Sequence[int] = (96, 192, 384, 768),
        channels: int = 256,
        refine_coarsest: bool = False,
        readout: Literal["project", "add", "ignore"] = "project",
        fusion_norm: bool = True,
        aux: bool = False,
        align_corners: bool = False,
        image_size: int | None = None,
        position_resize: PositionResize = "bicubic",
        norm_eps: float | None = 1e-5,
        normalization: Normalization = "imagenet",
        drop_path: float = 0.0,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if len(levels) != 4 or len(widths) != 4:
            raise ValueError(f"DPT fuses four levels; got levels={list(levels)} and widths={list(widths)}.")
        self.backbone = PlainViT(
            backbone,
            pretrained=pretrained,
            in_channels=in_channels,
            out_indices=levels,
            norm=False,
            image_size=image_size,
            position_resize=position_resize,
            norm_eps=norm_eps,
            normalization=normalization,
            drop_path=drop_path,
        )
        if readout != "ignore" and not getattr(self.backbone.body, "has_class_token", True):
            raise ValueError(f"{backbone!r} has no class token; set readout to 'ignore'.")
        width = self.backbone.width
        self.reassemble = nn.ModuleList(
            Reassemble(width, out, readout, factor) for out, factor in zip(widths, (4, 2, 1, 0.5), strict=True)
        )
        self.convs = nn.ModuleList(nn.Conv2d(given, channels, 3, padding=1, bias=False) for given in widths)
        self.fusion = nn.ModuleList(
            Fusion(channels, norm=fusion_norm, has_skip=number > 0 or refine_coarsest) for number in range(4)
        )
        self.head = Head(channels, num_classes, dropout)
        self.aux_head = Head(channels, num_classes, dropout) if aux else None
        self.align_corners = align_corners
        _initialize(self.convs, self.fusion, *(stage.project for stage in self.reassemble))

    def forward(self, images: Tensor) -> DenseOutput:
        """(B, in_channels, H, W) in 0..255 -> logits (B, num_classes, H / 2, W / 2) for patches of 16 pixels."""
        tokens, prefixes, size = self.backbone.tokens(images)
        stages = zip(self.reassemble, self.convs, tokens, prefixes, strict=True)
        maps = [conv(reassemble(x, prefix, size)) for reassemble, conv, x, prefix in stages]
        x = maps[-1]
        for number, fuse in enumerate(self.fusion):
            x = fuse(x, maps[-1 - number] if number else None)
        aux = (self.aux_head(x),) if self.training and self.aux_head is not None else ()
        return DenseOutput(self.head(x), aux, align_corners=self.align_corners)


class Reassemble(nn.Module):
    """Tokens of one block as a map of another width and size.

    Args: factor: 4, 2, 1 or 0.5, from the tokens' size to the map's.
    """

    def __init__(self, width: int, out_channels: int, readout: str, factor: float) -> None:
        super().__init__()
        if readout not in ("project", "add", "ignore"):
            raise ValueError(f"readout is 'project', 'add' or 'ignore'; got {readout!r}.")
        self.adds = readout == "add"
        self.readout = nn.Linear(2 * width, width) if readout == "project" else None
        self.project = nn.Conv2d(width, out_channels, 1)
        self.resize: nn.Module = nn.Identity()
        if factor > 1:
            self.resize = nn.ConvTranspose2d(out_channels, out_channels, int(factor), int(factor))
        elif factor < 1:
            self.resize = nn.Conv2d(out_channels, out_channels, 3, stride=int(1 / factor), padding=1)

    def forward(self, tokens: Tensor, prefix: Tensor, size: tuple[int, int]) -> Tensor:
        """(B, h * w, D), (B, P, D) with the class token first, (h, w) -> (B, out_channels, factor * h, factor * w)."""
        x = tokens
        if self.readout is not None:
            of_patch, of_class = self.readout.weight.chunk(2, dim=1)
            shared = F.linear(prefix[:, :1], of_class, self.readout.bias)
            x = F.gelu(F.linear(x, of_patch) + shared)
        elif self.adds:
            x = x + prefix[:, :1]
        return self.resize(self.project(as_map(x, size)))


class Fusion(nn.Module):
    """Adds a refined skip to the map from below, refines both, doubles the size and projects."""

    def __init__(self, channels: int, *, norm: bool, has_skip: bool) -> None:
        super().__init__()
        self.skip = Residual(channels, norm=norm) if has_skip else None
        self.refine = Residual(channels, norm=norm)
        self.project = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor, skip: Tensor | None) -> Tensor:
        """(B, D, h, w), and a skip of about that size -> (B, D, 2h, 2w). Nothing is below the coarsest map, which comes alone."""
        if skip is not None and self.skip is not None:
            # odd sizes do not double exactly; equal ones stay as they are
            skip = F.interpolate(skip, x.shape[-2:], mode="bilinear", align_corners=False)
            x = x + self.skip(skip)
        elif self.skip is not None:
            x = self.skip(x)
        x = self.project(self.refine(x))  # a 1x1 convolution commutes with upsampling
        return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)


class Residual(nn.Module):
    """Twice ReLU, 3x3 convolution and perhaps a norm, beside a shortcut."""

    def __init__(self, channels: int, *, norm: bool) -> None:
        super().__init__()
        self.conv1, self.conv2 = (_conv(channels, norm=norm) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """(B, D, h, w) -> (B, D, h, w)."""
        return x + self.conv2(F.relu(self.conv1(F.relu(x))))


class Head(nn.Module):
    """Convolution, norm, ReLU, dropout and a linear classifier of every cell."""

    def __init__(self, channels: int, num_classes: int, dropout: float) -> None:
        super().__init__()
        self.mix = ConvNormReLU(channels, channels)
        self.dropout = nn.Dropout2d(dropout)
        self.classify = nn.Conv2d(channels, num_classes, 1)
        initialize_as_mmseg(self, self.classify)

    def forward(self, x: Tensor) -> Tensor:
        """(B, D, h, w) -> (B, C, h, w)."""
        return self.classify(self.dropout(self.mix(x)))


def _conv(channels: int, *, norm: bool) -> nn.Sequential:
    """A 3x3 convolution, with a batch norm or a bias. Members: `conv` and, if there is one, `norm`."""
    conv = nn.Sequential()
    conv.add_module("conv", nn.Conv2d(channels, channels, 3, padding=1, bias=not norm))
    if norm:
        conv.add_module("norm", nn.BatchNorm2d(channels))
    return conv


def _initialize(*parts: Any) -> None:
    """He's normal initialization (fan out) of convolutions."""
    for module in (module for part in parts for module in part.modules()):
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
