"""What boundary variants of AP and PQ have in common: the width of a boundary, as a part of the picture's diagonal.

Source: Cheng et al., "Boundary IoU: Improving Object-Centric Image Segmentation Evaluation", CVPR 2021, arXiv:2103.16562.
"""

from __future__ import annotations


def require_width(boundary: float | None) -> None:
    """Raises ValueError unless it is None, or lies between 0 and 1."""
    if boundary is not None and not 0 < boundary < 1:
        raise ValueError(f"`boundary` is a part of the picture's diagonal, e.g. 0.02; got {boundary}.")


def in_words(boundary: float | None, regions: str) -> str:
    """The sentence that a definition ends in; nothing without boundaries."""
    if boundary is None:
        return ""
    return f" IoU of {regions} or of their boundaries, {boundary:g} of the diagonal wide."
