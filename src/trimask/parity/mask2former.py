"""Mask2Former beside transformers', on its own ResNets and Swin Transformers and on timm's ResNets.

Every prediction is compared, the first of them made by the queries before any layer. Weights of the decoder are drawn larger than
there, so that queries tell keys apart; those of its deformable attention, 0 at first, are drawn by `row.randomize`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import Tensor

from trimask.networks.mask2former import Mask2Former
from trimask.parity.references import transformers
from trimask.parity.row import Count, Published, Reference, Row

SMALL = {"num_queries": 12, "encoder_layers": 2, "decoder_layers": 4}
STAGES = [f"stage{number}" for number in (1, 2, 3, 4)]
# The last is a norm that the maps of Swin do not pass.
INERT = (r"^criterion\.empty_weight$", r"\.k_proj\.bias$", r"^model\.pixel_level_module\.encoder\.swin\.layernorm\.")


def _answers(network: Any, images: Tensor) -> list[Tensor]:
    """Masks and classes of the last layer, then of the earlier ones."""
    found = network(images, output_auxiliary_logits=True)
    layers = [found, *found.auxiliary_logits]
    return [layer[kind] for layer in layers for kind in ("masks_queries_logits", "class_queries_logits")]


def _reference(backbone: Callable[[Any], Any], num_classes: int, **settings: Any) -> Reference:
    """Args: backbone: (the library) -> its configuration; settings: as ours, of Mask2Former."""
    settings["decoder_layers"] = settings.get("decoder_layers", 9) + 1  # it counts the prediction before the first

    def configure(library: Any) -> Any:
        return library.Mask2FormerConfig(
            backbone_config=backbone(library), num_labels=num_classes, init_xavier_std=2.0, **settings
        )

    return replace(transformers("Mask2FormerForUniversalSegmentation", configure), answers=_answers)


def _resnet(library: Any) -> Any:
    return library.ResNetConfig(
        embedding_size=64,
        hidden_sizes=[64, 128, 256, 512],
        depths=[2, 2, 2, 2],
        layer_type="basic",
        out_features=STAGES,
    )


def _timm_resnet(library: Any) -> Any:
    return library.TimmBackboneConfig(backbone="resnet18", out_indices=[1, 2, 3, 4])


def _swin(library: Any) -> Any:
    """Swin-T, with weights so large that its queries and keys matter, too."""
    return library.SwinConfig(
        depths=[2, 2, 6, 2], num_heads=[3, 6, 12, 24], embed_dim=96, out_features=STAGES, initializer_range=0.05
    )


def _row(name: str, backbone: str, reference: Callable[[Any], Any], source: str, **settings: Any) -> Row:
    return Row(
        Mask2Former,
        {"num_classes": 5, "backbone": backbone, **SMALL},
        variant=name,
        source=source,
        reference=_reference(reference, 5, **SMALL),
        inert=INERT,
        **settings,
    )


ROWS = [
    _row("R18", "resnet18", _resnet, "transformers", slow=True),
    _row("R18 of timm", "resnet18", _timm_resnet, "transformers_timm", slow=True),
    _row("Swin-T", "swin_tiny_patch4_window7_224", _swin, "transformers", slow=True, surplus=-2 * 768),
]
COUNTS = [
    Count(
        Mask2Former,
        {"num_classes": num_classes, "backbone": backbone, **options},
        Published(f"mask2former/{where}", total),
    )
    for where, num_classes, backbone, total, options in (
        ("ade20k_semantic_R50", 150, "resnet50", 44.04, {}),
        ("ade20k_semantic_Swin-T", 150, "swin_tiny_patch4_window7_224", 47.44, {}),
        ("ade20k_semantic_Swin-B-21k", 150, "swin_base_patch4_window12_384", 106.92, {}),
        ("ade20k_semantic_Swin-L-21k", 150, "swin_large_patch4_window12_384", 215.49, {}),
        ("coco_panoptic_R50", 133, "resnet50", 44, {}),
        ("coco_panoptic_Swin-T", 133, "swin_tiny_patch4_window7_224", 47.44, {}),
        ("coco_panoptic_Swin-L-21k", 133, "swin_large_patch4_window12_384", 216, {"num_queries": 200}),
    )
]
