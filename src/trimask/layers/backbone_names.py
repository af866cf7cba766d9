"""What the tensors of backbones are called in other libraries: patterns for the rename tables of every network.

The patterns begin at our names of a network with a member `backbone` (`layers.backbone.Backbone`, timm's names behind
`backbone.body.`) and leave all other names alone. A network continues with its own:

    RENAMES = {"mmseg": (*MMSEG, (r"^head\\.", "decode_head."), ...)}
"""

from __future__ import annotations

Patterns = tuple[tuple[str, str], ...]

# Mean and std are ours alone: other libraries keep them in their configurations.
_WITHOUT_MEAN_AND_STD: Patterns = ((r"^backbone\.(mean|std)$", ""),)

TORCHVISION: Patterns = (*_WITHOUT_MEAN_AND_STD, (r"^backbone\.body\.", "backbone."))

# ResNetV1c and V1d have one `stem`, which timm splits into conv1 (with two norms inside) and bn1.
_MMSEG_RESNET: Patterns = (
    (r"^backbone\.body\.conv1\.(\d)\.", r"backbone.stem.\1."),
    (r"^backbone\.body\.bn1\.", "backbone.stem.7."),
)

MMSEG: Patterns = (
    *_WITHOUT_MEAN_AND_STD,
    *_MMSEG_RESNET,
    (r"^backbone\.body\.", "backbone."),
)
