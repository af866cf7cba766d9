"""How pixels are stored: palettes, alpha, 16 bits, grey pictures among color ones, and masks saved as JPEG."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np

from trimask.data.doctor.case import Case
from trimask.data.doctor.check import Check
from trimask.data.doctor.findings import Finding, Gathered, Where, counted, number_of, some
from trimask.data.doctor.subject import File, Subject, count_values

FEW_VALUES = 64  # a grey JPEG with fewer distinct values was a mask before it was compressed
FEW_COLORS = 16  # of a mask, that are kept for comparison
_GREY_MODES = ("1", "L", "I;16", "I", "LA")


class Modes(Check):
    def __init__(self) -> None:
        self.pictures: Counter[str] = Counter()
        self.masks: dict[str, Gathered] = {}
        self.colors: dict[str, set[str]] = {}
        self.grey, self.grey_as_rgb, self.deep, self.alpha = Gathered(), Gathered(), Gathered(), Gathered()
        self.jpeg: dict[bool, Gathered] = {True: Gathered(), False: Gathered()}

    def measure(self, subject: Subject) -> Any:
        if not subject.files or (header := subject.files[0].header) is None:
            return None
        picture, *annotations = subject.files
        masks = [picture] if picture.role == "alone" else [file for file in annotations if file.header]
        return (
            header.mode if picture.role == "picture" else None,
            header.mode.startswith("RGB") and _is_grey(subject.picture),
            [_about(file, subject) for file in masks],
        )

    def collect(self, where: Where, measured: Any) -> None:
        mode, grey_as_rgb, masks = measured
        if mode is not None:
            self.pictures[mode] += 1
            if mode in _GREY_MODES:
                self.grey.add(where, mode)
            if grey_as_rgb:
                self.grey_as_rgb.add(where, "three equal channels")
            if "16" in mode:
                self.deep.add(where, mode)
            if mode in ("RGBA", "LA", "PA"):
                self.alpha.add(where, mode)
        for mask_mode, num_values, colors in masks:
            if num_values is not None:
                self.jpeg[bool(where.split)].add(where, f"{num_values} distinct values")
            if where.split:
                self.masks.setdefault(mask_mode, Gathered()).add(where, mask_mode)
                self.colors.setdefault(mask_mode, set()).update(colors)

    def findings(self, case: Case) -> Iterator[Finding]:
        total = sum(self.pictures.values())
        for gathered, kind, verb, what, fix in (
            (self.grey, "grey", "are", "grey among color ones", "They become three equal channels; color augmentation does not "
             "make them colored. `albumentations.ToGray` with a small p prepares a network for them."),
            (self.grey_as_rgb, "grey-as-rgb", "are", "grey but stored as RGB", "Nothing needs to be done."),
            (self.deep, "deep", "have", "16 bits a channel", "They are scaled to 8 bits (value / 257). If their range is much "
             "narrower than 16 bits, stretch and convert them first."),
            (self.alpha, "alpha", "have", "an alpha channel", "It is dropped. Make sure that nothing is meant to be "
             "transparent."),
        ):  # fmt: skip
            if gathered and (gathered.count < total or kind != "grey"):
                yield gathered.finding(
                    f"modes/{kind}", "note", f"{counted(gathered.count, 'picture', verb)} {what}.", fix, of=total
                )
        yield from self._mixed_masks()
        for needed, gathered in self.jpeg.items():
            if gathered:
                yield gathered.finding(
                    "modes/mask-jpeg" if needed else "modes/mask-jpeg-alone",
                    "warning",
                    f"{number_of(gathered.count, 'mask')} saved as JPEG: compression has blurred the values "
                    f"({gathered.examples[0].detail} in the first).",
                    "Make them again from their source and save them as PNG. If there is no source, round every value to "
                    "the nearest that is meant.",
                )

    def _mixed_masks(self) -> Iterator[Finding]:
        """Masks are stored in more than one way: the rarer ways are named, with their colors if those differ too."""
        if len(self.masks) < 2:
            return
        usual = max(self.masks, key=lambda mode: self.masks[mode].count)
        for mode, gathered in self.masks.items():
            if mode == usual or ({mode, usual} <= {"L", "P", "1"} and gathered.count > self.masks[usual].count / 2):
                continue
            own, others = self.colors[mode] - {"000000"}, self.colors[usual] - {"000000"}
            apart = bool(own and others and not own & others)
            colors = (
                f" Their colors differ, too: {some(sorted(own))} instead of {some(sorted(others))}." if apart else ""
            )
            yield gathered.finding(
                "modes/masks-mixed",
                "warning" if apart else "note",
                f"{number_of(gathered.count, 'mask')} stored as {mode}, {self.masks[usual].count:,} as {usual}.{colors}",
                "The dataset must know every way in which its masks are stored; look at the examples, with the colors "
                "laid over the picture.",
                of=sum(one.count for one in self.masks.values()),
                numbers={"modes": {name: one.count for name, one in self.masks.items()}, "colors": sorted(own)},
            )


def _about(file: File, subject: Subject) -> tuple[str, int | None, list[str]]:
    """A mask's mode; the number of its values if JPEG has blurred them; a few of its colors. It is decoded only for these."""
    header = file.header
    assert header is not None
    if header.format == "JPEG":
        counts = _grey_values(file)
        is_mask = file.role == "annotation" or 2 <= len(counts) < FEW_VALUES
        return header.mode, len(counts) if is_mask else None, []
    if file.role == "alone" or not header.mode.startswith("RGB") or file.pixels is None or file.pixels.ndim != 3:
        return header.mode, None, []
    counts = subject.values if file is subject.mask else count_values(file.pixels)
    return header.mode, None, [f"{color:06x}" for color in list(counts)[:FEW_COLORS]]


def _grey_values(file: File) -> dict[int, int]:
    """The values of a JPEG; of one in color only if it is grey all the same, or has to be a mask."""
    pixels = file.pixels
    if pixels is None:
        return {}
    if pixels.ndim == 3:
        if file.role == "alone" and not _is_grey(pixels):
            return {}
        pixels = pixels[..., 0] if _is_grey(pixels) else pixels
    return count_values(pixels)


def _is_grey(picture: Any) -> bool:
    if picture is None or picture.ndim != 3 or picture.shape[2] < 3:
        return False
    for pixels in (picture[::16, ::16], picture):
        if not (np.array_equal(pixels[..., 0], pixels[..., 1]) and np.array_equal(pixels[..., 0], pixels[..., 2])):
            return False
    return True
