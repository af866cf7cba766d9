"""What training does with the size of a picture, as far as it decides which masks survive. Own work."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from trimask.data.fit import Fit, base_size
from trimask.types import DataError, Size


class Resolution(NamedTuple):
    """How a picture is scaled before it is cut.

    Attributes:
        size: (height, width) that is cut.
        fit: the base scale, see `trimask.data.fit`; with "native" nothing vanishes.
        short_side, max_long_side: bounds for fit="short_side".
    """

    size: Size
    fit: Fit = "short_side"
    short_side: int | None = None
    max_long_side: int | None = None

    def __str__(self) -> str:
        height, width = self.size
        if self.fit != "short_side":
            return f"{'within ' if self.fit == 'contain' else ''}{height}x{width}"
        bound = f", longer side at most {self.max_long_side}" if self.max_long_side else ""
        return f"shorter side {self.short_side or min(self.size)} px{bound}"

    def scaled(self, size: Size) -> Size:
        """(height, width) of a picture of this size before it is cut."""
        height, width = base_size(
            size, self.size, self.fit, short_side=self.short_side, max_long_side=self.max_long_side
        )
        return max(round(height), 1), max(round(width), 1)


def parse(text: str) -> Resolution:
    """ "512" is the length of the shorter side; "320x480" (height x width) is what a picture is stretched to."""
    found = re.fullmatch(r"(\d+)(?:[x,](\d+))?", text.strip())
    if found is None or "0" in found.groups():
        raise DataError(f"A size is the shorter side, such as 512, or height x width, such as 320x480; got {text!r}.")
    height, width = found.groups()
    if width is None:
        return Resolution((int(height), int(height)))
    return Resolution((int(height), int(width)), "stretch")


def from_config(config: dict[str, Any]) -> Resolution | None:
    """The resolution of a merged experiment: from the first transform that sets one, else from `model.inference`.

    Of several shorter sides, or a range, it is the largest: what vanishes there is never seen.
    """
    for transform in config.get("data", {}).get("augment") or []:
        arguments = transform.get("init_args", {})
        size, name = arguments.get("size"), transform.get("class_path", "").rpartition(".")[2]
        if size is None and {"height", "width"} <= arguments.keys():
            size = [arguments["height"], arguments["width"]]
        if size is None:
            continue
        default: Fit = "stretch" if name == "Resize" else "short_side" if name == "Warp" else "native"
        sides = arguments.get("short_side") or arguments.get("short_side_range")
        return Resolution(
            (size, size) if isinstance(size, int) else (int(size[0]), int(size[1])),
            arguments.get("fit", default),
            max(sides) if isinstance(sides, list | tuple) else sides,
            arguments.get("max_long_side"),
        )
    size = config.get("model", {}).get("init_args", {}).get("inference", {}).get("size")
    return Resolution((int(size[0]), int(size[1])), "stretch") if size else None
