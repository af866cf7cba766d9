"""Pictures that occur more than once: exactly, by a hash of their decoded pixels, or nearly, by two perceptual hashes.

The perceptual hashes are the usual two, written from their descriptions: dHash compares neighbors in a 9 x 8 reduction, pHash
the low frequencies of a 32 x 32 one with their median. A pair counts as near if both agree within a few bits and the pictures,
reduced to 16 x 16, correlate. Candidates are found by bands of bits (pigeonhole), so the cost stays far below all pairs.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from trimask.data.doctor.case import Case
from trimask.data.doctor.check import Check
from trimask.data.doctor.findings import MAX_EXAMPLES, Example, Finding, Where, agreeing, split_names
from trimask.data.doctor.subject import Subject

PHASH_BITS, DHASH_BITS = 4, 6  # of 64, that may differ
CORRELATION = 0.985  # of the 16 x 16 reductions
FLAT = 6.0  # standard deviation below which a picture has too little structure for a perceptual hash
MAX_BUCKET = 512  # pictures that share a band; more are no sign of anything


class Fingerprint(NamedTuple):
    """Attributes: where; exact: hash of the pixels; truth: hash of the annotation, or b""; then what is None for flat pictures:
    the two hashes of 64 bits and the (16, 16) reduction."""

    where: Where
    exact: bytes
    truth: bytes
    perceptual: int
    gradient: int
    small: bytes


class Duplicates(Check):
    """Keeps some 400 bytes a picture."""

    def __init__(self) -> None:
        self.prints: list[Fingerprint] = []

    def measure(self, subject: Subject) -> Any:
        if subject.picture is None or not subject.files:
            return None
        return fingerprint(subject)

    def collect(self, where: Where, measured: Any) -> None:
        self.prints.append(Fingerprint(where, *measured))

    def findings(self, case: Case) -> Iterator[Finding]:
        yield from self._exact()
        yield from self._near()

    def _exact(self) -> Iterator[Finding]:
        groups = [group for group in _grouped(self.prints) if len(group) > 1]
        across = [group for group in groups if len({one.where.split for one in group}) > 1]
        inside = [group for group in groups if len({one.where.split for one in group}) == 1]
        differ = [group for group in groups if len({one.truth for one in group if one.truth}) > 1]
        if across:
            yield _finding(
                "duplicates/across-splits",
                "error",
                across,
                "picture(s) are in more than one split, pixel by pixel: what is evaluated has been trained on.",
                "Remove them from all splits but one, best from train.",
            )
        if inside:
            yield _finding(
                "duplicates/inside-split",
                "warning",
                inside,
                "picture(s) are in one split more than once, pixel by pixel.",
                "Keep one of each.",
            )
        if differ:
            yield _finding(
                "duplicates/different-truth",
                "warning",
                differ,
                "picture(s) occur more than once with different annotations.",
                "Keep the better annotation of each: the other teaches the opposite.",
            )

    def _near(self) -> Iterator[Finding]:
        across: list[tuple[Fingerprint, Fingerprint]] = []
        inside: list[tuple[Fingerprint, Fingerprint]] = []
        for one, other in near_pairs(self.prints):
            (across if one.where.split != other.where.split else inside).append((one, other))
        if across:
            yield _finding(
                "duplicates/near-across-splits",
                "warning",
                across,
                "pair(s) of pictures in different splits that look alike: one compressed or scaled again, or frames of a video.",
                "Look at the examples. Divide videos and bursts as a whole, not frame by frame.",
            )
        if inside:
            yield _finding(
                "duplicates/near-inside-split",
                "note",
                inside,
                "pair(s) of pictures of one split that look alike: copies, or frames of one video.",
                "Nothing needs to be done for frames of a video; remove copies.",
            )

    def between(self, others: Mapping[str, Check]) -> Iterator[Finding]:
        titles = {id(one): title for title, check in others.items() for one in _prints(check)}
        every = [one for check in others.values() for one in _prints(check)]
        pairs = [(group[0], one) for group in _grouped(every) for one in group[1:]] + near_pairs(every)
        found: dict[tuple[str, str], list[tuple[Fingerprint, Fingerprint]]] = defaultdict(list)
        for one, other in pairs:
            names = titles[id(one)], titles[id(other)]
            if names[0] != names[1] and one.where.files[0] != other.where.files[0]:
                found[names].append((one, other))
        for names, group in found.items():
            yield _finding(
                "duplicates/between-sets",
                "note",
                group,
                f"pair(s) of pictures shared by {names[0]} and {names[1]}, or so alike that they may be one.",
                "Do not train on one of the two sets and evaluate on the other with these pictures.",
            )


def _prints(check: Check) -> list[Fingerprint]:
    assert isinstance(check, Duplicates)
    return check.prints


def _finding(code: str, severity: Any, groups: list[Any], what: str, fix: str) -> Finding:
    examples = [example for group in groups[: MAX_EXAMPLES // 2] for example in _both(group)]
    return Finding(
        code,
        severity,
        agreeing(len(groups), what),
        fix,
        count=len(groups),
        where=split_names({p.where.split for group in groups for p in group}),
        examples=tuple(examples),
        numbers={"groups": [[p.where.name for p in group] for group in groups[:100]]},
    )


def _both(group: Any) -> Iterator[Example]:
    """The first two of a group, side by side."""
    how = "is the same as" if group[0].exact == group[1].exact else "looks like"
    yield Example(group[0].where, how if len(group) == 2 else f"{how} {len(group) - 1} others, such as")
    yield Example(group[1].where, "this one")


def fingerprint(subject: Subject) -> tuple[bytes, bytes, int, int, bytes]:
    """The fields of a `Fingerprint` after `where`."""
    picture = np.ascontiguousarray(subject.picture)
    exact = hashlib.blake2b(picture.ravel().data, digest_size=16, salt=str(picture.shape).encode()[:16]).digest()
    truth = b""
    if subject.sample is not None:
        sample = subject.sample
        table = np.concatenate([[-1], sample.labels]).astype(np.int32)
        truth = hashlib.blake2b(table[sample.segments].ravel().data, digest_size=8).digest()
    grey = cv2.cvtColor(picture[..., :3], cv2.COLOR_RGB2GRAY) if picture.shape[2] >= 3 else picture[..., 0]
    middle = _reduced(np.ascontiguousarray(grey), 288, 256)  # of which all sizes below are whole fractions
    reduced = _reduced(middle, 32, 32)
    if reduced.std() < FLAT:
        return exact, truth, 0, 0, b""
    return exact, truth, phash(reduced), dhash(middle), _reduced(middle, 16, 16).tobytes()


def _reduced(grey: NDArray[Any], width: int, height: int) -> NDArray[np.uint8]:
    return np.asarray(cv2.resize(grey, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def phash(reduced: NDArray[Any]) -> int:
    """(32, 32) grey -> 64 bits: which of the 8 x 8 lowest frequencies exceed their median. The mean takes no part in it."""
    low = cv2.dct(reduced.astype(np.float32))[:8, :8].ravel()
    return _number(low > np.median(low[1:]))


def dhash(grey: NDArray[Any]) -> int:
    """(H, W) grey -> 64 bits: whether each cell of a 9 x 8 reduction is darker than its right neighbor."""
    cells = _reduced(grey, 9, 8).astype(np.int16)
    return _number((cells[:, 1:] > cells[:, :-1]).ravel())


def _number(bits: NDArray[np.bool_]) -> int:
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def _grouped(prints: list[Fingerprint]) -> list[list[Fingerprint]]:
    """Pictures with the same pixels, in different files."""
    groups: dict[bytes, dict[str, Fingerprint]] = defaultdict(dict)
    for one in prints:
        groups[one.exact].setdefault(one.where.files[0] + one.where.split, one)
    return [list(group.values()) for group in groups.values()]


def near_pairs(prints: list[Fingerprint]) -> list[tuple[Fingerprint, Fingerprint]]:
    """Pairs that look alike without being equal, each once."""
    usable = [one for one in prints if one.small]
    if len(usable) < 2:
        return []
    perceptual = np.array([one.perceptual for one in usable], np.uint64)
    gradient = np.array([one.gradient for one in usable], np.uint64)
    pairs = []
    for first, second in sorted(_candidates(perceptual)):
        if _distance(perceptual, first, second) > PHASH_BITS or _distance(gradient, first, second) > DHASH_BITS:
            continue
        one, other = usable[first], usable[second]
        if one.exact != other.exact and _correlation(one.small, other.small) >= CORRELATION:
            pairs.append((one, other))
    return pairs


def _candidates(hashes: NDArray[np.uint64]) -> set[tuple[int, int]]:
    """Pairs that agree in at least one of PHASH_BITS + 1 bands of bits: all that differ in PHASH_BITS or fewer are among them."""
    edges = np.linspace(0, 64, PHASH_BITS + 2).astype(int)
    found: set[tuple[int, int]] = set()
    for low, high in pairwise(edges):
        band = hashes >> np.uint64(low) & np.uint64((1 << int(high - low)) - 1)
        order = np.argsort(band, kind="stable")
        bounds = np.flatnonzero(np.diff(band[order])) + 1
        for bucket in np.split(order, bounds):
            if 1 < len(bucket) <= MAX_BUCKET:
                found.update(_close(hashes, np.sort(bucket)))
    return found


def _close(hashes: NDArray[np.uint64], bucket: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    differ = np.bitwise_count(hashes[bucket][:, None] ^ hashes[bucket][None])
    for row, column in np.argwhere(np.triu(differ <= PHASH_BITS, 1)):
        yield int(bucket[row]), int(bucket[column])


def _distance(hashes: NDArray[np.uint64], first: int, second: int) -> int:
    return int(np.bitwise_count(hashes[first] ^ hashes[second]))


def _correlation(one: bytes, other: bytes) -> float:
    a, b = (np.frombuffer(data, np.uint8).astype(np.float64) for data in (one, other))
    return float(np.corrcoef(a, b)[0, 1])
