"""Where BDD100K lies on disk: its root, its forms, its splits, and the tags of its frames.

The official archives unpack into one folder `bdd100k/`. Pictures and labels belong together by the stem of the file name. Own
work; the layout is that of https://doc.bdd100k.com/download.html and of the 2018 release.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from trimask.data.files import Pair, listed, pictures_in
from trimask.data.scalabel_index import FrameIndex, open_frames
from trimask.types import DataError

LABELLED = ("train", "val")  # the test pictures of every task were published without labels
COURSE_SHARES = {"train": 0.7, "val": 0.2, "test": 0.1}
TAG_FILES = ("labels/det_20/det_{split}.json", "labels/bdd100k_labels_images_{split}.json")


class Form(NamedTuple):
    """One way in which the labels of a task were published.

    Attributes:
        name: as the argument `form` takes it.
        labels: a folder of one PNG a picture, or a JSON file of all; relative to the release, with {split}.
        images: folders of the pictures, of which the first that exists counts.
        suffix: what the stem of a label file has beyond that of its picture.
    """

    name: str
    labels: str
    images: tuple[str, ...]
    suffix: str = ""

    @property
    def is_json(self) -> bool:
        return self.labels.endswith(".json")

    def path(self, folder: Path, split: str) -> Path:
        return folder / self.labels.format(split=split)

    def exists(self, folder: Path, split: str) -> bool:
        path = self.path(folder, split)
        return os.path.isfile(path) if self.is_json else os.path.isdir(path)

    def pictures(self, folder: Path, split: str) -> Path:
        folders = [folder / name.format(split=split) for name in self.images]
        return next((one for one in folders if os.path.isdir(one)), folders[0])


class Part(NamedTuple):
    """The labelled pictures of a split.

    Attributes:
        form: of their labels.
        pairs: name, picture, and label file or the JSON file of all.
        rows: (N,) int64 frame of each picture in the JSON file; -1 where labels are files of their own.
        indexes: of each JSON file.
        splits: the official ones that the pictures come from.
    """

    form: Form
    pairs: list[Pair]
    rows: NDArray[np.int64]
    indexes: dict[str, FrameIndex]
    splits: tuple[str, ...]


def release(root: Path) -> Path:
    """The folder that the official archives unpack into: `root` itself or the one named bdd100k in it.

    Raises:
        DataError: neither looks like it.
    """
    for folder in (root, root / "bdd100k"):
        if is_release(folder):
            return folder
    raise DataError(
        f"{root} is no BDD100K: neither it nor bdd100k/ inside has images/100k/, images/10k/ or seg/images/. Name the "
        f"folder that the archives were unpacked into with --data.dataset.root."
    )


def is_release(folder: Path) -> bool:
    return any(os.path.isdir(folder / name) for name in ("images/100k", "images/10k", "seg/images"))


def forms_in(root: Path, forms: Sequence[Form]) -> list[Form]:
    """The forms that lie below a root together with their pictures, in the order of preference."""
    folders = [folder for folder in (root, root / "bdd100k") if is_release(folder)][:1]
    return [
        form
        for form in forms
        for folder in folders
        if all(form.exists(folder, split) and os.path.isdir(form.pictures(folder, split)) for split in LABELLED)
    ]


def find_part(
    task: str,
    forms: Sequence[Form],
    split: str,
    *,
    folder: Path,
    form: str | None = None,
    partial: bool = False,
    course_size: int = 0,
    seed: int = 0,
) -> Part:
    """The pictures of a split with their labels.

    Args:
        task: its name, for messages.
        forms: those of the task, in the order of preference.
        split: an official one; "all" for those with labels; a split of the course if `course_size` is not 0. "test" is
            "val" where there are no labels of a test split.
        folder: of the release.
        form: the name of one; by default the first that has the split.
        partial: leave out pictures without a label and labels without a picture, which else are an error.
        course_size: how many of the labelled pictures the course takes.
        seed: of its choice.

    Raises:
        DataError: there are no such labels, or pictures and labels do not pair up.
    """
    if split not in (*COURSE_SHARES, "all"):
        raise DataError(f"BDD100K has the splits {', '.join(COURSE_SHARES)} and all; got {split!r}.")
    parts = [one for one in LABELLED if any(known.exists(folder, one) for known in forms)]
    if not course_size and split != "all":
        has_test = split == "test" and any(known.exists(folder, "test") for known in forms)
        parts = [split if has_test or split != "test" else "val"]
    if not parts:
        raise DataError(_no_labels(task, forms, folder, "train"))
    chosen = _choose(task, forms, folder, parts, form)
    found = [_labelled(chosen, folder, one, partial) for one in parts]
    part = Part(
        chosen,
        [pair for one in found for pair in one.pairs],
        np.concatenate([one.rows for one in found]),
        {source: index for one in found for source, index in one.indexes.items()},
        tuple(parts),
    )
    return _of_course(part, split, course_size, seed) if course_size and split != "all" else part


def _choose(task: str, forms: Sequence[Form], folder: Path, splits: Sequence[str], name: str | None) -> Form:
    """The form of that name, or the first that has all the splits."""
    if name is not None and name not in [form.name for form in forms]:
        raise DataError(f"The labels of {task} have the forms {', '.join(form.name for form in forms)}; got {name!r}.")
    for form in forms:
        if name in (None, form.name) and all(form.exists(folder, split) for split in splits):
            return form
    asked = [form for form in forms if name in (None, form.name)]
    raise DataError(_no_labels(task, asked, folder, splits[-1]))


def _no_labels(task: str, forms: Sequence[Form], folder: Path, split: str) -> str:
    places = ", ".join(f"{form.labels.format(split=split)} ({form.name})" for form in forms)
    message = f"{folder} has no {task} labels of the split {split!r}. They may lie in: {places}."
    palettes = folder / PurePosixPath(forms[0].labels).parent.parent / "colormaps"
    if "bitmasks" in forms[0].labels and palettes.is_dir():
        message += (
            f" What lies in {palettes} are pictures to look at: their palettes number the objects from 0 in every picture "
            f"and tell no class. Fetch the archive with bitmasks/ or rles/."
        )
    return message


def _labelled(form: Form, folder: Path, split: str, partial: bool) -> Part:
    """The pictures of an official split with their labels, ordered by name."""
    images = pictures_in(form.pictures(folder, split))
    path = form.path(folder, split)
    if not form.is_json:
        pairs = _paired(
            images, pictures_in(path, suffix=form.suffix), partial, where=f"{folder} ({form.name}, {split})"
        )
        return Part(form, pairs, np.full(len(pairs), -1, np.int64), {}, (split,))
    index = open_frames(path)
    rows = {PurePosixPath(name).stem: row for row, name in enumerate(index.names)}
    if len(rows) < len(index):
        raise DataError(f"{path}: {len(index)} frames have only {len(rows)} different file names without folder.")
    pairs = _paired(
        images, dict.fromkeys(rows, index.source), partial, where=f"{path} and {form.pictures(folder, split)}"
    )
    return Part(form, pairs, np.array([rows[pair.name] for pair in pairs], np.int64), {index.source: index}, (split,))


def _paired(images: Mapping[str, str], labels: Mapping[str, str], partial: bool, *, where: str) -> list[Pair]:
    both = images.keys() & labels.keys()
    if not both or (not partial and len(both) < max(len(images), len(labels))):
        no_label = listed([name for name in images if name not in both])
        no_image = listed([name for name in labels if name not in both])
        raise DataError(
            f"{where}: pictures without a label: {no_label}; labels without a picture: {no_image}. Set "
            f"--data.dataset.partial=true to use the {len(both)} that have both."
        )
    return [Pair(name, image, labels[name]) for name, image in images.items() if name in both]


def _of_course(part: Part, split: str, size: int, seed: int) -> Part:
    """A split of the course: at most `size` pictures, divided 70/20/10, in an order that `seed` and the names decide.

    Neither the version of a library nor the order of the files takes part.
    """

    def place(number: int) -> bytes:
        return hashlib.blake2b(f"{seed}/{part.pairs[number].name}".encode()).digest()

    order = sorted(range(len(part.pairs)), key=place)[:size]
    first, second = (round(len(order) * share) for share in (COURSE_SHARES["train"], 1 - COURSE_SHARES["test"]))
    chosen = {"train": order[:first], "val": order[first:second], "test": order[second:]}[split]
    if not chosen:
        raise DataError(f"{len(part.pairs)} pictures are too few for the course's split {split!r}; it takes ten.")
    return part._replace(pairs=[part.pairs[number] for number in chosen], rows=part.rows[chosen])


def find_tags(folder: Path, part: Part, source: str | None) -> tuple[NDArray[np.int32], list[dict[str, str]]]:
    """Tags of each picture as rows of a table, whose row 0 has none: for pictures that no file knows.

    Args: source: "auto" for the first that has tags of the part: its own JSON files, then each of TAG_FILES; a JSON file
        with or without {split}, relative to the release; None for no tags.

    Raises:
        DataError: a file that was named does not exist, or is no Scalabel file.
    """
    if source == "auto":
        found = _tags(part, list(part.indexes.values()))
        for name in TAG_FILES:
            if not found[0].any():
                found = _tags(part, [open_frames(path) for path in _existing(folder, name, part.splits)])
        return found
    if source is None:
        return _tags(part, [])
    paths = _existing(folder, source, part.splits)
    if not paths:
        raise DataError(
            f"There is no file {folder / source.format(split=part.splits[0])} with tags of the frames. Set "
            f"--data.dataset.tags to the path of one, to auto, or to null."
        )
    return _tags(part, [open_frames(path) for path in paths])


def _existing(folder: Path, name: str, splits: Sequence[str]) -> list[Path]:
    paths = dict.fromkeys(folder / name.format(split=split) for split in splits)
    return [path for path in paths if path.is_file()]


def _tags(part: Part, indexes: Sequence[FrameIndex]) -> tuple[NDArray[np.int32], list[dict[str, str]]]:
    places = {pair.name: place for place, pair in enumerate(part.pairs)}
    codes = np.zeros(len(places), np.int32)
    table: dict[tuple[tuple[str, str], ...], int] = {(): 0}
    for index in indexes:
        new_codes = [table.setdefault(tuple(tags.items()), len(table)) for tags in index.tag_table]
        for name, code in zip(index.names, index.tag_codes.tolist(), strict=True):
            if (place := places.get(PurePosixPath(name).stem)) is not None:
                codes[place] = new_codes[code]
    return codes, [dict(tags) for tags in table]
