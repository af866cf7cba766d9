"""FastFCN: joint pyramid upsampling (JPU) gives a plain backbone of stride 32 what dilation costs so much to keep.

Source: Wu, Zhang, Huang, Liang, Yu, "FastFCN: Rethinking Dilated Convolution in the Backbone for Semantic Segmentation", 2019,
arXiv:1903.11816; official code wuhuikai/FastFCN (MIT-style, as its files say). The head "enc" is that of Zhang et al., "Context
Encoding for Semantic Segmentation", CVPR 2018, arXiv:1803.08904, whose authors' code the official one contains. The form is
that of mmsegmentation's `JPU`, `EncHead` and configs/fastfcn (Apache-2.0); the heads "aspp" and "psp" are those of DeepLabV3 and
PSPNet. With the same weights the logits are mmseg's, and so is what the head "enc" says of the picture (`make parity`).

**Deviations**
- From mmseg: timm's plain ResNet-50 by default; mmseg's is V1c, timm's `resnet50c.gluon_in1k`. Plain batch normalization; the
  trainer may make it synchronized.
- mmseg's backbone dilates its last two stages although it strides there, against the paper. Its weights need
  `dilations=(2, 4)`.
- From the official code, as in mmseg: the head "enc" begins with a 3x3 convolution (officially 1x1) and has no lateral ones
  (officially with ResNet-101), levels are joined finest first, and corners are not aligned.
- Pooled maps are not upsampled in front of the convolution that mixes them (layers/joined_conv.py), and the head "enc" computes
  squared distances by matrix products, in fp32 at least, where the others hold the difference of every cell to every code word,
  32 times the map. The answer is the same.
- The weights of the losses belong to the criterion: 0.2 for the presence of classes, and 0.4 (officially 0.2) for the auxiliary
  head.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trimask.layers.aspp import ASPP, convert_mmseg_aspp
from trimask.layers.backbone import Backbone
from trimask.layers.backbone_names import MMSEG, convert_mmseg
from trimask.layers.convs import ConvNormReLU, SeparableConvNormReLU, initialize_as_mmseg
from trimask.layers.fcn_head import FCNHead
from trimask.networks.deeplabv3 import DeepLabV3Head
from trimask.networks.pspnet import PSPHead
from trimask.outputs import DenseOutput
from trimask.weights import RenameTable

NUM_LEVELS = 3
PYRAMID_DILATIONS = (1, 2, 4, 8)
ASPP_RATES = (12, 24, 36)
SCALES = (1, 2, 3, 6)  # cells of the pooling grids along a side
NUM_CODE_WORDS = 32


@dataclass(frozen=True)
class EncodedOutput(DenseOutput):
    """Logits, and what the head "enc" says of the picture as a whole.

    Attributes:
        presence: (B, C) logits: does the picture show the class; None in evaluation mode. A criterion that scores them is
            `trimask.losses.presence.PresenceCriterion`.
    """

    presence: Tensor | None = None

    def picture(self, index: int) -> EncodedOutput:
        presence = None if self.presence is None else self.presence[index : index + 1]
        return replace(self, **vars(super().picture(index)) | {"presence": presence})


# torch.export looks inside an output only after it has been told what it is made of.
torch.export.register_dataclass(EncodedOutput)


def _convert_mmseg(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """By the head that the weights have."""
    has_aspp = "decode_head.image_pool.1.conv.weight" in weights
    return convert_mmseg_aspp(weights) if has_aspp else convert_mmseg(weights)


class FastFCN(nn.Module):
    """One logit a class at every cell of stride 8 (of the finest of the backbone's last three levels).

    Args:
        num_classes: channels of the logits.
        backbone: timm name; its last three levels are used.
        pretrained: see `Backbone`.
        in_channels: channels of the pictures.
        head: what sees the context: "aspp", "psp", or "enc", which in training also says what the picture shows (see
            `EncodedOutput`).
        dilations: of the 3x3 convolutions in the last two stages of a ResNet of bottlenecks, which stride all the same; the
            first block of a stage has half of it. mmsegmentation's weights were trained with (2, 4), the paper's with None.
        channels: width of the pyramid's branches and of the head.
        dropout: rate at which whole channels are dropped before a classifier.
        aux_channels: width of the auxiliary head on the last map but one; None for no such head.
        align_corners: how levels, pooled maps and logits are brought to a larger size.

    Raises:
        ValueError: see `Backbone`; dilations for another backbone; in training, a batch of one picture with "aspp" or "psp".
    """

    output = DenseOutput
    tiny: ClassVar[dict[str, Any]] = {"backbone": "test_resnet", "channels": 32, "aux_channels": 16}
    RENAMES: ClassVar[dict[str, RenameTable]] = {
        "mmseg": (
            *MMSEG,
            (r"^upsampling\.reduce\.(\d)\.", r"neck.conv_layers.\1.0."),
            (r"^upsampling\.branches\.(\d)\.(depth|point)wise\.", r"neck.dilation_layers.\1.0.\2wise_conv."),
            (r"^head\.aspp\.branches\.(\d)\.", r"decode_head.aspp_modules.\1."),
            (r"^head\.aspp\.image\.", "decode_head.image_pool.1."),
            (r"^head\.pyramid\.branches\.(\d)\.", r"decode_head.psp_modules.\1.1."),
            (r"^head\.(?:aspp\.mix|pyramid\.mix|reduce)\.", "decode_head.bottleneck."),
            (r"^head\.encoding\.project\.", "decode_head.enc_module.encoding_project."),
            (r"^head\.encoding\.words$", "decode_head.enc_module.encoding.0.codewords"),
            (r"^head\.encoding\.sharpness$", "decode_head.enc_module.encoding.0.scale"),
            (r"^head\.encoding\.norm\.", "decode_head.enc_module.encoding.1."),
            (r"^head\.encoding\.gate\.", "decode_head.enc_module.fc.0."),
            (r"^head\.presence\.", "decode_head.se_layer."),
            (r"^head\.classify\.", "decode_head.conv_seg."),
            (r"^aux_head\.classify\.", "auxiliary_head.conv_seg."),
            (r"^aux_head\.", "auxiliary_head."),
            (r"^((?:neck|decode_head|auxiliary_head)\..+)\.norm\.", r"\1.bn."),
        ),
    }
    CONVERSIONS: ClassVar = {"mmseg": _convert_mmseg}

    def __init__(
        self,
        num_classes: int,
        *,
        backbone: str = "resnet50",
        pretrained: bool | str = True,
        in_channels: int = 3,
        head: Literal["aspp", "psp", "enc"] = "aspp",
        dilations: tuple[int, int] | None = None,
        channels: int = 512,
        dropout: float = 0.1,
        aux_channels: int | None = 256,
        align_corners: bool = False,
    ) -> None:
        super().__init__()
        self.align_corners = align_corners
        self.backbone = Backbone(backbone, pretrained=pretrained, in_channels=in_channels)
        if dilations is not None:
            dilate_where_it_strides(self.backbone.body, dilations)
        widths = self.backbone.channels[-NUM_LEVELS:]
        self.upsampling = JointPyramidUpsampling(widths, channels, align_corners=align_corners)
        joint = len(PYRAMID_DILATIONS) * channels
        self.head: EncodingHead | PSPHead | DeepLabV3Head
        if head == "enc":
            self.head = EncodingHead(joint, num_classes, channels=channels, dropout=dropout)
        elif head == "psp":
            self.head = PSPHead(
                joint, num_classes, channels=channels, scales=SCALES, dropout=dropout, align_corners=align_corners
            )
        elif head == "aspp":
            aspp = ASPP(joint, channels, rates=ASPP_RATES, mix_kernel=3, dropout=0.0)
            self.head = DeepLabV3Head(aspp, num_classes, channels=channels, num_convs=0, dropout=dropout)
        else:
            raise ValueError(f"FastFCN has the heads 'aspp', 'psp' and 'enc'; got {head!r}.")
        self.aux_head: FCNHead | None = None
        if aux_channels is not None:
            self.aux_head = FCNHead(widths[-2], num_classes, channels=aux_channels, dropout=dropout)

    def forward(self, images: Tensor) -> DenseOutput:
        """(B, in_channels, H, W) in 0..255 -> logits (B, num_classes, h, w) at the stride of the finest level."""
        maps = self.backbone(images)[-NUM_LEVELS:]
        joint = self.upsampling(maps)
        aux = (self.aux_head(maps[-2]),) if self.training and self.aux_head is not None else ()
        if not isinstance(self.head, EncodingHead):
            return DenseOutput(self.head(joint), aux, self.align_corners)
        logits, description = self.head(joint)
        presence = self.head.presence(description) if self.training else None
        return EncodedOutput(logits, aux, self.align_corners, presence=presence)


class JointPyramidUpsampling(nn.Module):
    """Maps of a backbone, finest first -> one map at the size of the finest, (B, 4 * channels, h, w)."""

    def __init__(self, in_channels: Sequence[int], channels: int, *, align_corners: bool) -> None:
        super().__init__()
        self.align_corners = align_corners
        self.reduce = nn.ModuleList(ConvNormReLU(width, channels) for width in in_channels)
        self.branches = nn.ModuleList()
        for dilation in PYRAMID_DILATIONS:
            branch = SeparableConvNormReLU(len(in_channels) * channels, channels, dilation=dilation)
            del branch.depthwise.relu
            self.branches.append(branch)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):  # as mmseg
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """(B, in_channels[i], h_i, w_i) -> (B, 4 * channels, h_0, w_0)."""
        finest, *coarser = (reduce(x) for reduce, x in zip(self.reduce, maps, strict=True))
        size = finest.shape[-2:]
        upsampled = [F.interpolate(x, size, mode="bilinear", align_corners=self.align_corners) for x in coarser]
        joined = torch.cat([finest, *upsampled], dim=1)
        return torch.cat([branch(joined) for branch in self.branches], dim=1)


class EncodingHead(nn.Module):
    """A 3x3 convolution, context encoding, dropout and a classifier of every cell; see `FastFCN` for the arguments.

    Attributes:
        presence: (B, channels) description of the picture -> (B, num_classes) logits: does it show the class.
    """

    def __init__(self, in_channels: int, num_classes: int, *, channels: int, dropout: float) -> None:
        super().__init__()
        self.reduce = ConvNormReLU(in_channels, channels)
        self.encoding = ContextEncoding(channels)
        self.presence = nn.Linear(channels, num_classes)
        self.dropout = nn.Dropout2d(dropout)
        self.classify = nn.Conv2d(channels, num_classes, 1)
        initialize_as_mmseg(self, self.classify)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, in_channels, h, w) -> logits (B, num_classes, h, w), description (B, channels)."""
        emphasized, description = self.encoding(self.reduce(x))
        return self.classify(self.dropout(emphasized)), description


class ContextEncoding(nn.Module):
    """Describes the picture by what its cells leave of learned code words, and emphasizes channels by that.

    Attributes:
        words: (K, channels) code words.
        sharpness: (K,) factors on squared distances, below 0: how fast a word loses hold of cells.
    """

    def __init__(self, channels: int, *, num_words: int = NUM_CODE_WORDS) -> None:
        super().__init__()
        self.project = ConvNormReLU(channels, channels, 1)
        bound = (num_words * channels) ** -0.5
        self.words = nn.Parameter(torch.empty(num_words, channels).uniform_(-bound, bound))
        self.sharpness = nn.Parameter(torch.empty(num_words).uniform_(-1, 0))
        self.norm = nn.BatchNorm1d(num_words)
        self.gate = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, channels, h, w) -> the same, and the description (B, channels)."""
        residuals = soft_residuals(self.project(x).flatten(2).mT, self.words, self.sharpness)
        description = F.relu(self.norm(residuals)).mean(dim=1)
        gates = self.gate(description).sigmoid()[:, :, None, None]
        return F.relu(x + x * gates), description


def soft_residuals(cells: Tensor, words: Tensor, sharpness: Tensor) -> Tensor:
    """What the cells leave of each code word: the sum of their differences, each by how much the word holds the cell.

    Args:
        cells: (B, N, D).
        words, sharpness: see `ContextEncoding`.

    Returns:
        (B, K, D), in fp32 at least: squared distances are too large numbers for less.
    """
    with torch.autocast(cells.device.type, enabled=False):
        dtype = torch.promote_types(cells.dtype, torch.float32)
        cells, words, sharpness = cells.to(dtype), words.to(dtype), sharpness.to(dtype)
        distances = cells.square().sum(dim=2, keepdim=True) - 2 * cells @ words.mT + words.square().sum(dim=1)
        hold = (sharpness * distances).softmax(dim=2)  # (B, N, K)
        return hold.mT @ cells - hold.sum(dim=1)[..., None] * words


def dilate_where_it_strides(body: nn.Module, dilations: Sequence[int]) -> None:
    """Dilates the last stages of a ResNet of bottlenecks that keep their strides; see `FastFCN`.

    Raises:
        ValueError: it is none.
    """
    for number, dilation in zip((3, 4), dilations, strict=True):
        for index, block in enumerate(getattr(body, f"layer{number}", [None])):
            if not hasattr(block, "conv3"):
                raise ValueError("Only ResNets of bottlenecks can be dilated where they stride; leave `dilations` out.")
            rate = dilation if index else max(1, dilation // 2)
            block.conv2.dilation = block.conv2.padding = (rate, rate)
