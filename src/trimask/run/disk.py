"""Files that are whole or not there, and what a run says when the disk is full.

A kill and a full disk leave the file of before or the new one, never a part: everything that a run must find again is written
beside its place, handed to the disk and moved there. A file system may say only at this hand-over (`fsync`) that it has no room.
Own work.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trimask.errors import UsageError

_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# torch's writer and safetensors' know no errno: pytorch/caffe2/serialize/inline_container.cc, safetensors-python.
_SAID = (
    "inline_container",
    "PytorchStreamWriter",
    "iostream error",
    *(f"os error {number}" for number in _ERRNOS),
)


class DiskFull(UsageError):
    """A file could not be written. Attributes: path: the file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        super().__init__(
            f"{path} could not be written: {free_space(path)}, so the disk is full or a quota is used up. "
            "What was there before it is whole."
        )


def free_space(path: Path) -> str:
    """How much is free where a file lies, e.g. "12.0 MB are free on /data"."""
    folder = next(parent for parent in path.resolve().parents if parent.is_dir())
    return f"{shutil.disk_usage(folder).free / 1e6:,.1f} MB are free at {folder}"


def is_full(error: BaseException) -> bool:
    """Whether an error of writing says that there is no room."""
    if isinstance(error, OSError):
        return error.errno in _ERRNOS
    return type(error).__name__ in ("RuntimeError", "SafetensorError") and any(text in str(error) for text in _SAID)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Gives the place to write to; afterwards the file is at `path`, or nothing of it is left.

    Raises:
        DiskFull: there is no room.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f"{path.name}.new")
    try:
        yield fresh
        with fresh.open("rb+") as file:
            os.fsync(file.fileno())
        fresh.replace(path)
    except BaseException as error:
        said = DiskFull(path) if is_full(error) else None  # with what is free as long as the part is there
        fresh.unlink(missing_ok=True)
        if said:
            raise said from error
        raise


@contextmanager
def appended(path: Path) -> Iterator[None]:
    """While a file is appended to: a full disk leaves it as it was.

    Raises:
        DiskFull: there is no room.
    """
    before = path.stat().st_size
    try:
        yield
    except OSError as error:
        if not is_full(error):
            raise
        os.truncate(path, before)
        raise DiskFull(path) from error


def full_disk(error: BaseException | None, folder: Path) -> str | None:
    """What to say of an error that a full disk has caused, or None for another one. Args: folder: of the run, to which
    the file belongs where the error does not name it."""
    while error is not None:
        if isinstance(error, DiskFull):
            return str(error)
        if isinstance(error, OSError) and is_full(error):
            return str(DiskFull(Path(error.filename or folder / "a file")))
        error = error.__cause__ or error.__context__
    return None
