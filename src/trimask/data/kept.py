"""What is made of an annotation file once and kept for all later runs: where it lies, when it is stale, how it is written.

Below `cache.cache_folder()` there is a folder for each kind of thing, with one file a source, named by the path of the source
and by its state. Own work.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypeVar

from trimask.data.cache import cache_folder
from trimask.data.json_stream import Stamp, stamp_of

SMALL_FILE = 4 << 20  # bytes of a source; below this, reading again takes a fraction of a second and nothing is kept

Made = TypeVar("Made")


class Kind(NamedTuple):
    """What is kept.

    Attributes:
        folder: below the cache folder.
        suffix: of the files.
        version: changes with what is kept and how it is written.
    """

    folder: str
    suffix: str
    version: str

    def place(self, source: str, stamp: Stamp) -> Path:
        state = hashlib.sha256(repr((self.version, *stamp)).encode()).hexdigest()[:16]
        name = hashlib.sha256(os.fsencode(source)).hexdigest()[:32]
        return cache_folder() / self.folder / f"{name}-{state}{self.suffix}"


def made_once(
    path: str | Path,
    kind: Kind,
    *,
    make: Callable[[str], Made],
    load: Callable[[Path], Made | None],
    save: Callable[[Made, BinaryIO], None],
) -> Made:
    """What is kept of a file, or else what is made of it now and then kept.

    Several processes may ask at once: each writes under a name of its own and renames, so that a reader sees a whole file or
    none. A changed source is read again, and what was kept of it before is removed. If the cache folder cannot be
    written, a warning says so.

    Args:
        make: from the absolute path of the source.
        load: from a kept file; None where there is none that is whole.

    Raises:
        DataError: there is no such file, or it cannot be read.
    """
    source = os.path.realpath(path)
    stamp = stamp_of(source)
    if stamp[0] < SMALL_FILE:
        return make(source)
    file = kind.place(source, stamp)
    if (kept := load(file)) is not None:
        return kept
    made = make(source)
    try:
        with _replacing(file) as out:
            save(made, out)
    except OSError as error:
        warnings.warn(
            f"The index of {source} is held in memory and made again by every run, because {file.parent} cannot be "
            f"written ({error.strerror}). Set TRIMASK_CACHE to a folder on a disk with space.",
            stacklevel=3,
        )
        return made
    return made if (kept := load(file)) is None else kept


@contextmanager
def _replacing(file: Path) -> Iterator[BinaryIO]:
    """A new file, which takes its place when it is complete and ends what was kept of other states of the source."""
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_suffix(f".{os.getpid()}.{os.urandom(4).hex()}.temporary")
    try:
        with temporary.open("xb") as out:
            yield out
        os.replace(temporary, file)
    finally:
        temporary.unlink(missing_ok=True)
    for old in file.parent.glob(f"{file.name.partition('-')[0]}-*{file.suffix}"):
        if old != file:
            old.unlink(missing_ok=True)
