"""UPerNet beside mmsegmentation's, transformers' and segmentation_models_pytorch's.

The official code of Swin Transformer and ConvNeXt is on no package index. Their networks are mmsegmentation's with a backbone
of other names; mmsegmentation's own converters read those, and their result stands for it.
"""

from __future__ import annotations

import importlib
import re
import runpy
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from trimask.networks import untrained
from trimask.networks.upernet import AS_SMP, UPerNet
from trimask.parity.references import mmseg, smp, transformers
from trimask.parity.row import Count, Published, Reference, Row, randomize
from trimask.weights import source_names

R50 = "upernet/upernet_r50_4xb4-160k_ade20k-512x512"
SWIN = "swin/swin-tiny-patch4-window7-in1k-pre_upernet_8xb2-160k_ade20k-512x512"
CONVNEXT = "convnext/convnext-tiny_upernet_8xb2-amp-160k_ade20k-512x512"
PUBLISHED = {
    R50: Published("mmseg/upernet_r50_4xb4-160k_ade20k-512x512", total=66.52, inference=64.12),
    SWIN: Published(
        "mmseg/swin-tiny-patch4-window7-in1k-pre_upernet_8xb2-160k_ade20k-512x512", total=59.94, inference=59.02
    ),
    CONVNEXT: Published("mmseg/convnext-tiny_upernet_8xb2-amp-160k_ade20k-512x512", total=60.24),
}
BACKBONES = {R50: "resnet50c", SWIN: "swin_tiny_patch4_window7_224", CONVNEXT: "convnext_tiny"}
SMALL: dict[str, Any] = {
    "backbone": {"type": "ResNet", "depth": 18},
    "decode_head": {"in_channels": [64, 128, 256, 512], "channels": 64},
    "auxiliary_head": {"in_channels": 256, "channels": 32},
}


def _official(config: str, converter: str) -> Reference:
    """mmseg's network, with a backbone that its converter has made of one in the official names."""
    plain, (library, file, function) = mmseg(config), converter.split()

    def build() -> nn.Module:
        network: Any = plain.build()
        ours = randomize(untrained(UPerNet, {"num_classes": 150, "backbone": BACKBONES[config]})).state_dict()
        names = source_names(
            (name for name in ours if name.startswith(("backbone.", "norms."))), UPerNet.RENAMES["official"]
        )
        network.released = {theirs: ours[name] for name, theirs in names.items()}
        official = {name.removeprefix("backbone."): value for name, value in network.released.items()}
        norms = {name: value for name, value in official.items() if re.match(r"norm\d", name)}  # of maps: as they are
        place = Path(importlib.import_module(library).__path__[0], ".mim", "tools", "model_converters", f"{file}.py")
        converted = runpy.run_path(str(place))[function]({k: v for k, v in official.items() if k not in norms})
        converted = {name.removeprefix("backbone."): value for name, value in converted.items()}
        tables = {name: value for name, value in network.backbone.state_dict().items() if name.endswith("_index")}
        network.backbone.load_state_dict(converted | norms | tables)
        return network

    def weights(network: Any) -> Mapping[str, Tensor]:
        heads = {name: value for name, value in network.state_dict().items() if not name.startswith("backbone.")}
        return network.released | heads

    return replace(plain, name=f"official {plain.name}", build=build, weights=weights)


def _transformers(config: str, **settings: Any) -> Reference:
    """Before its last upsampling, and with the auxiliary head, which it asks only beside labels."""

    def configure(library: Any) -> Any:
        stages = [f"stage{number}" for number in (1, 2, 3, 4)]
        backbone = getattr(library, config)(out_features=stages, **settings)
        return library.UperNetConfig(backbone_config=backbone, num_labels=150)

    def answers(network: Any, images: Tensor) -> list[Tensor]:
        maps = network.backbone(images).feature_maps
        return [network.decode_head(maps), network.auxiliary_head(maps)]

    return replace(transformers("UperNetForSemanticSegmentation", configure), answers=answers)


def _smp(encoder: str) -> Reference:
    """Without its last upsampling, which is part of the output here; it knows no sizes but multiples of 32."""
    return replace(smp("UPerNet", encoder, classes=5, upsampling=1), answers=lambda network, images: [network(images)])


def _row(config: str, source: str, reference: Reference, **settings: Any) -> Row:
    backbone = BACKBONES[config]
    arguments = {"num_classes": 150, "backbone": backbone}
    return Row(
        UPerNet,
        arguments,
        variant=f"{backbone}, ADE20K, {source}",
        source=source,
        reference=reference,
        slow=True,
        published=PUBLISHED[config],
        **settings,
    )


ROWS = [
    Row(
        UPerNet,
        {"num_classes": 150, "backbone": "resnet18", "channels": 64, "aux_channels": 32},
        variant="R18",
        source="mmseg",
        reference=mmseg(R50, **SMALL),
        sizes=((128, 160), (65, 97), (130, 250)),  # also with maps that are no multiples of each other
    ),
    Row(
        UPerNet,
        {"num_classes": 150, "backbone": "resnet18", "channels": 64, "aux_channels": 32, "align_corners": True},
        variant="R18, aligned corners",
        source="mmseg",
        reference=mmseg(R50, **{**SMALL, "decode_head": {**SMALL["decode_head"], "align_corners": True}}),
    ),
    *(
        Row(
            UPerNet,
            {"num_classes": 5, "backbone": backbone, **AS_SMP},
            variant=f"{backbone}, as smp",
            source="smp_timm" if encoder.startswith("tu-") else "smp",
            reference=_smp(encoder),
            sizes=((64, 96), (96, 160)),
            slow=backbone == "resnet18",
        )
        for backbone, encoder in (("resnet18", "resnet18"), ("test_convnext", "tu-test_convnext"))
    ),
    _row(R50, "mmseg", mmseg(R50)),
    _row(SWIN, "mmseg", mmseg(SWIN)),
    _row(CONVNEXT, "mmseg", mmseg(CONVNEXT)),
    _row(SWIN, "official", _official(SWIN, "mmseg swin2mmseg convert_swin")),
    _row(CONVNEXT, "official", _official(CONVNEXT, "mmpretrain convnext_to_mmpretrain convert_convnext")),
    _row(
        SWIN,
        "transformers",
        _transformers("SwinConfig", embed_dim=96, depths=[2, 2, 6, 2], num_heads=[3, 6, 12, 24]),
        inert=(r"\.k_proj\.bias$", r"^backbone\.swin\.layernorm\."),
        surplus=-2 * 768,  # a last norm, which its maps do not pass
    ),
    _row(
        CONVNEXT,
        "transformers",
        _transformers("ConvNextConfig", hidden_sizes=[96, 192, 384, 768], depths=[3, 3, 9, 3]),
    ),
]
COUNTS = [
    *(
        Count(
            UPerNet,
            {"num_classes": 19 if "cityscapes" in where else 21, "backbone": "resnet50c"},
            Published(where, total=66.42, inference=64.05),
        )
        for where in (
            "mmseg/upernet_r50_4xb2-80k_cityscapes-512x1024",
            "mmseg/upernet_r50_4xb4-40k_voc12aug-512x512",
        )
    ),
    *(
        Count(UPerNet, {"num_classes": 150, "backbone": backbone}, Published(where, total=total, inference=inference))
        for backbone, where, total, inference in (
            (
                "swin_base_patch4_window12_384",
                "mmseg/swin-base-patch4-window12-in22k-384x384-pre_upernet_8xb2-160k_ade20k-512x512",
                121.42,
                120.2,
            ),
            ("swin_tiny_patch4_window7_224", "swin-official/upernet_swin_tiny_patch4_window7_512x512", 60, None),
            ("swin_base_patch4_window7_224", "swin-official/upernet_swin_base_patch4_window7_512x512", 121, None),
            ("convnext_base", "mmseg/convnext-base_upernet_8xb2-amp-160k_ade20k-640x640", 122.1, None),
            ("convnext_tiny", "convnext-official/upernet_convnext_tiny_1k_512", 60, None),
            ("convnext_base", "convnext-official/upernet_convnext_base_1k_512", 122, None),
            ("convnext_large", "convnext-official/upernet_convnext_large_22k_640", 235, None),
        )
    ),
]
