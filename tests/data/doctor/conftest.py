"""Small data sets to be broken in one way each, and how the tests ask what the doctor says of them."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trimask.data.doctor import Case, Tree, examine, open_case
from trimask.data.folder import Folder

CLASSES = {"names": ["ground", "house", "tree"], "values": {0: "ground", 1: "house", 2: "tree", 255: "ignore"}}


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("TRIMASK_CACHE", str(folder))
    return folder


@dataclass
class Made:
    """A data set of pictures and masks with a split by folder, as `Folder` reads it."""

    root: Path
    classes: dict = field(default_factory=lambda: dict(CLASSES))
    options: dict = field(default_factory=dict)

    def file(self, kind, name, split="train", suffix=".png"):
        return self.root / kind / split / f"{name}{suffix}"

    @staticmethod
    def textured(seed, size=(48, 64)):
        return textured(seed, size)

    @staticmethod
    def labelled(seed, size=(48, 64)):
        return labelled(seed, size)

    def picture(self, name, split="train"):
        return np.array(Image.open(self.file("images", name, split)))

    def mask(self, name, split="train"):
        return np.array(Image.open(self.file("masks", name, split)))

    def save(self, kind, name, pixels, split="train", suffix=".png", mode=None, **options):
        file = self.file(kind, name, split, suffix)
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels, mode).save(file, **options)
        return file

    def open(self, **options):
        def make(split):
            return Folder(
                split,
                root=self.root,
                images="images/{split}",
                masks="masks/{split}",
                classes=self.classes,
                **self.options,
            )

        tree = Tree(self.root.resolve())
        return open_case("made", make, reader="trimask.data.Folder", tree=tree, splits=("train", "val"), **options)

    def codes(self, **options):
        """What is found, as code -> finding."""
        return codes(self.open(**options))


def codes(case, **options):
    found = {}
    for finding in examine(case, workers=0, **options).findings:
        assert finding.code not in found, f"{finding.code} is said twice"
        found[finding.code] = finding
    return found


def textured(seed, size=(48, 64)):
    """(H, W, 3) a picture that resembles no other: smooth blobs of color."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (6, 8, 3)).astype(np.uint8)
    picture = np.array(Image.fromarray(coarse).resize(size[::-1], Image.Resampling.BICUBIC))
    return np.clip(picture.astype(int) + random.integers(-3, 4, (*size, 3)), 0, 255).astype(np.uint8)


def labelled(seed, size=(48, 64)):
    """(H, W) every class in blocks of at least 8 pixels a side."""
    mask = np.zeros(size, np.uint8)
    left, top = (int(n) for n in np.random.default_rng(seed).integers(0, 12, 2))
    mask[top : top + 20, left : left + 20] = 1
    mask[top + 14 : top + 34, left + 24 : left + 46] = 2
    return mask


@pytest.fixture
def clean(tmp_path):
    """Six training and three validation pictures with which everything is in order."""
    made = Made(tmp_path / "made")
    for split, numbers in (("train", range(6)), ("val", range(100, 103))):
        for number in numbers:
            made.save("images", f"frame_{number}", textured(number), split)
            made.save("masks", f"frame_{number}", labelled(number), split)
    return made


@pytest.fixture
def bare(tmp_path):
    """An empty folder, and the case of its files alone."""

    class Bare:
        root = tmp_path / "files"
        textured = staticmethod(textured)
        labelled = staticmethod(labelled)

        def write(self, name, content):
            file = self.root / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(content if isinstance(content, str) else json.dumps(content))
            return file

        def picture(self, name, pixels, **options):
            file = self.root / name
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(file, **options)
            return file

        def case(self, **options):
            return Case("files", tree=Tree(self.root.resolve()), **options)

        def codes(self, **options):
            return codes(self.case(**options))

    Bare.root.mkdir()
    return Bare()


@pytest.fixture
def codes_of():
    return codes
