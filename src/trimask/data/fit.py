"""The base scale of a picture: how large it is before random factors change it and a window is cut. Own work."""

from __future__ import annotations

from typing import Literal

from trimask.types import Size

Fit = Literal["native", "short_side", "stretch", "contain"]


def base_size(
    picture: Size, window: Size, fit: Fit, *, short_side: int | None = None, max_long_side: int | None = None
) -> tuple[float, float]:
    """Height and width of a picture at its base scale, not rounded.

    Args:
        picture: its (height, width).
        window: (height, width) that is cut from it later.
        fit: "native" keeps the picture's own pixels; "short_side" makes its shorter side `short_side` long (by default that
            of the window), but its longer side at most `max_long_side`; "stretch" maps the whole picture onto the window,
            aspect not kept; "contain" makes it as large as fits into the window.
    """
    if fit == "stretch":
        return window
    if fit == "native":
        factor = 1.0
    elif fit == "contain":
        factor = min(window[0] / picture[0], window[1] / picture[1])
    else:
        factor = (short_side or min(window)) / min(picture)
        if max_long_side:
            factor = min(factor, max_long_side / max(picture))
    return picture[0] * factor, picture[1] * factor
