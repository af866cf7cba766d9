"""Pictures of labels without the labels: a folder `colormaps` whose neighbors hold no masks of ids.

BDD100K's layout (doc.bdd100k.com): labels/<task>/{bitmasks or masks, colormaps, polygons, rles}. Colormaps show classes in color
for people; for ins_seg and pan_seg the instances cannot be told apart in them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from trimask.data.doctor.case import Case
from trimask.data.doctor.check import Check
from trimask.data.doctor.findings import Finding, number_of

INSTANCE_TASKS = ("ins_seg", "pan_seg", "seg_track")
IDS = ("bitmasks", "masks", "polygons", "rles")


class Colormaps(Check):
    def findings(self, case: Case) -> Iterator[Finding]:
        if case.tree is None:
            return
        roots: dict[str, int] = {}
        for folder, names in case.tree.picture_folders.items():
            parts = folder.split(os.sep)
            if "colormaps" in parts:
                root = os.sep.join(parts[: parts.index("colormaps")])
                roots[root] = roots.get(root, 0) + len(names)
        for root, count in roots.items():
            task = os.path.basename(root)
            if task in INSTANCE_TASKS and not any(os.path.isdir(os.path.join(root, name)) for name in IDS):
                yield Finding(
                    "colormaps/no-bitmask",
                    "note",
                    f"{case.tree.relative(root)} has {number_of(count, 'colormap')} but no bitmasks: colors show the classes, "
                    "not the instances.",
                    f"Fetch the bitmasks (or rles) of {task} for instance or panoptic truth.",
                    count=count,
                    where=case.tree.relative(root),
                )
