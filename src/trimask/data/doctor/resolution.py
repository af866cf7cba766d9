"""What training does with the size of a picture, as far as it decides which masks survive. Own work."""

from __future__ import annotations

import re
from typing import Any, Literal, NamedTuple

from trimask.types import DataError, Size


class Resolution(NamedTuple):
    """How a picture is scaled before it is cut.

    Attributes:
        size: (height, width) of the result.
        fit: "stretch" maps the picture onto `size`; "short_side" makes its shorter side as long as that of `size`;
            "native" keeps its pixels, so that nothing vanishes.
    """

    size: Size
    fit: Literal["stretch", "short_side", "native"] = "short_side"

    def __str__(self) -> str:
        height, width = self.size
        return f"shorter side {min(self.size)} px" if self.fit == "short_side" else f"{height}x{width}"

    def scaled(self, size: Size) -> Size:
        """(height, width) of a picture of this size before it is cut."""
        if self.fit == "native":
            return size
        if self.fit == "stretch":
            return self.size
        factor = min(self.size) / min(size)
        return max(round(size[0] * factor), 1), max(round(size[1] * factor), 1)


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
    """The resolution of a merged experiment: from the first transform that sets one, else from `model.inference`."""
    for transform in config.get("data", {}).get("augment") or []:
        arguments = transform.get("init_args", {})
        size, name = arguments.get("size"), transform.get("class_path", "").rpartition(".")[2]
        if size is None and {"height", "width"} <= arguments.keys():
            size = [arguments["height"], arguments["width"]]
        if size is None:
            continue
        size = (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
        default = "stretch" if name == "Resize" else "short_side" if name == "Warp" else "native"
        return Resolution(size, arguments.get("fit", default))
    size = config.get("model", {}).get("init_args", {}).get("inference", {}).get("size")
    return Resolution((int(size[0]), int(size[1])), "stretch") if size else None
