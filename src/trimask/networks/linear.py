"""A linear head on a plain vision transformer: batch normalization and one 1x1 convolution, on frozen or trained features.

Source: Oquab et al., "DINOv2: Learning Robust Visual Features without Supervision", TMLR 2024, arXiv:2304.07193, section 7.4;
official code facebookresearch/dinov2 (Apache-2.0), dinov2/eval/segmentation/models/decode_heads/linear_head.py (`BNHead`) on
`get_intermediate_layers` of dinov2/models/vision_transformer.py, whose norm is applied to every layer that is given. The paper's
"linear" takes the last block (`num_layers=1`), its "+ms" joins the last four (`num_layers=4`) and tests at several scales. The
same head on DINOv3 and on any other plain transformer of timm. `make parity` compares it with the same function written out.

**Deviations**
- Pictures that are no multiple of the patch are padded at the bottom and right; the official code pads on all four sides.
- Plain batch normalization; the trainer may make it synchronized.
- The official code has a dropout before the classifier, which all its configurations set to 0; there is none here.
- `frozen_backbone=False` trains the whole network, as in the benchmark of Kerssies et al., arXiv:2404.12172.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from trimask.layers.plain_vit import PlainViT, PositionResize, as_map
from trimask.outputs import DenseOutput
from trimask.weights import RenameTable


def _convert_dinov2(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without the token that stands for masked patches in pretraining."""
    return {name: value for name, value in weights.items() if name != "backbone.mask_token"}


class LinearHead(nn.Module):
    """One logit a class and patch.

    Args:
        num_classes: channels of the logits.
        backbone: timm name of a plain vision transformer.
        pretrained: see `Backbone`.
        in_channels: channels of the pictures.
        patch_size: see `PlainViT`.
        num_layers: how many of the last blocks are joined.
        frozen_backbone: train the head alone; the backbone is in evaluation mode and remembers nothing for gradients.
        position_resize: see `layers.plain_vit`; backbones with rotary positions (DINOv3) have nothing to resize.
        drop_path: rate of stochastic depth of a backbone that is trained.

    Raises:
        ValueError: see `PlainViT`; or num_layers < 1.
    """

    output = DenseOutput
    tiny: ClassVar[dict[str, Any]] = {"backbone": "test_vit", "patch_size": 8, "frozen_backbone": False}
    RENAMES: ClassVar[dict[str, RenameTable]] = {
        "dinov2": (
            (r"^backbone\.(mean|std)$", ""),
            (r"^backbone\.body\.", "backbone."),
            (r"^norm\.", "decode_head.bn."),
            (r"^classify\.", "decode_head.conv_seg."),
        ),
    }
    CONVERSIONS: ClassVar[dict[str, Any]] = {"dinov2": _convert_dinov2}

    def __init__(
        self,
        num_classes: int,
        *,
        backbone: str = "vit_small_patch14_dinov2",
        pretrained: bool | str = True,
        in_channels: int = 3,
        patch_size: int | None = None,
        num_layers: int = 1,
        frozen_backbone: bool = True,
        position_resize: PositionResize = "dinov2",
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        if num_layers < 1:
            raise ValueError(f"A linear head needs at least one layer of the backbone; got num_layers={num_layers}.")
        self.backbone = PlainViT(
            backbone,
            pretrained=pretrained,
            in_channels=in_channels,
            patch_size=patch_size,
            out_indices=range(-num_layers, 0),
            position_resize=position_resize,
            drop_path=drop_path,
            frozen=frozen_backbone,
        )
        channels = sum(self.backbone.channels)
        self.norm = nn.BatchNorm2d(channels)
        self.classify = nn.Conv2d(channels, num_classes, 1)
        nn.init.normal_(self.classify.weight, std=0.01)
        nn.init.constant_(self.classify.get_parameter("bias"), 0.0)

    def forward(self, images: Tensor) -> DenseOutput:
        """(B, in_channels, H, W) in 0..255 -> logits (B, num_classes, H / patch, W / patch), rounded up."""
        tokens, _, size = self.backbone.tokens(images)
        return DenseOutput(self.classify(self.norm(as_map(torch.cat(tokens, dim=2), size))))
