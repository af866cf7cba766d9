"""Pictures without a mask and masks without a picture, judged by names alone: for folders that no dataset reads whole.

Two folders belong together if the names in one are those in the other, but for a fixed beginning and end (`x.jpg` and
`drivable_x_mask.png`). What a dataset pairs by itself is not looked at again.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator
from itertools import combinations
from typing import NamedTuple

from trimask.data.doctor.case import Case
from trimask.data.doctor.check import Check
from trimask.data.doctor.findings import MAX_EXAMPLES, Example, Finding, Where, number_of, some

TRIED = 40  # names of a folder that are tried to find out how the other folder writes them
MAX_FOLDERS = 60
MASK_WORDS = re.compile(
    r"mask|label|annot|ground|truth|(?<![a-z])gt|seg|color|instance|panoptic|semantic|target|object|class|drivable",
    re.I,
)


class FolderPair(NamedTuple):
    """Attributes: images, masks: folders; image_stems, mask_stems: the name they share -> the file's own name."""

    images: str
    masks: str
    image_names: dict[str, str]
    mask_names: dict[str, str]


class Pairs(Check):
    def findings(self, case: Case) -> Iterator[Finding]:
        if case.tree is None:
            return
        unread = {os.path.dirname(path) for path in case.unread}
        folders = {folder: names for folder, names in case.tree.picture_folders.items() if len(names) <= 200_000}
        for pair in folder_pairs(folders):
            if {pair.images, pair.masks} & unread:
                yield from _unpaired(pair, case)


def _unpaired(pair: FolderPair, case: Case) -> Iterator[Finding]:
    assert case.tree is not None
    here = f"{case.tree.relative(pair.images)} and {case.tree.relative(pair.masks)}"
    for own, other, folder, what in (
        (pair.image_names, pair.mask_names, pair.images, "picture"),
        (pair.mask_names, pair.image_names, pair.masks, "mask"),
    ):
        alone = [name for key, name in own.items() if key not in other]
        if not alone:
            continue
        lacks = "mask" if what == "picture" else "picture"
        partly = len(alone) > len(own) / 2
        yield Finding(
            f"pairs/{what}-without-{lacks}",
            "note" if partly else "warning",
            f"{number_of(len(alone), what)} in {case.tree.relative(folder)} without a {lacks} of the same name in "
            f"{case.tree.relative(pair.masks if what == 'picture' else pair.images)}: {some(alone)}.",
            "Only some of the pictures seem to be annotated in this way." if partly else
            f"Add the {lacks}, remove the {what}, or leave it out by a list of names.",
            count=len(alone),
            of=len(own),
            where=here,
            examples=tuple(
                Example(Where("", -1, name, (os.path.join(folder, name),))) for name in alone[:MAX_EXAMPLES]
            ),
        )  # fmt: skip


def folder_pairs(folders: dict[str, list[str]]) -> Iterator[FolderPair]:
    """Folders of pictures with the folder of their masks; each mask folder once, with the folder that fits best."""
    stems = {folder: {os.path.splitext(name)[0]: name for name in names} for folder, names in folders.items()}
    fits: dict[str, tuple[int, FolderPair]] = {}
    for one, other in combinations(list(stems)[:MAX_FOLDERS], 2):
        if (which := _masks_of(one, other, folders)) is None:
            continue
        images, masks = (other, one) if which == one else (one, other)
        fit = _fit(stems[images], stems[masks])
        if fit is None:
            continue
        beginning, end = fit
        keyed = {
            stem[len(beginning) : len(stem) - len(end)]: name
            for stem, name in stems[masks].items()
            if stem.startswith(beginning) and stem.endswith(end) and len(stem) > len(beginning) + len(end)
        }
        matched = len(keyed.keys() & stems[images].keys())
        if matched * 2 >= min(len(keyed), len(stems[images])) and matched > fits.get(masks, (0, None))[0]:
            fits[masks] = matched, FolderPair(images, masks, stems[images], keyed)
    yield from (pair for _, pair in fits.values())


def _masks_of(one: str, other: str, folders: dict[str, list[str]]) -> str | None:
    """Which of two folders holds masks: by the words in which their paths differ, else the one of PNGs beside one of JPEGs.
    None if neither tells."""
    common = len(os.path.commonpath([one, other]))
    words = [len(MASK_WORDS.findall(path[common:])) for path in (one, other)]
    if words[0] != words[1]:
        return one if words[0] > words[1] else other
    kinds = [{os.path.splitext(name)[1].lower() for name in folders[path]} for path in (one, other)]
    for masks, images, path in ((kinds[0], kinds[1], one), (kinds[1], kinds[0], other)):
        if masks == {".png"} and images <= {".jpg", ".jpeg"}:
            return path
    return None


def _fit(images: dict[str, str], masks: dict[str, str]) -> tuple[str, str] | None:
    """What the names of masks begin and end with besides those of pictures; None if they have nothing in common."""
    if images.keys() & masks.keys():
        return "", ""
    found: Counter[tuple[str, str]] = Counter()
    for stem in list(images)[:TRIED]:
        if len(stem) < 3:  # "1" is in every name
            continue
        for mask in masks:
            place = mask.find(stem)
            if place >= 0:
                found[mask[:place], mask[place + len(stem) :]] += 1
    return found.most_common(1)[0][0] if found else None
