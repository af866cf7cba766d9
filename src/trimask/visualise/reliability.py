"""A reliability diagram: how often answers are right, against how certain they are. Own work, after C. Guo et al., 2017."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from trimask.visualise.draw import Picture

Numbers = NDArray[np.float64]

SIDE, LEFT, TOP, STRIP = (
    320,
    46,
    30,
    56,
)  # pixels: of the square, around it, and of what shows how many answers a bin holds
PAPER, INK, BAR, GAP, LINE = (255, 255, 255), (30, 30, 30), (66, 121, 189), (222, 120, 98), (150, 150, 150)


def reliability_diagram(share: Numbers, confidence: Numbers, right: Numbers, title: str) -> Picture:
    """(H, W, 3). A perfect network's bars end where their mean confidence is, on the diagonal; what is between is red.

    Args: share, confidence, right: (B,) of each bin: share of all answers, their mean confidence, share that is right.
    """
    canvas = Image.new("RGB", (LEFT + SIDE + 16, TOP + SIDE + STRIP + 44), PAPER)
    draw, font, width = ImageDraw.Draw(canvas), ImageFont.load_default(12), SIDE / len(share)
    bottom = TOP + SIDE
    bins = zip(share.tolist(), confidence.tolist(), right.tolist(), strict=True)
    for index, (held, certain, ratio) in enumerate(bins):
        left, end = LEFT + index * width, LEFT + (index + 1) * width - 1
        if held > 0:
            low, high = sorted((ratio, certain))
            draw.rectangle((left, bottom - ratio * SIDE, end, bottom), fill=BAR)
            draw.rectangle((left, bottom - high * SIDE, end, bottom - low * SIDE), fill=GAP)
        foot = bottom + 8 + STRIP
        draw.rectangle((left, foot - held / max(share.max(), 1e-12) * STRIP, end, foot), fill=LINE)
    draw.line((LEFT, bottom, LEFT + SIDE, TOP), fill=INK)
    draw.rectangle((LEFT, TOP, LEFT + SIDE, bottom), outline=LINE)
    for part in (0, 0.5, 1):
        draw.text((LEFT - 8, bottom - part * SIDE), f"{part:g}", INK, font, anchor="rm")
        draw.text((LEFT + part * SIDE, bottom + STRIP + 18), f"{part:g}", INK, font, anchor="mm")
    draw.text((LEFT, TOP - 10), title, INK, font, anchor="ls")
    draw.text(
        (LEFT + SIDE / 2, bottom + STRIP + 34), "confidence; below: how many answers have it", INK, font, anchor="mm"
    )
    return np.asarray(canvas)
