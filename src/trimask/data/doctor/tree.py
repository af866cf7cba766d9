"""The files below a data set's folder: what lies there, whether or not a dataset reads it. Own work."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path, PurePath

from trimask.data.files import PICTURE_SUFFIXES

MAX_FILES = 2_000_000  # entries that are listed; a folder with more is not one data set


class Tree:
    """The files below a folder, hidden ones left out, links to folders not followed.

    Attributes:
        folder: absolute.
        whole: False where MAX_FILES stopped the listing.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.whole = True

    @cached_property
    def files(self) -> list[str]:
        """Absolute paths in order."""
        found: list[str] = []
        for path, folders, names in os.walk(self.folder):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            found += [os.path.join(path, name) for name in sorted(names) if not name.startswith(".")]
            if len(found) > MAX_FILES:
                self.whole = False
                return found[:MAX_FILES]
        return found

    @cached_property
    def pictures(self) -> list[str]:
        return self.ending(*PICTURE_SUFFIXES)

    @cached_property
    def picture_folders(self) -> dict[str, list[str]]:
        """Folder -> the names of the pictures directly in it."""
        folders: dict[str, list[str]] = defaultdict(list)
        for path in self.pictures:
            folder, name = os.path.split(path)
            folders[folder].append(name)
        return dict(folders)

    def ending(self, *suffixes: str) -> list[str]:
        """The files with one of these suffixes, e.g. ".json"."""
        return [path for path in self.files if PurePath(path).suffix.lower() in suffixes]

    def small(self, *suffixes: str, limit: int) -> Iterator[Path]:
        """Those of them that have at most so many bytes."""
        for path in self.ending(*suffixes):
            try:
                if os.path.getsize(path) <= limit:
                    yield Path(path)
            except OSError:  # gone since it was listed
                continue

    def relative(self, path: str | Path) -> str:
        """For messages: the path below the folder, or as it is if it lies elsewhere."""
        try:
            return PurePath(path).relative_to(self.folder).as_posix() or "."
        except ValueError:
            return str(path)
