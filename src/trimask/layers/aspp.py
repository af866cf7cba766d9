"""Atrous spatial pyramid pooling (ASPP): convolutions of several dilations and the picture's mean, side by side.

Sources: Chen et al., "Rethinking Atrous Convolution for Semantic Image Segmentation", 2017, arXiv:1706.05587; "Encoder-Decoder
with Atrous Separable Convolution", ECCV 2018, arXiv:1802.02611, for the separable form. The order of the branches is that of
torchvision (BSD-3) and segmentation_models_pytorch (MIT); mmsegmentation (Apache-2.0) has the picture's mean first.

**Deviations** in the computation, not in the answer: the picture's mean is a map of one cell and is not spread in front of the
last convolution (layers/joined_conv.py); separable convolutions run tap by tap on a CPU (layers/dilated_depthwise.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from trimask.layers.backbone_names import convert_mmseg
from trimask.layers.convs import ConvNormReLU, SeparableConvNormReLU, require_several_values
from trimask.layers.joined_conv import conv_over_joined


class ASPP(nn.Module):
    """A 1x1 convolution, one 3x3 convolution a rate and the picture's mean, joined and mixed.

    Args:
        in_channels: of the map.
        channels: of each branch and of the result.
        rates: dilations of the 3x3 convolutions.
        mix_kernel: side of the last convolution's kernel, 1 in the papers, 3 in mmseg.
        separable: depthwise separable 3x3 convolutions.
        inner_norm: see `SeparableConvNormReLU`.
        dropout: rate at which single values of the result are dropped.

    Raises:
        ValueError: mix_kernel is even.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        *,
        rates: Sequence[int],
        mix_kernel: int,
        dropout: float,
        separable: bool = False,
        inner_norm: bool = True,
    ) -> None:
        super().__init__()
        if mix_kernel % 2 == 0:
            raise ValueError(f"mix_kernel must be odd; got {mix_kernel}.")
        self.branches = nn.ModuleList([ConvNormReLU(in_channels, channels, 1)])
        for rate in rates:
            if separable:
                branch: nn.Module = SeparableConvNormReLU(in_channels, channels, dilation=rate, inner_norm=inner_norm)
            else:
                branch = ConvNormReLU(in_channels, channels, dilation=rate)
            self.branches.append(branch)
        self.image = ConvNormReLU(in_channels, channels, 1)
        self.mix = ConvNormReLU((len(self.branches) + 1) * channels, channels, mix_kernel)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, h, w) -> (B, channels, h, w)."""
        mean = x.mean(dim=(2, 3), keepdim=True)
        require_several_values(self.image, mean)
        joined = torch.cat([branch(x) for branch in self.branches], dim=1)
        mixed = conv_over_joined(joined, [self.image(mean)], self.mix.conv.weight)
        return self.dropout(self.mix.relu(self.mix.norm(mixed)))


def convert_mmseg_aspp(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """As `convert_mmseg`, and the columns of the mixing convolution in our order: the picture's mean behind the others."""
    mix, mean = "decode_head.bottleneck.conv.weight", "decode_head.image_pool.1.conv.weight"
    converted = convert_mmseg(weights)
    if mix in converted and mean in converted:  # else they are not mmseg's, as their names will tell
        converted[mix] = converted[mix].roll(-len(converted[mean]), dims=1)  # (D, D for the mean + D a branch, k, k)
    return converted
