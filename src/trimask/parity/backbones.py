"""Backbones alone: the feature maps of timm's beside those of other libraries, which proves layers/backbone_names.py.

The maps take the place of logits. ResNets are proved by the rows of the networks that stand on them.
"""

from __future__ import annotations

import importlib
import re
import runpy
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn

from trimask.layers.backbone import Backbone
from trimask.layers.backbone_names import (
    MMSEG,
    OFFICIAL,
    TRANSFORMERS,
    convert_mmseg,
    convert_official,
    convert_transformers,
)
from trimask.outputs import DenseOutput
from trimask.parity.references import mmseg_backbone, transformers
from trimask.parity.row import Reference, Row, randomize
from trimask.weights import source_names

NORM = (r"^norms\.(\d)\.", r"backbone.norm\1.")


class Maps(nn.Module):
    """A backbone's maps as logits, coarsest first, with a norm each where the reference has one."""

    output = DenseOutput
    RENAMES: ClassVar[dict[str, Any]] = {
        "mmseg": (*MMSEG, NORM),
        "official": (*OFFICIAL, NORM),
        "transformers": (
            *TRANSFORMERS,
            *((rf"^norms\.{level}\.", f"backbone.hidden_states_norms.stage{level + 1}.") for level in range(4)),
        ),
    }
    CONVERSIONS: ClassVar[dict[str, Any]] = {
        "mmseg": convert_mmseg,
        "official": convert_official,
        "transformers": convert_transformers,
    }

    def __init__(self, backbone: str, *, eps: float = 1e-5, norms: bool = True, **options: Any) -> None:
        super().__init__()
        self.backbone = Backbone(backbone, pretrained=False, **options)
        kinds = [nn.LayerNorm(width, eps=eps) if norms else nn.Identity() for width in self.backbone.channels]
        self.norms = nn.ModuleList(kinds)

    def forward(self, images: Tensor) -> DenseOutput:
        maps = [
            norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
            for x, norm in zip(self.backbone(images), self.norms, strict=True)
        ]
        return DenseOutput(maps[-1], tuple(maps[-2::-1]) if self.training else ())


def _official(
    backbone: str, options: Mapping[str, Any], kind: str, settings: Mapping[str, Any], converter: str
) -> Reference:
    """mmseg's backbone, with weights that its own converter has made of those that the paper's authors' code has.

    Args:
        backbone, options: of `Maps`, whose names and shapes they are.
        kind, settings: of mmseg's backbone.
        converter: library, file among its converters, function.
    """
    plain = mmseg_backbone(kind, **settings)
    library, file, function = converter.split()

    def build() -> nn.Module:
        network: Any = plain.build()
        ours = randomize(Maps(backbone, **options)).state_dict()
        names = source_names(ours, Maps.RENAMES["official"])
        released = {theirs.removeprefix("backbone."): ours[name] for name, theirs in names.items()}
        place = Path(importlib.import_module(library).__path__[0], ".mim", "tools", "model_converters", f"{file}.py")
        convert = runpy.run_path(str(place))[function]
        norms = {name: value for name, value in released.items() if re.match(r"norm\d", name)}  # of maps: as they are
        converted = convert({name: value for name, value in released.items() if name not in norms})
        converted = {name.removeprefix("backbone."): value for name, value in converted.items()}
        tables = {name: value for name, value in network["backbone"].state_dict().items() if name.endswith("_index")}
        network["backbone"].load_state_dict(converted | norms | tables)
        network.released = {f"backbone.{name}": value for name, value in released.items()}
        return network

    return Reference(plain.library, f"official {kind}", build, plain.answers, lambda network: network.released)


def _transformers(config: str, **settings: Any) -> Reference:
    """The backbone that UperNet has with this configuration."""

    def configure(library: Any) -> Any:
        stages = [f"stage{number}" for number in (1, 2, 3, 4)]
        backbone = getattr(library, config)(out_features=stages, **settings)
        return library.UperNetConfig(backbone_config=backbone, hidden_size=8, use_auxiliary_head=False)

    whole = transformers("UperNetForSemanticSegmentation", configure)

    def build() -> nn.Module:
        network: Any = whole.build()
        network.decode_head = nn.Identity()
        return network

    def answers(network: Any, images: Tensor) -> list[Tensor]:
        return list(network.backbone(images).feature_maps)[::-1]

    return replace(whole, name=config, build=build, answers=answers)


def _row(backbone: str, source: str, reference: Reference, options: Mapping[str, Any], **settings: Any) -> Row:
    arguments = {"backbone": backbone, **options}
    return Row(
        Maps, arguments, variant=f"{backbone}, {source}", source=source, reference=reference, slow=True, **settings
    )


SWIN, CONVNEXT, VIT = "swin_tiny_patch4_window7_224", "convnext_tiny", "vit_tiny_patch16_224"
SIZES = ((64, 96), (65, 97), (130, 250))  # with maps that are no multiples of a window, and smaller than one
MMSEG_SWIN: dict[str, Any] = {
    "embed_dims": 96,
    "depths": (2, 2, 6, 2),
    "num_heads": (3, 6, 12, 24),
    "window_size": 7,
}
MMSEG_CONVNEXT: dict[str, Any] = {"arch": "tiny", "out_indices": (0, 1, 2, 3), "gap_before_final_norm": False}
MMSEG_VIT: dict[str, Any] = {
    "img_size": 224,
    "embed_dims": 192,
    "num_heads": 3,
    "out_indices": (9, 10, 11),
    "norm_cfg": {"type": "LN", "eps": 1e-6},
    "act_cfg": {"type": "GELU"},
}
ROWS = [
    _row(SWIN, "mmseg", mmseg_backbone("SwinTransformer", **MMSEG_SWIN), {}, sizes=SIZES),
    _row(SWIN, "official", _official(SWIN, {}, "SwinTransformer", MMSEG_SWIN, "mmseg swin2mmseg convert_swin"), {}),
    _row(
        SWIN,
        "transformers",
        _transformers("SwinConfig", embed_dim=96, depths=[2, 2, 6, 2], num_heads=[3, 6, 12, 24]),
        {},
        sizes=SIZES,
        inert=(r"\.k_proj\.bias$", r"^backbone\.swin\.layernorm\."),
        surplus=-2 * 768,  # a last norm, which its maps do not pass
    ),
    _row(CONVNEXT, "mmseg", mmseg_backbone("mmpretrain.ConvNeXt", **MMSEG_CONVNEXT), {"eps": 1e-6}),
    _row(
        CONVNEXT,
        "official",
        _official(
            CONVNEXT,
            {"eps": 1e-6},
            "mmpretrain.ConvNeXt",
            MMSEG_CONVNEXT,
            "mmpretrain convnext_to_mmpretrain convert_convnext",
        ),
        {"eps": 1e-6},
    ),
    _row(
        CONVNEXT,
        "transformers",
        _transformers("ConvNextConfig", hidden_sizes=[96, 192, 384, 768], depths=[3, 3, 9, 3]),
        {"eps": 1e-6},
    ),
    _row(
        VIT,
        "mmseg",
        mmseg_backbone("VisionTransformer", **MMSEG_VIT),
        {"norms": False},
        sizes=((224, 224),),
        surplus=192,  # the bias of the patch embedding
    ),
    _row(
        VIT,
        "official",
        _official(
            VIT, {"norms": False}, "VisionTransformer", MMSEG_VIT | {"patch_bias": True}, "mmseg vit2mmseg convert_vit"
        ),
        {"norms": False},
        sizes=((224, 224),),
    ),
]
