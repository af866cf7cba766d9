"""Finding files and telling which belong together: roots, pairs, lists and divisions of a data set.

What data sets are made of on disk. Every dataset of this package is built from these pieces, so that a missing folder, a
mask without its picture or a path that leads out of the data set is answered by the same sentence everywhere. Own work.
"""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import takewhile
from pathlib import Path, PurePath
from typing import NamedTuple

from trimask.types import DataError

PICTURE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif"})


class Pair(NamedTuple):
    """Where a sample comes from. Strings, because thousands of them travel to every worker."""

    name: str
    image: str
    mask: str


def find_root(root: str | Path) -> Path:
    """The folder of a data set: absolute as it is, else below the data folder, else below the working directory.

    The data folder holds one folder a data set; the environment variable TRIMASK_DATA names it (default: ./data).
    """
    data = Path(os.environ.get("TRIMASK_DATA") or "data")
    candidates = [data / root] if Path(root).is_absolute() else [data / root, Path(root)]
    for candidate in candidates:
        if candidate.is_dir():
            return candidate.resolve()
    looked = " or ".join(str(candidate.absolute()) for candidate in candidates)
    missing = f"The data folder {looked} {'is a file' if candidates[-1].is_file() else 'does not exist'}."
    itself = "name the data set itself with --data.dataset.root=<folder>."
    if Path(root).is_absolute():
        raise DataError(f"{missing} Correct `root`, or {itself}")
    raise DataError(
        f"{missing} Set DATA=<folder that holds {Path(root).name}> with make (or TRIMASK_DATA), or {itself}"
    )


def locate(path: str | Path, folder: Path) -> Path:
    """An existing file given absolutely, or relative to `folder` or to the working directory."""
    for candidate in (folder / path, Path(path)):
        if _is_file(candidate):
            return candidate
    raise DataError(
        f"There is no file {folder / path}" + ("." if Path(path).is_absolute() else f" and no {path} here.")
    )


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # e.g. a name that is longer than any can be
        return False


def inside(folder: Path, entry: str, source: str | Path) -> Path:
    """The path that an annotation file names, relative to `folder`; whether it exists is not asked.

    Args: source: the file that names it, for the message.

    Raises:
        DataError: the entry is absolute or leads out of the folder, as a hostile or a foreign file may have it.
    """
    if not isinstance(entry, str) or not entry or "\0" in entry:
        raise DataError(f"{source}: {entry!r} is no file name.")
    path = Path(os.path.normpath(folder / entry))
    if PurePath(entry).is_absolute() or not path.is_relative_to(os.path.normpath(folder)):
        raise DataError(f"{source} names the file {entry!r}, which lies outside {folder}; only paths inside are read.")
    return path


def printable(path: str | Path) -> str:
    """A path for a message: what is not UTF-8, and would be taken by no terminal and no file, is written as \\udce9."""
    return str(path).encode(errors="backslashreplace").decode()


def pairs_from_folders(
    folder: Path, *, images: str, masks: str, image_suffix: str = "", mask_suffix: str = ""
) -> list[Pair]:
    """Every picture below `images` with the mask of the same relative path below `masks`, ordered by name."""
    mask_files = pictures_in(folder, masks, mask_suffix)
    taken = set(mask_files.values()) if mask_suffix else set()
    image_files = {name: file for name, file in pictures_in(folder, images, image_suffix).items() if file not in taken}
    return match(image_files, mask_files, where=f"{folder} ({images}, {masks})")


def pictures_in(folder: Path, where: str = "", suffix: str = "") -> dict[str, str]:
    """Name -> path of the pictures below a folder or of a glob whose stems end with `suffix`, in the order of their paths.

    A name is the path relative to the fixed part of the glob, without suffix and ending. Nothing is asked of a file but its
    name: 70,000 take 0.2 s.

    Raises:
        DataError: there is no such folder or no such picture, or two have the same name.
    """
    base, pattern = _fixed_part(folder, where)
    found: dict[str, str] = {}
    start = os.path.join(base, "")
    for entry in _in_order(_matching(base, pattern) if pattern else _below(base)):
        stem, ending = os.path.splitext(entry)
        if ending.lower() not in PICTURE_SUFFIXES or not stem.endswith(suffix):
            continue
        if entry[entry.rfind("/") + 1] == ".":  # macOS leaves a ._1.jpg beside 1.jpg
            continue
        name, path = stem.removesuffix(suffix), start + entry
        if not name.isascii() and printable(name) != name:
            raise DataError(
                f"{printable(path)}: the name is not UTF-8, so that no table could hold it. Rename the file."
            )
        if name in found:
            raise DataError(f"{found[name]} and {path} have the same name {name!r}; choose with a glob such as *.png.")
        found[name] = path
    if not found:
        ending = f" whose stem ends with {suffix!r}" if suffix else ""
        raise DataError(f"There is no picture{ending} in {base} (pattern {pattern or '**/*'}).")
    return found


def _fixed_part(folder: Path, where: str) -> tuple[Path, str]:
    """The folder that a glob begins with, and the glob below it; "" where `where` is a folder."""
    base = folder.joinpath(*takewhile(lambda part: not set(part) & set("*?["), PurePath(where).parts))
    if not base.is_dir():
        raise DataError(f"There is no folder {base}.")
    return base, str((folder / where).relative_to(base)) if base != folder / where else ""


def subfolders(folder: Path) -> list[Path]:
    """The folders directly in a folder, in order, without hidden ones and links; none where it may not be read."""
    try:
        entries = sorted(folder.iterdir())
    except OSError:
        return []
    return [entry for entry in entries if not entry.name.startswith(".") and entry.is_dir() and not entry.is_symlink()]


def _below(folder: Path) -> Iterator[str]:
    """The files below a folder, relative to it; folders that are links are not followed."""

    def refuse(error: OSError) -> None:
        raise DataError(f"{error.filename}: cannot be listed: {error.strerror}.") from error

    for place, _, names in os.walk(folder, onerror=refuse):
        inner = os.path.relpath(place, folder)
        yield from names if inner == "." else (f"{inner}/{name}" for name in names)


def _matching(folder: Path, pattern: str) -> Iterator[str]:
    """The files of a glob, relative to the folder."""
    start = len(os.path.join(folder, ""))
    return (str(file)[start:] for file in folder.glob(pattern))


def _in_order(entries: Iterable[str]) -> list[str]:
    """Folder by folder: a/b.png before a-c.png."""
    return sorted(entries, key=lambda entry: entry.replace("/", "\0"))


def match(images: Mapping[str, str], masks: Mapping[str, str], *, where: str) -> list[Pair]:
    """Pairs in the order of `images`; a picture without a mask or the reverse is a DataError."""
    if images.keys() != masks.keys():
        no_mask = listed([name for name in images if name not in masks])
        no_image = listed([name for name in masks if name not in images])
        raise DataError(
            f"{where}: {len(images)} pictures and {len(masks)} masks do not pair up by name; pictures without a mask: "
            f"{no_mask}; masks without a picture: {no_image}."
        )
    return [Pair(name, file, masks[name]) for name, file in images.items()]


def repeated_names(names: Sequence[str]) -> list[str]:
    return [name for name, count in Counter(names).items() if count > 1]


def listed(names: Sequence[str]) -> str:
    """How many, and the first few, for a message."""
    return f"{len(names)} ({', '.join(names[:5])}{', ...' if len(names) > 5 else ''})" if names else "none"


def read_csv(path: Path) -> list[tuple[str, str]]:
    """The (image, mask) paths of a CSV with the columns `images` and `masks`, in any order of columns."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            found = list(reader.fieldnames or ())
            rows = [(row.get("images", ""), row.get("masks", "")) for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: not a CSV file in UTF-8 ({error}). Save it as one.") from error
    if not {"images", "masks"} <= set(found):
        raise DataError(f"{path}: the first line must name the columns images and masks; got {str(found)[:200]}.")
    for line, row in enumerate(rows, start=2):
        if not all(row):
            raise DataError(f"{path}: row {line} lacks its image or its mask: {row}.")
    if not rows:
        raise DataError(f"{path}: the file lists no pictures.")
    return rows


def pairs_from_csv(path: Path, folder: Path) -> list[Pair]:
    """The pairs of a CSV in its own order; a sample is named by its image's path without extension."""

    def resolve(entry: str) -> str:
        for base in (path.parent, folder):
            if _is_file(base / entry):
                return str(base / entry)
        raise DataError(f"{path} lists {entry}, which is neither below {path.parent} nor below {folder}.")

    def name(entry: str) -> str:
        return "/".join(part for part in PurePath(entry).with_suffix("").parts if part not in ("..", os.sep))

    pairs = [Pair(name(image), resolve(image), resolve(mask)) for image, mask in read_csv(path)]
    if repeated := repeated_names([pair.name for pair in pairs]):
        raise DataError(f"{path} lists pictures twice: {listed(repeated)}.")
    return pairs


def read_lines(path: Path) -> list[str]:
    """The lines of a text file without what is blank.

    Raises:
        DataError: it is no text in UTF-8.
    """
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not a text in UTF-8 ({error}). Save it as one.") from error


def select(pairs: Iterable[Pair], split: Path) -> list[Pair]:
    """The pairs that a text file names, one a line (an extension is allowed), in its order."""
    by_name = {pair.name: pair for pair in pairs}
    names = read_lines(split)
    names = [str(PurePath(n).with_suffix("")) if PurePath(n).suffix.lower() in PICTURE_SUFFIXES else n for n in names]
    if not names:
        raise DataError(f"The split {split} is empty; write one name a line, such as {next(iter(by_name), '1')}.")
    if unknown := [name for name in names if name not in by_name]:
        raise DataError(f"The split {split} names what is not there: {listed(unknown)}.")
    if repeated := repeated_names(names):
        raise DataError(f"The split {split} lists names twice: {listed(repeated)}.")
    return [by_name[name] for name in names]


def of_split(
    pairs: list[Pair],
    split: str,
    *,
    folder: Path,
    lists: Mapping[str, str] | None,
    test_size: float,
    seed: int,
    is_divided: bool = False,
) -> list[Pair]:
    """The pairs of a split: those that its list names; without lists, all of "all" and of a data set that `is_divided` on
    disk, else a part of a random division, of which "val" and "test" are the same.

    Raises:
        DataError: there are lists, but none for this split, or one names what is not there.
    """
    if lists and split in lists:
        return select(pairs, locate(lists[split], folder))
    if lists and split != "all":
        raise DataError(f"`lists` has a file for {', '.join(lists)}, but none for the split {split!r}; add one.")
    return pairs if is_divided or split == "all" else divide(pairs, test_size, seed)[split != "train"]


def sizes_differ(pair: Pair, image: tuple[int, ...], mask: tuple[int, ...]) -> str:
    if mask == image[::-1]:
        advice = "One of the two seems to be turned by its EXIF orientation; store both upright."
    else:
        advice = "Make masks at the size of their pictures (resize with nearest)."
    return f"{pair.mask} is {mask[1]}x{mask[0]}, but its picture {pair.image} is {image[1]}x{image[0]}. {advice}"


def divide(pairs: list[Pair], test_size: float, seed: int) -> tuple[list[Pair], list[Pair]]:
    """(train, held out): scikit-learn's `train_test_split`, which many tutorials use."""
    from sklearn.model_selection import train_test_split  # takes a second to import, and only this needs it

    try:
        train, val = train_test_split(pairs, test_size=test_size, random_state=seed)
    except ValueError as error:
        raise DataError(f"{len(pairs)} picture(s) cannot be split with test_size={test_size}: {error}") from error
    return train, val
