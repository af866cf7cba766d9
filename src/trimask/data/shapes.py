"""Synthetic pictures with exact truth: four kinds of overlapping things over three kinds of textured stuff.

Color says nothing about the class: the tones of every region and of every thing are drawn at random for each picture, a
random light lies over all and every pixel is noisy. Stuff is told apart by its texture (stripes, checker, blobs),
things by their outline and marking (a plain circle, a square with bright dots, a triangle with dark dots, a star with
dark hatching): outlines alone take a small network many more pictures than a quick start has. Own work; nothing is
read from disk.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from torch.utils.data import Dataset

from trimask.data.segments import from_ids
from trimask.types import ClassSpec, Sample, Size

SPLITS = ("train", "val", "test")
STUFF = ("stripes", "checker", "blobs")
THINGS = ("circle", "square", "triangle", "star")
Picture = NDArray[np.float32]
_SUBPIXEL_BITS = 4  # cv2.fillPoly takes fixed-point corners


class Shapes(Dataset[Sample]):
    """As many pictures as asked for; each is a pure function of (seed, split, index).

    Stuff is one segment a class. A thing that others hide partly keeps its visible pixels, one that is hidden wholly is
    no segment. Every pixel is labelled.

    Args:
        split: "train", "val" or "test".
        length: number of pictures of "train".
        eval_length: number of pictures of "val" and of "test".
        size: (height, width) of every picture; at least 32 pixels a side.
        seed: of the whole set.
        num_things: least and largest number of things in a picture.
        radius: least and largest radius of a thing as a fraction of the shorter side.
        noise: standard deviation of the noise of each pixel and channel as a fraction of the full range.
    """

    offers = frozenset({"semantic", "instances", "panoptic"})

    def __init__(
        self,
        split: str = "train",
        *,
        length: int = 512,
        eval_length: int = 128,
        size: Size = (128, 128),
        seed: int = 0,
        num_things: tuple[int, int] = (2, 5),
        radius: tuple[float, float] = (0.09, 0.22),
        noise: float = 0.06,
    ) -> None:
        if split not in SPLITS:
            raise ValueError(f"Shapes has the splits {', '.join(SPLITS)}; got {split!r}.")
        if min(length, eval_length) < 1 or seed < 0 or min(size) < 32 or noise < 0:
            raise ValueError(
                f"`length` is at least 1, `seed` and `noise` at least 0, `size` at least 32 a side; "
                f"got {length}, {seed}, {noise} and {size}."
            )
        if not 0 <= num_things[0] <= num_things[1] <= 100 or not 0 < radius[0] <= radius[1] <= 0.5:
            raise ValueError(
                f"`num_things` is (least, largest) in 0..100, `radius` in 0..0.5; got {num_things} and {radius}."
            )
        self.split, self.length = split, length if split == "train" else eval_length
        self.size, self.seed = (int(size[0]), int(size[1])), seed
        self.num_things, self.radius, self.noise = num_things, radius, noise
        self.classes = ClassSpec(STUFF + THINGS, things=range(len(STUFF), len(STUFF + THINGS)))

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self.length:
            raise IndexError(f"Sample {index} of {self.length}.")
        random = np.random.default_rng([self.seed, SPLITS.index(self.split), index])
        canvas = np.empty((*self.size, 3), np.float32)
        ids = _paint_stuff(canvas, random)  # so far the id of a pixel is its stuff class
        labels = [*range(len(STUFF)), *self._paint_things(canvas, ids, random)]
        segments, rows = from_ids(ids, unlabelled=-1)
        return Sample(
            image=self._expose(canvas, random),
            segments=segments,
            labels=np.array(labels, np.int64)[rows],
            is_crowd=np.zeros(len(rows), np.bool_),
            name=f"{self.split}-{index:05d}",
        )

    def _paint_things(self, canvas: Picture, ids: NDArray[np.uint8], random: Generator) -> list[int]:
        """Draws things onto the canvas, each with an id of its own after the stuff's; answers their classes."""
        labels: list[int] = []
        for center, radius in self._places(random):
            kind = int(random.integers(len(THINGS)))
            turn = _rotation(random)
            fill = np.zeros(self.size, np.uint8)
            corners = center + radius * _outline(THINGS[kind]) @ turn.T
            cv2.fillPoly(fill, [np.rint(corners * 2**_SUBPIXEL_BITS).astype(np.int32)], 1, shift=_SUBPIXEL_BITS)
            y, x = np.nonzero(fill)
            offset = (np.stack([x, y], axis=1) - center) @ turn  # (P, 2) pixels in the thing's own axes
            marking = random.uniform(50, 70) * _marking(THINGS[kind], offset / (0.055 * min(self.size)))
            shade = offset[:, :1] / radius * random.uniform(-25, 25, 3)
            canvas[y, x] = random.uniform(60, 195, 3) + shade + marking[:, None]
            ids[y, x] = len(STUFF) + len(labels)
            labels.append(len(STUFF) + kind)
        return labels

    def _places(self, random: Generator) -> list[tuple[NDArray[np.float64], float]]:
        """(center xy, radius) of each thing. Things may overlap, but not so far that the lower one loses its form."""
        height, width = self.size
        places: list[tuple[NDArray[np.float64], float]] = []
        for _ in range(int(random.integers(self.num_things[0], self.num_things[1] + 1))):
            for _attempt in range(20):
                radius = random.uniform(*self.radius) * min(self.size)
                center = random.uniform(0.6 * radius, np.array([width, height]) - 0.6 * radius)
                if all(np.hypot(*(center - other)) > 0.75 * (radius + r) for other, r in places):
                    places.append((center, radius))
                    break
        return places

    def _expose(self, canvas: Picture, random: Generator) -> NDArray[np.uint8]:
        """Light that falls off to one side, then noise."""
        light = 1 + random.uniform(0, 0.35) * _ramp(self.size, random)
        noise = random.standard_normal(canvas.shape, np.float32) * np.float32(self.noise * 255)
        return np.clip(canvas * light[..., None] + noise, 0, 255).astype(np.uint8)


def _paint_stuff(canvas: Picture, random: Generator) -> NDArray[np.uint8]:
    """Two or three bands, parted by wavy lines, each with a texture of its own; answers the class of each pixel."""
    height, width = canvas.shape[:2]
    num_bands = int(random.integers(2, 4))
    wave = 0.2 * np.sin(random.uniform(3, 6) * _ramp((height, width), random) + random.uniform(0, 2 * np.pi))
    position = _ramp((height, width), random) + wave  # about -1..1 across the picture
    cuts = np.quantile(position[::8, ::8], np.arange(1, num_bands) / num_bands + random.uniform(-0.1, 0.1))
    kinds = random.permutation(len(STUFF))[:num_bands].astype(np.uint8)
    classes = kinds[np.digitize(position, cuts)]
    for kind in kinds:
        region = classes == kind
        canvas[region] = _two_tones(random)[_texture(STUFF[kind], (height, width), random)[region].view(np.uint8)]
    return classes


def _two_tones(random: Generator) -> Picture:
    """(2, 3) RGB, apart in every channel."""
    middle, contrast = random.uniform(70, 185, 3), random.uniform(25, 55, 3) * random.choice([-1, 1], 3)
    return np.stack([middle - contrast, middle + contrast]).astype(np.float32)


def _texture(kind: str, size: Size, random: Generator) -> NDArray[np.bool_]:
    """(H, W) a pattern of two tones; its grain is a share of the picture, but never finer than three pixels."""
    cell = max(3.0, random.uniform(0.028, 0.045) * min(size))
    if kind == "blobs":
        coarse = random.standard_normal((int(size[0] / cell) + 2, int(size[1] / cell) + 2), np.float32)
        return cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC) > 0
    along, across = _turned_grid(size, random)
    stripes = np.floor(along / cell) % 2 == 0
    return stripes if kind == "stripes" else stripes ^ (np.floor(across / cell) % 2 == 0)


def _turned_grid(size: Size, random: Generator) -> tuple[Picture, Picture]:
    """Two perpendicular coordinates in pixels from the picture's center, turned and shifted at random."""
    (height, width), angle, shift = size, random.uniform(0, 2 * np.pi), random.uniform(0, 16, 2)
    y = np.arange(height, dtype=np.float32)[:, None] - height / 2
    x = np.arange(width, dtype=np.float32)[None] - width / 2
    cosine, sine = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return x * cosine + y * sine + np.float32(shift[0]), y * cosine - x * sine + np.float32(shift[1])


def _ramp(size: Size, random: Generator) -> Picture:
    """(H, W) about -1..1 from one side of the picture to the other, in a random direction."""
    return _turned_grid(size, random)[0] / np.float32(max(size) / 2)


def _marking(kind: str, offset: NDArray[np.float64]) -> NDArray[np.float64]:
    """(P,) brightness -1, 0 or 1 at (P, 2) positions, in periods of the pattern."""
    waves = np.cos(2 * np.pi * offset)
    marked = (waves > 0.8).any(axis=1) if kind == "star" else waves.prod(axis=1) > 0.45
    return np.where(marked, {"circle": 0.0, "square": 1.0, "triangle": -1.0, "star": -1.0}[kind], 0.0)


def _outline(kind: str) -> NDArray[np.float64]:
    """(P, 2) corners in the unit circle."""
    num_corners = {"circle": 40, "square": 4, "triangle": 3, "star": 10}[kind]
    angles = np.arange(num_corners) * 2 * np.pi / num_corners
    reach = np.where(np.arange(num_corners) % 2, 0.42, 1.0) if kind == "star" else np.ones(num_corners)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1) * reach[:, None]


def _rotation(random: Generator) -> NDArray[np.float64]:
    angle = random.uniform(0, 2 * np.pi)
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
