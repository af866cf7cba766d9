"""Class lists in TOML files whose colors are exchanged against the palette that everybody draws with.

Source of the palette: cityscapesScripts, `helpers/labels.py` (19 train ids), which BDD100K and Mapillary's tools share.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from typing import Any

from trimask.data.doctor.case import Case
from trimask.data.doctor.check import Check
from trimask.data.doctor.findings import Finding, some

MAX_BYTES = 1 << 20
CITYSCAPES = {
    "road": "804080", "sidewalk": "f423e8", "building": "464646", "wall": "66669c", "fence": "be9999", "pole": "999999",
    "traffic light": "faaa1e", "traffic sign": "dcdc00", "vegetation": "6b8e23", "terrain": "98fb98", "sky": "4682b4",
    "person": "dc143c", "rider": "ff0000", "car": "00008e", "truck": "000046", "bus": "003c64", "train": "005064",
    "motorcycle": "0000e6", "bicycle": "770b20",
}  # fmt: skip


class Palettes(Check):
    def findings(self, case: Case) -> Iterator[Finding]:
        for file in case.tree.small(".toml", limit=MAX_BYTES) if case.tree else ():
            try:
                content = tomllib.loads(file.read_text(encoding="utf-8"))
            except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError):  # another program's file
                continue
            colors = dict(_colors(content))
            swapped = [
                (name, other)
                for name, color in colors.items()
                for other in colors
                if name < other and _swapped(colors, name, other)
            ]
            if swapped and case.tree:
                rows = [f"{one} is {colors[one]} and {other} is {colors[other]}" for one, other in swapped]
                yield Finding(
                    "palettes/swapped",
                    "warning",
                    f"{case.tree.relative(file)} exchanges the colors of two classes: {some(rows)}; in the Cityscapes palette "
                    "it is the reverse.",
                    "Masks that were drawn with this file need it to be read; all others need the usual palette.",
                    count=len(swapped),
                    where=case.tree.relative(file),
                    numbers={"pairs": [list(pair) for pair in swapped]},
                )


def _swapped(colors: dict[str, str], one: str, other: str) -> bool:
    usual = CITYSCAPES.get(one), CITYSCAPES.get(other)
    return None not in usual and (colors[other], colors[one]) == usual


def _colors(content: Any) -> Iterator[tuple[str, str]]:
    """(name, rrggbb) of every table with `name` and `color`, at any depth."""
    if isinstance(content, dict):
        color = content.get("color")
        if isinstance(content.get("name"), str) and isinstance(color, list) and len(color) == 3:
            yield content["name"], "".join(f"{int(part) & 255:02x}" for part in color)
        for member in content.values():
            yield from _colors(member)
    elif isinstance(content, list):
        for member in content:
            yield from _colors(member)
