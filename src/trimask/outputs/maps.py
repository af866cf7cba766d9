"""Cutting maps of padded pictures."""

from __future__ import annotations

from torch import Tensor

from trimask.types import Size


def cut_maps(maps: Tensor, inner: Size, outer: Size) -> Tensor:
    """(B, C, h, w) maps of `outer` pixels -> those of the `inner` pixels in the upper left.

    Raises:
        ValueError: a cell lies on the border of the two.
    """
    height, width = (side * cells / whole for side, cells, whole in zip(inner, maps.shape[-2:], outer, strict=True))
    if height % 1 or width % 1:
        raise ValueError(
            f"Maps of {maps.shape[-2]} x {maps.shape[-1]} cells over {outer[0]} x {outer[1]} pixels cannot be cut at "
            f"{inner[0]} x {inner[1]}; set `inference.multiple_of` to the pixels of a cell."
        )
    return maps[..., : int(height), : int(width)]
