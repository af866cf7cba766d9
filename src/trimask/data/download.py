"""Data sets by name: fetched, verified, unpacked, and recognized when they are there already. Own work.

    DATA/camvid/                      the data set's folder
        archives/                     what was fetched and is not unpacked yet; what was put there by hand
        .trimask-download.json        what was fetched when from where, with its checksum
        CamVid/...                    the files

Nothing that is there is overwritten: a set that is complete is left alone, in one that is not only missing files are added.
An archive in `archives/` is taken as if it had been fetched, and is never deleted if it was put there by hand: so a machine
without a network is served by a memory stick.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from trimask.data.fetch import Unreachable, checksum, fetch
from trimask.data.sources import Archive, Part, Source
from trimask.data.unpack import is_archive, unpack
from trimask.types import DataError

RECORD, ARCHIVES = ".trimask-download.json", "archives"


class Watch(Protocol):
    """Who looks on: a progress bar, or nobody."""

    def begin(self, what: str, total: int | None, done: int = 0) -> None:
        """Something of `total` bytes starts, or goes on after `done` of them."""

    def advance(self, num_bytes: int) -> None: ...

    def say(self, text: str) -> None: ...


def lacking(source: Source, part: Part, root: Path) -> list[str]:
    """What a part lacks, as sentences such as "train2017/*.jpg: 3 of 118287"; nothing if it is complete.

    Args: root: the data set's folder.
    """
    return min((_lacking_at(part, root / place) for place in source.places), key=len)


def _lacking_at(part: Part, place: Path) -> list[str]:
    found = {pattern: sum(1 for _ in place.glob(pattern)) for pattern in part.tree}
    return [f"{pattern}: {found[pattern]} of {count}" for pattern, count in part.tree.items() if found[pattern] < count]


def get(source: Source, root: Path, *, parts: Sequence[str], keep_archives: bool, watch: Watch) -> None:
    """Fetches and unpacks the parts of a data set that are not complete.

    Args: root: the data set's folder; made if it does not exist.

    Raises:
        DataError: no address answers, a file is not what it should be, the disk is full, or another process is at it.
    """
    wanted = []
    for name in parts:
        if lacking(source, source.parts[name], root):
            wanted.append(name)
        else:
            watch.say(f"{name}: complete in {root}")
    if not wanted:
        return  # a folder that cannot be written to is good enough
    with _alone(root):
        for name in wanted:
            part = source.parts[name]
            place = root / _place(source, part, root)
            for archive in part.archives:
                _add(archive, root, place, keep_archives, watch)
            if rest := lacking(source, part, root):
                raise DataError(
                    f"{place}: all archives of {name} are unpacked, and yet there lack {'; '.join(rest)}. Does the set at "
                    f"{source.home} look different now?"
                )
            watch.say(f"{name}: complete in {place}")


def unpack_by_hand(root: Path, watch: Watch) -> None:
    """Unpacks the archives that a user has put into the set's `archives/`."""
    with _alone(root):
        for archive in sorted((root / ARCHIVES).iterdir()):
            if is_archive(archive):
                unpack(archive, root, begin=_begin(watch, f"unpacking {archive.name}"), advance=watch.advance)


def _begin(watch: Watch, what: str) -> Any:
    return lambda total, done=0: watch.begin(what, total, done)


def _place(source: Source, part: Part, root: Path) -> str:
    """Where the part is begun, or else where another one lies, or else the first."""
    others = [other for other in source.parts.values() if other is not part]
    for one in (part, *others):
        for place in source.places:
            if any(next((root / place).glob(pattern), None) for pattern in one.tree):
                return place
    return source.places[0]


def _add(archive: Archive, root: Path, place: Path, keep: bool, watch: Watch) -> None:
    file = root / ARCHIVES / archive.name
    _obtain(archive, file, root, watch)
    ours = _ours(archive, root, place)
    done = unpack(
        file,
        place,
        start=archive.start,
        keep=archive.keep,
        begin=_begin(watch, f"unpacking {file.name}"),
        advance=watch.advance,
    )
    for inner in archive.nested:
        nested = place / inner
        unpack(nested, nested.parent, begin=_begin(watch, f"unpacking {nested.name}"), advance=watch.advance)
        if inner in ours:
            nested.unlink()
    if done.kept:
        watch.say(f"{file.name}: {done.kept} files were there already and stay as they are")
    if archive.name in ours and not keep:
        file.unlink()
        _note(root, archive.name, ours=[])


def _ours(archive: Archive, root: Path, place: Path) -> list[str]:
    """The archives that this command made and may delete: the fetched one, and those inside it that were not there before.

    They are noted before they are made, for the case that unpacking is interrupted.
    """
    known = _read_record(root).get(archive.name, {}).get("ours", [])
    ours = [*known, *(inner for inner in archive.nested if inner not in known and not (place / inner).exists())]
    _note(root, archive.name, ours=ours)
    return ours


def _obtain(archive: Archive, file: Path, root: Path, watch: Watch) -> None:
    """Sees to it that a verified archive is there."""
    known = _read_record(root).get(archive.name, {})
    if file.exists():
        is_ours = archive.name in known.get("ours", [])
        if not is_ours or known.get("bytes") != file.stat().st_size:
            _verify(archive, file, known, watch, advice="It was put there by hand: fetch it again, or remove it.")
        return  # ours was verified when it was fetched; unpacking was interrupted
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        fetch(
            archive.urls,
            file,
            num_bytes=archive.num_bytes,
            is_verified=archive.checksum is not None,
            begin=_begin(watch, archive.name),
            advance=watch.advance,
        )
    except Unreachable as error:
        raise Unreachable(
            f"{archive.name} cannot be fetched: {error}. With a network, run this again; without, fetch {archive.urls[0]} "
            f"elsewhere, put it at {file} and run this again."
        ) from error
    try:
        found = _verify(archive, file, known, watch, advice="It is deleted; run this again.")
    except DataError:
        file.unlink()
        raise
    _note(
        root,
        archive.name,
        url=archive.urls[0],
        bytes=file.stat().st_size,
        checksum=found,
        is_published=archive.checksum is not None,
        fetched=datetime.now(UTC).isoformat(timespec="seconds"),
        ours=[archive.name],
    )


def _verify(archive: Archive, file: Path, known: Mapping[str, Any], watch: Watch, *, advice: str) -> str:
    """The checksum of a file, which is compared with the published one, or with that of an earlier fetch."""
    expected = archive.checksum or known.get("checksum")
    algorithm = str(expected or "sha256").partition(":")[0]
    watch.begin(f"verifying {file.name}", file.stat().st_size)
    found = checksum(file, algorithm, watch.advance)
    if archive.checksum and found != archive.checksum:
        raise DataError(f"{file} has the checksum {found}, but {archive.checksum} is published for it. {advice}")
    if not archive.checksum and expected and found != expected:
        raise DataError(
            f"{file} has the checksum {found}, but {expected} when it was fetched on {known.get('fetched')}: the set has "
            f"changed at its source. To take it as it is now, remove {archive.name} from {file.parents[1] / RECORD}."
        )
    return found


def _read_record(root: Path) -> dict[str, Any]:
    file = root / RECORD
    if not file.exists():
        return {}
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(
            f"{file} is damaged ({error}). Remove it; only the record of earlier fetches is lost."
        ) from error
    if not isinstance(record, dict) or not all(isinstance(entry, dict) for entry in record.values()):
        raise DataError(f"{file} is no record of fetched files. Remove it.")
    return record


def _note(root: Path, archive: str, **facts: Any) -> None:
    record = _read_record(root)
    record[archive] = record.get(archive, {}) | facts
    unfinished = root / f"{RECORD}.unfinished"
    unfinished.write_text(json.dumps(record, indent=1), encoding="utf-8")
    unfinished.rename(root / RECORD)


@contextmanager
def _alone(root: Path) -> Iterator[None]:
    """Keeps a second process from fetching the same set at the same time. Folders that stay empty are removed again."""
    try:
        (root / ARCHIVES).mkdir(parents=True, exist_ok=True)
        handle = os.open(root, os.O_RDONLY)
    except OSError as error:
        raise DataError(
            f"{error.filename}: cannot be written: {error.strerror}. Choose another folder with --root."
        ) from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise DataError(f"Another process is fetching into {root}; wait for it.") from error
    finally:
        os.close(handle)
        for folder in (root / ARCHIVES, root):
            with suppress(OSError):
                folder.rmdir()
