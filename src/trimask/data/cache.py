"""Decoded samples kept in memory or on disk, so that a picture is decoded once and not once an epoch.

`Cached` wraps a dataset. On disk a sample is kept under a key made of the bytes of its files and of all else that shapes it
(`fingerprint.SampleKeys`: class, arguments, class list, annotation files that samples share; the size it is kept at; the
layout of a record), in memory under the state of its files instead of their bytes. The state of the files is compared at
every access: a changed file is never answered from the cache.

Both kinds are shared by all processes that read at the same time, whether they were forked, spawned or started on their
own, and both can be killed at any moment: a sample is seen whole or not at all. What does not fit is decoded every time,
which is said once.

Own work.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import mmap
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol

import cv2
import numpy as np
import torch.distributed
from torch.utils.data import Dataset, get_worker_info

from trimask.data import record
from trimask.data.fingerprint import SampleKeys
from trimask.types import DataError, FileDataset, Sample, SegmentationDataset

log = logging.getLogger("trimask")

GB = 10**9
KEPT_FREE = 0.1, 20 * GB  # a cache leaves this share of the disk or of the memory to others, or so much if that is less
_ABANDONED = 3600.0  # seconds after which an unfinished file belongs to a process that was killed


def cache_folder() -> Path:
    """Where trimask keeps what it can make again: $TRIMASK_CACHE, else ~/.cache/trimask."""
    return Path(os.environ.get("TRIMASK_CACHE") or "~/.cache/trimask").expanduser().absolute()


class Store(Protocol):
    """Samples by key.

    `outlives_run` says whether another run will find them, so that a key must tell the contents of files.
    """

    outlives_run: bool

    def get(self, key: bytes) -> Sample | None: ...

    def put(self, key: bytes, sample: Sample) -> None: ...


class Cached(Dataset[Sample]):
    """A dataset that decodes a sample once, as long as its files do not change.

    The arrays of its samples are mapped from the store: a crop reads only what it needs, and what is kept cannot be written
    to by mistake (on disk they are copied on write, in memory they are read-only).

    Args:
        dataset: what is read.
        store: where samples are kept.
        max_side: larger pictures are kept with their longer side this long: averaged over areas, ids by nearest neighbor.

    Raises:
        DataError: a dataset of which nobody could tell when a sample changes.
    """

    def __init__(self, dataset: SegmentationDataset, store: Store, *, max_side: int | None = None) -> None:
        self.dataset, self.store, self.max_side = dataset, store, max_side
        self.classes, self.offers = dataset.classes, dataset.offers
        if isinstance(dataset, FileDataset):
            self.files = dataset.files
        elif store.outlives_run:
            raise DataError(
                f"cache: disk needs a dataset that names the files of a sample (`files(index)`), which "
                f"{type(dataset).__name__} does not; use cache: ram."
            )
        try:
            self._keys = SampleKeys(dataset)
        except TypeError as error:
            raise DataError(f"cache: {type(dataset).__name__} cannot be told from others: {error}.") from error
        self._known: dict[int, tuple[int, bytes]] = {}  # of each sample: the state of its files as a hash, the key

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Sample:
        key = self._key(index)
        if key is None:
            return self.dataset[index]
        sample = self.store.get(key)
        if sample is None:
            sample = shrink(self.dataset[index], self.max_side)
            if self._key(index) == key:  # or else a file was changed while it was read
                self.store.put(key, sample)
        return sample

    def _key(self, index: int) -> bytes | None:
        """None where a file is missing: the dataset has the better message."""
        files = self.files(index) if hasattr(self, "files") else ()
        try:
            states = tuple(_state(path) for path in files)
            if index not in self._known or self._known[index][0] != hash(states):
                contents = [_contents(path) for path in files] if self.store.outlives_run else states
                key = bytes.fromhex(self._keys.of(index, record.VERSION, self.max_side, files, contents))
                self._known[index] = hash(states), key
        except OSError:
            return None
        return self._known[index][1]


def _state(path: str) -> tuple[int, ...]:
    """Changes with every write, even with one that keeps size and time of the file."""
    state = os.stat(path)
    return state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino


def _contents(path: str) -> bytes:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).digest()


def shrink(sample: Sample, max_side: int | None) -> Sample:
    """A sample whose longer side is at most `max_side` pixels."""
    height, width = sample.size
    factor = (max_side or max(sample.size)) / max(sample.size)
    if factor >= 1:
        return sample
    size = max(round(width * factor), 1), max(round(height * factor), 1)
    channels = [sample.image[..., i : i + 4] for i in range(0, sample.image.shape[2], 4)]  # OpenCV takes four at a time
    parts = [
        cv2.resize(np.ascontiguousarray(part), size, interpolation=cv2.INTER_AREA).reshape(*size[::-1], -1)
        for part in channels
    ]
    segments = [cv2.resize(layer, size, interpolation=cv2.INTER_NEAREST_EXACT) for layer in sample.segments]
    return replace(sample, image=np.concatenate(parts, axis=2).astype(np.uint8), segments=np.stack(segments))


def _say_full(text: str) -> None:
    """Once a run: the main process, or else the first of its workers, speaks for all."""
    worker = get_worker_info()
    if worker is None or worker.id == 0:
        log.warning(text)


@contextmanager
def locked(path: str | Path) -> Iterator[BinaryIO]:
    """An existing file, opened and locked against all other processes and threads."""
    with open(path, "r+b", buffering=0) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file  # closing it unlocks it


# --- on disk ---


class DiskStore:
    """One file a sample below `cache_folder()`, shared by all runs of all data sets.

    A file is written under another name and moved to its place. What is found there torn or foreign counts as absent and is
    written again.

    Args: limit: bytes that all samples together may take; by default what the disk has room for.
        Some of the disk stays free in any case, see `KEPT_FREE`.

    Raises:
        DataError: the folder cannot be made.
    """

    outlives_run = True

    def __init__(self, limit: float | None = None) -> None:
        self.folder, self.limit = cache_folder() / "samples", limit
        self._used_file = self.folder / "used_bytes"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._used_file.touch()
        except OSError as error:
            raise DataError(
                f"cache: disk cannot write to {self.folder} ({error.strerror}); set TRIMASK_CACHE to a folder of yours."
            ) from error
        self._whole: set[bytes] = set()  # keys of records that this process has checked
        self._is_full = False

    def path(self, key: bytes) -> Path:
        return self.folder / key.hex()[:2] / f"{key.hex()}.sample"

    def get(self, key: bytes) -> Sample | None:
        try:
            file = os.open(self.path(key), os.O_RDONLY)
        except OSError:  # absent, or another user's
            return None
        try:
            sample = record.read(key, file, os.fstat(file).st_size, check=key not in self._whole)
        finally:
            os.close(file)
        if sample is not None:
            self._whole.add(key)
        return sample

    def put(self, key: bytes, sample: Sample) -> None:
        if self._is_full:
            return
        parts = record.pack(key, sample)
        place = self.path(key)
        fresh = place.with_suffix(f".{os.getpid()}.{time.monotonic_ns()}.new")
        try:
            if not self._reserve(record.length(parts)):
                self._close("is full")
                return
            place.parent.mkdir(exist_ok=True)
            with open(fresh, "wb") as file:
                record.write(parts, file.fileno())
            os.replace(fresh, place)
        except OSError as error:  # no room, no permission: a cache that cannot grow is still good to read
            with suppress(OSError):
                fresh.unlink()
            self._close(f"cannot be written to ({error.strerror})")

    def _reserve(self, size: int) -> bool:
        """Counts a new record in, unless it does not fit."""
        disk = os.statvfs(self.folder)
        if disk.f_bavail * disk.f_frsize - size < kept_free(disk.f_blocks * disk.f_frsize):
            return False
        with locked(self._used_file) as file:
            text = file.read()
            used = int(text) if text.isdigit() else None
            if used is None or not self._fits(used + size):
                used = self._measure()  # files may have been removed by hand
            fits = self._fits(used + size)
            file.seek(0)
            file.truncate()
            file.write(str(used + size if fits else used).encode())
        return fits

    def _fits(self, size: int) -> bool:
        return self.limit is None or size <= self.limit

    def _measure(self) -> int:
        """Bytes of all samples; unfinished files that nobody will finish are removed."""
        total = 0
        for path in self.folder.glob("*/*"):
            try:
                state = path.stat()
                if path.suffix == ".new" and time.time() - state.st_mtime > _ABANDONED:
                    path.unlink()
                    continue
            except FileNotFoundError:
                continue
            total += state.st_size
        return total

    def _close(self, why: str) -> None:
        self._is_full = True
        _say_full(
            f"The cache {self.folder} {why}; further pictures are decoded every time. Raise data.cache_limit, remove that "
            f"folder, or set TRIMASK_CACHE to a larger disk."
        )


# --- in memory ---


class Address(NamedTuple):
    """Where other processes of this machine find a memory file: the process that holds it, its number there, its inode."""

    process: int
    file: int
    inode: int
    limit: int


_PAGE = mmap.ALLOCATIONGRANULARITY
_NUM_SLOTS = 1 << 21  # of 32 bytes; of their pages only those exist that are in use
_TABLE = _NUM_SLOTS * 32
_ARENA = _PAGE + _TABLE  # where records begin
_MAX_PROBES = 1000


class RamStore:
    """Samples in an anonymous memory file, which the system frees when its last process ends.

    It takes no room in /dev/shm. Processes that are forked have it; spawned ones, and others of the same machine that know
    its `address`, open it through /proc. It holds a counter, a hash table of (key, place, size) and the records, each at a
    page of its own. A record is entered into the table when it is complete.

    Args: limit: bytes; by default half of the memory that is free now. Some stays free in any case, see `KEPT_FREE`.

    Raises:
        DataError: a system without memory files.
    """

    outlives_run = False

    def __init__(self, limit: float | None = None) -> None:
        if not hasattr(os, "memfd_create"):
            raise DataError("cache: ram needs Linux; use cache: disk.")
        size = int(limit) if limit is not None else free_memory()[0] // 2
        file = os.memfd_create("trimask cache", os.MFD_CLOEXEC)
        os.ftruncate(file, _ARENA + size // _PAGE * _PAGE)
        self._open(file, size)

    def _open(self, file: int, limit: int) -> None:
        self._file = os.fdopen(file, "r+b", buffering=0)  # closes it with this object
        self.limit, self._is_full = limit, False
        head = mmap.mmap(file, _ARENA)
        self._used: Any = np.frombuffer(head, np.int64, 1)
        self._table: Any = np.frombuffer(head, np.uint64, _NUM_SLOTS * 4, _PAGE).reshape(_NUM_SLOTS, 4)
        # One mapping for good: to map every sample anew costs as many page faults as to augment it takes time.
        self._all = memoryview(mmap.mmap(file, os.fstat(file).st_size, prot=mmap.PROT_READ))

    @property
    def address(self) -> Address:
        file = self._file.fileno()
        return Address(os.getpid(), file, os.fstat(file).st_ino, self.limit)

    @classmethod
    def at(cls, address: Address) -> RamStore:
        """The store that another process holds. Raises OSError where it cannot be reached."""
        store = cls.__new__(cls)
        file = os.open(f"/proc/{address.process}/fd/{address.file}", os.O_RDWR | os.O_CLOEXEC)
        if os.fstat(file).st_ino != address.inode:
            os.close(file)
            raise FileNotFoundError("the process that held the memory has ended")
        store._open(file, address.limit)
        return store

    def __reduce__(self) -> Any:
        return RamStore.at, (self.address,)

    def share(self) -> None:
        """Called by every process of a distributed run: those of one machine go on with the store of the first of them."""
        machine = Path("/proc/sys/kernel/random/boot_id").read_text(), os.stat("/proc/self/ns/pid").st_ino
        told: list[Any] = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(told, (machine, self.address))
        first = next(address for where, address in told if where == machine)
        if first.process != os.getpid():
            try:
                other = RamStore.at(first)
            except OSError as error:
                raise DataError(
                    f"cache: ram cannot be shared among the processes ({error}); use cache: disk."
                ) from error
            vars(self).update(vars(other))
        torch.distributed.barrier()  # the first must not end before the others have opened it

    def get(self, key: bytes) -> Sample | None:
        slot = self._slot(key)
        if slot is None or not self._table[slot, 3]:
            return None
        place, size = (int(number) for number in self._table[slot, 2:])
        return record.view(key, self._all[place : place + size], check=False)

    def put(self, key: bytes, sample: Sample) -> None:
        slot = self._slot(key)
        if self._is_full or (slot is not None and self._table[slot, 3]):
            return
        parts = record.pack(key, sample)
        place = None if slot is None else self._reserve(record.length(parts))
        if place is None:
            self._is_full = True
            _say_full(
                f"The cache in memory is full ({int(self._used[0]) / GB:.1f} of {self.limit / GB:.1f} GB); further pictures are "
                f"decoded every time. Raise data.cache_limit, set data.cache_max_side, or use cache: disk."
            )
            return
        record.write(parts, self._file.fileno(), place)
        with self._locked():
            slot = self._slot(key)
            if slot is not None and not self._table[slot, 3]:
                self._table[slot, 2:] = place, record.length(parts)
                self._table[slot, :2] = np.frombuffer(key, np.uint64)

    def _slot(self, key: bytes) -> int | None:
        """The row of the table that holds the key, or the free one that should; None where the table is too full."""
        low, high = np.frombuffer(key, np.uint64)
        first = int(low) % _NUM_SLOTS
        for probe in range(_MAX_PROBES):
            slot = (first + probe) % _NUM_SLOTS
            row = self._table[slot]
            if not row[3] or (row[0] == low and row[1] == high):
                return slot
        return None

    def _reserve(self, size: int) -> int | None:
        """The place of a new record in the file, or None where it does not fit."""
        size = -(-size // _PAGE) * _PAGE
        free, total = free_memory()
        if free - size < kept_free(total):
            return None
        with self._locked():
            used = int(self._used[0])
            if used + size > self.limit:
                return None
            self._used[0] = used + size
        return _ARENA + used

    def _locked(self) -> Any:
        return locked(f"/proc/self/fd/{self._file.fileno()}")


def kept_free(total: int) -> float:
    """Bytes of a disk or a memory that are left to others."""
    return min(KEPT_FREE[0] * total, KEPT_FREE[1])


def free_memory() -> tuple[int, int]:
    """Bytes that may still be taken, and all bytes there are: the machine's, or those of a control group that has fewer."""
    lines = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
    told = {line[0]: int(line[1]) * 1024 for line in lines}
    free, total = told["MemAvailable:"], told["MemTotal:"]
    for folder, names in _control_groups():
        try:
            limit = int((folder / names.limit).read_text())  # "max" where there is none
            statistics = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
            taken = int((folder / names.used).read_text()) - int(statistics[names.reclaimable])
        except (OSError, ValueError):
            continue
        free, total = min(free, max(limit - taken, 0)), min(total, limit)
    return free, total


class _Names(NamedTuple):
    limit: str
    used: str
    reclaimable: str


_VERSION_1 = _Names("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_VERSION_2 = _Names("memory.max", "memory.current", "inactive_file")


def _control_groups() -> Iterator[tuple[Path, _Names]]:
    """The folders of our control group and of those around it that may limit the memory."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, group = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        root = Path("/sys/fs/cgroup/memory" if controllers else "/sys/fs/cgroup")
        inner = root / group.lstrip("/")
        for folder in (inner, *inner.parents):
            if folder.is_relative_to(root):
                yield folder, _VERSION_1 if controllers else _VERSION_2
