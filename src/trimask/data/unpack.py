"""Unpacking archives of strangers: nothing lands outside the folder, nothing is overwritten, no bomb fills the disk. Own work.

What an archive declares is judged before the first byte is written: paths, kinds of entries, sizes. Each file is written under
another name and then renamed, so that an interruption leaves whole files only, and unpacking again goes on where it stopped.
"""

from __future__ import annotations

import gzip
import lzma
import os
import re
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

from trimask.types import DataError

MAX_RATIO = 200  # unpacked bytes a packed one; deflate's own limit is 1032, annotations in JSON reach 10
SMALL = 1 << 30  # bytes up to which the ratio does not matter
RESERVE = 1 << 28  # bytes of the disk that stay free
MAX_ENTRIES = 5_000_000
_BLOCK = 1 << 20
_SYSTEM_FILES = re.compile(r"(^|/)(__MACOSX/|\.DS_Store$|\._|Thumbs\.db$)")
# NotImplementedError and RuntimeError: what zipfile says of forms that it does not know
_DAMAGED = (
    *(zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, zlib.error, lzma.LZMAError),
    *(EOFError, ValueError, NotImplementedError, RuntimeError),
)
Advance = Callable[[int], object]


class Member(NamedTuple):
    """A file in an archive: its path there, its size in bytes as declared, and how to open it."""

    path: str
    num_bytes: int
    open: Callable[[], IO[bytes]]


class Unpacked(NamedTuple):
    """Attributes: written: files that are new; kept: files that were there already and stay as they are."""

    written: int
    kept: int


def is_archive(path: Path) -> bool:
    return path.is_file() and (zipfile.is_zipfile(path) or tarfile.is_tarfile(path))


def unpack(
    archive: Path,
    folder: Path,
    *,
    start: str = "",
    keep: Sequence[str] = (),
    begin: Callable[[int], object] = lambda total: None,
    advance: Advance = lambda count: None,
) -> Unpacked:
    """The files of a ZIP or TAR that are not in the folder yet.

    Args:
        start: the folder of the archive that is unpacked, without itself; "*" stands for any one folder.
        keep: the entries of that folder that are wanted; all by default.
        begin: is told the bytes that will be written.
        advance: is told the bytes that were written.

    Raises:
        DataError: no archive, a damaged one, one that would write elsewhere or make links, or one that is too large.
    """
    with _errors_named(archive), closing(_open(archive)) as opened:
        plan = _plan(archive, opened, folder, PurePosixPath(start).parts, keep)
        missing = {target: member for target, member in plan.items() if not os.path.lexists(target)}
        total = sum(member.num_bytes for member in missing.values())
        _check_size(archive, folder, sum(member.num_bytes for member in plan.values()), total)
        begin(total)
        for target, member in missing.items():
            _write(member, target, advance)
    return Unpacked(len(missing), len(plan) - len(missing))


def check_space(folder: Path, num_bytes: int, what: str) -> None:
    """Raises DataError if the disk of a folder has no room for so many bytes more."""
    free = shutil.disk_usage(folder).free
    if num_bytes > free - RESERVE:
        raise DataError(
            f"{what} needs {num_bytes / 1e9:.1f} GB, but the disk of {folder} has {free / 1e9:.1f} GB free. Make room, or "
            f"choose another data folder with --root."
        )


@contextmanager
def _errors_named(archive: Path) -> Iterator[None]:
    try:
        yield
    except DataError:
        raise
    except _DAMAGED as error:
        raise DataError(f"{archive} is damaged: {error}. Delete it and fetch it again.") from error
    except OSError as error:
        raise DataError(f"{archive}: {error.filename or 'a file'} cannot be written: {error.strerror}.") from error


def _open(archive: Path) -> zipfile.ZipFile | tarfile.TarFile:
    if zipfile.is_zipfile(archive):
        return zipfile.ZipFile(archive)
    if tarfile.is_tarfile(archive):
        return tarfile.open(archive)
    with archive.open("rb") as file:
        start = file.read(16)
    raise DataError(f"{archive} is neither a ZIP nor a TAR; it begins with {start!r}. Delete it and fetch it again.")


def _plan(
    archive: Path, opened: zipfile.ZipFile | tarfile.TarFile, folder: Path, start: Sequence[str], keep: Sequence[str]
) -> dict[Path, Member]:
    """Where each wanted file goes; every entry is judged, wanted or not."""
    plan: dict[Path, Member] = {}
    members = _zip_members(archive, opened) if isinstance(opened, zipfile.ZipFile) else _tar_members(archive, opened)
    for count, member in enumerate(members):
        if count >= MAX_ENTRIES:
            raise DataError(f"{archive} has more than {MAX_ENTRIES} entries; that is no data set. It is not unpacked.")
        parts = _safe_parts(archive, member.path)
        inner = parts[len(start) :]
        if not inner or not all(map(fnmatchcase, parts, start)) or _SYSTEM_FILES.search("/".join(inner)):
            continue
        if not keep or inner[0] in keep:
            plan.setdefault(folder.joinpath(*inner), member)
    if not plan:
        raise DataError(f"{archive} holds no file below {'/'.join(start) or 'its root'}; it is another archive.")
    return plan


def _safe_parts(archive: Path, path: str) -> tuple[str, ...]:
    pure = PurePosixPath(path)
    is_odd = "\\" in path or "\0" in path or re.match(r"[A-Za-z]:", path)
    if pure.is_absolute() or ".." in pure.parts or is_odd or not pure.parts:
        raise DataError(f"{archive} would write to {path!r}, outside its folder. It is not unpacked; do not trust it.")
    return pure.parts


def _zip_members(archive: Path, opened: zipfile.ZipFile) -> Iterator[Member]:
    for info in opened.infolist():
        mode = stat.S_IFMT(info.external_attr >> 16)
        if mode not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise DataError(_no_file(archive, info.filename))
        if info.flag_bits & 1:
            raise DataError(f"{archive}: {info.filename!r} is encrypted. Unpack it by hand.")
        if not info.is_dir():
            yield Member(info.filename, info.file_size, partial(opened.open, info))


def _tar_members(archive: Path, opened: tarfile.TarFile) -> Iterator[Member]:
    for info in opened:
        if not info.isreg() and not info.isdir():
            raise DataError(_no_file(archive, info.name))
        if info.isreg():
            yield Member(info.name, info.size, partial(_tar_file, opened, info))
    while opened.fileobj is not None and opened.fileobj.read(_BLOCK):  # the checksum of a compressed one is at its end
        pass


def _tar_file(opened: tarfile.TarFile, info: tarfile.TarInfo) -> IO[bytes]:
    file = opened.extractfile(info)
    assert file is not None  # it is a regular file
    return file


def _no_file(archive: Path, name: str) -> str:
    return f"{archive}: {name!r} is a link or a device, which no data set needs. It is not unpacked; do not trust it."


def _check_size(archive: Path, folder: Path, declared: int, missing: int) -> None:
    packed = archive.stat().st_size
    if declared > max(SMALL, MAX_RATIO * packed):
        raise DataError(
            f"{archive} has {packed / 1e6:.1f} MB and would become {declared / 1e9:.1f} GB: a bomb. It is not unpacked."
        )
    folder.mkdir(parents=True, exist_ok=True)
    check_space(folder, missing, f"Unpacking {archive.name}")


def _write(member: Member, target: Path, advance: Advance) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f"{target.name}.unfinished")
    written = 0
    try:
        with member.open() as source, unfinished.open("wb") as file:
            while block := source.read(_BLOCK):
                written += len(block)
                if written > member.num_bytes:
                    raise ValueError(f"{member.path} is larger than the archive says")
                file.write(block)
                advance(len(block))
        if written < member.num_bytes:
            raise ValueError(f"{member.path} is smaller than the archive says")
        unfinished.rename(target)
    except BaseException:
        with suppress(OSError):
            unfinished.unlink()
        raise
