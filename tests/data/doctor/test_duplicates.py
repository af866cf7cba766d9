"""Perceptual hashes: what they must bear, what they must tell apart, and how the search for pairs scales."""

import time

import cv2
import numpy as np
import pytest

from trimask.data.doctor import Where
from trimask.data.doctor.checks.duplicates import Fingerprint, dhash, near_pairs, phash


def picture(seed, size=(240, 320)):
    coarse = np.random.default_rng(seed).integers(0, 256, (7, 9)).astype(np.uint8)
    return cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC)


def printed(name, grey, exact=None):
    reduced = cv2.resize(grey, (32, 32), interpolation=cv2.INTER_AREA)
    small = cv2.resize(grey, (16, 16), interpolation=cv2.INTER_AREA)
    exact = grey.tobytes() if exact is None else exact
    return Fingerprint(Where("train", 0, name, (name,)), exact, b"", phash(reduced), dhash(grey), small.tobytes())


def differ(one, other):
    return bin(one ^ other).count("1")


@pytest.mark.parametrize(
    "change",
    [
        lambda p: cv2.resize(p, (160, 120), interpolation=cv2.INTER_AREA),
        lambda p: cv2.resize(p, (400, 300), interpolation=cv2.INTER_CUBIC),
        lambda p: cv2.imdecode(cv2.imencode(".jpg", p, [cv2.IMWRITE_JPEG_QUALITY, 40])[1], cv2.IMREAD_GRAYSCALE),
        lambda p: np.clip(p.astype(int) + 12, 0, 255).astype(np.uint8),
        lambda p: cv2.GaussianBlur(p, (5, 5), 1),
    ],
    ids=["smaller", "larger", "compressed", "brighter", "blurred"],
)
def test_the_same_picture_after_a_change(change):
    found = [near_pairs([printed("a", picture(seed)), printed("b", change(picture(seed)))]) for seed in range(30)]
    assert sum(map(len, found)) >= 28


def test_other_pictures_are_not_near():
    assert near_pairs([printed(str(seed), picture(seed)) for seed in range(400)]) == []


def test_hashes_of_a_ramp():
    ramp = np.tile(np.arange(0, 256, 256 / 320).astype(np.uint8), (240, 1))
    assert dhash(ramp) == 2**64 - 1
    assert dhash(np.ascontiguousarray(ramp[:, ::-1])) == 0
    reduced = cv2.resize(picture(1), (32, 32), interpolation=cv2.INTER_AREA)
    assert differ(phash(reduced), phash(np.clip(reduced.astype(int) + 5, 0, 255).astype(np.uint8))) <= 2


def test_equal_pictures_are_no_near_ones():
    assert near_pairs([printed("a", picture(1)), printed("b", picture(1))]) == []


def test_many_pictures_take_seconds():
    random = np.random.default_rng(0)
    hashes = random.integers(0, 2**63, (40_000, 2), dtype=np.int64)
    small = random.integers(0, 256, (40_000, 256)).astype(np.uint8)
    prints = [
        Fingerprint(
            Where("train", i, str(i), (str(i),)), bytes([i % 251, i // 251]), b"", int(p), int(d), small[i].tobytes()
        )
        for i, (p, d) in enumerate(hashes)
    ]
    twin = prints[7]._replace(
        exact=b"other", perceptual=prints[7].perceptual ^ 0b1001, where=Where("val", 0, "twin", ("twin",))
    )
    begin = time.monotonic()
    assert [(one.where.name, other.where.name) for one, other in near_pairs([*prints, twin])] == [("7", "twin")]
    assert time.monotonic() - begin < 60


def test_a_thousand_pictures_of_one_color_cost_nothing():
    flat = [
        printed(str(i), np.full((50, 50), 9, np.uint8), exact=bytes([i % 250]))._replace(small=b"") for i in range(1000)
    ]
    assert near_pairs(flat) == []
