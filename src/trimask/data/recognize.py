"""Which data sets lie in a folder: every dataset class of this package is asked whether it finds itself there. Own work.

A class answers by an optional classmethod `found_in(folder)`: the arguments (without `split`) with which it reads the data sets
whose layout lies in exactly this folder. Here the folders to be asked about are chosen: the given one and those a few levels
below, so that a folder of many data sets works.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from trimask.data.files import subfolders

DEPTH = 2  # levels below the given folder
MAX_FOLDERS = 2000  # that are asked about


class Recognized(NamedTuple):
    """A data set that a dataset class finds.

    Attributes:
        folder: where its layout begins.
        class_path: of the class, e.g. "trimask.data.HumanSegmentation".
        init_args: that it takes besides `split`.
    """

    folder: Path
    class_path: str
    init_args: dict[str, Any]


def recognize(folder: str | Path, *, depth: int = DEPTH) -> list[Recognized]:
    """The data sets in a folder and up to `depth` levels below it, in the order of their folders.

    Nothing is looked for below a folder that a class has recognized, except by that folder's own classes: what lies
    there belongs to it. A class that recognizes a folder and also the one around it counts for the outer one.
    """
    return list(_search(Path(folder).resolve(), depth, [MAX_FOLDERS]))


def _search(folder: Path, depth: int, left: list[int]) -> Iterator[Recognized]:
    left[0] -= 1
    found = [
        Recognized(folder, class_path, arguments)
        for class_path, kind in dataset_classes().items()
        for arguments in kind.found_in(folder)
    ]
    yield from found
    if found or not depth or left[0] <= 0:
        return
    for below in subfolders(folder):
        yield from _search(below, depth - 1, left)


def dataset_classes() -> dict[str, Any]:
    """Class path -> class, of all that `trimask.data` exports and that can recognize themselves."""
    import trimask.data as exported

    named = {f"{exported.__name__}.{name}": getattr(exported, name) for name in exported.__all__}
    return {path: kind for path, kind in named.items() if isinstance(kind, type) and hasattr(kind, "found_in")}


def unrecognized(folder: str | Path, found: list[Recognized], *, depth: int = DEPTH) -> list[Path]:
    """The largest folders with files in which, and around which, nothing was recognized.

    A folder that holds recognized ones is left out itself; those beside them are named.
    """
    known = {entry.folder for entry in found}
    return list(_rest(Path(folder).resolve(), known, depth))


def _rest(folder: Path, known: set[Path], depth: int) -> Iterator[Path]:
    if folder in known:
        return
    if not any(folder in entry.parents for entry in known):
        if any(entry.is_file() and not entry.name.startswith(".") for entry in folder.rglob("*")):
            yield folder
        return
    for below in subfolders(folder) if depth else []:
        yield from _rest(below, known, depth - 1)
