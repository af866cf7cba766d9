"""Caches answer exactly what the dataset would, whatever happens to files, processes, disks and memory."""

import logging
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch.utils.data import DataLoader

from trimask.data import Folder, cache
from trimask.data.cache import Cached, DiskStore, RamStore, free_memory, locked, shrink
from trimask.types import ClassSpec, DataError, FileDataset, Sample

CLASSES = {"names": ["a", "b"]}
STORES = {"disk": DiskStore, "ram": RamStore}


@pytest.fixture(autouse=True)
def own_folder(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("TRIMASK_CACHE", str(folder))
    return folder


@pytest.fixture
def root(tmp_path):
    for index in range(6):
        write(tmp_path, index)
    return tmp_path


def write(root, index, seed=None, size=(20, 30)):
    draw = np.random.default_rng(index if seed is None else seed)
    for folder, array in (
        ("images", draw.integers(0, 256, (*size, 3), dtype=np.uint8)),
        ("masks", draw.integers(0, 2, size, dtype=np.uint8)),
    ):
        (root / folder).mkdir(exist_ok=True)
        Image.fromarray(array).save(root / folder / f"{index}.png")


class Counting(Folder):
    """Counts what is decoded."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._decoded = [0]

    def __getstate__(self):
        return {name: value for name, value in vars(self).items() if name != "_decoded"}

    def __setstate__(self, state):
        vars(self).update(state, _decoded=[0])

    @property
    def decoded(self):
        return self._decoded[0]

    def __getitem__(self, index):
        self._decoded[0] += 1
        return super().__getitem__(index)


def dataset(root, **options):
    return Counting("all", root=root, **{"classes": CLASSES, **options})


def assert_same(one, other):
    for name in ("image", "segments", "labels", "is_crowd"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    assert (one.name, one.meta) == (other.name, other.meta)


every_store = pytest.mark.parametrize("make", STORES.values(), ids=STORES)


@every_store
def test_a_picture_is_decoded_once_and_stays_the_same(root, make):
    data = dataset(root)
    cached = Cached(data, make())
    for _ in range(3):
        for index in range(6):
            assert_same(cached[index], dataset(root)[index])
    assert data.decoded == 6
    assert isinstance(cached, FileDataset)
    assert (cached.files(2), cached.classes, cached.offers, len(cached)) == (
        data.files(2),
        data.classes,
        data.offers,
        6,
    )


def test_another_run_finds_what_is_on_disk_and_not_what_was_in_memory(root):
    for make, expected in ((DiskStore, 0), (RamStore, 6)):
        first = Cached(dataset(root), make())
        [first[index] for index in range(6)]
        del first
        again = dataset(root)
        [Cached(again, make())[index] for index in range(6)]
        assert again.decoded == expected


@every_store
def test_a_changed_file_is_decoded_again(root, make):
    data = dataset(root)
    cached = Cached(data, make())
    old = cached[1]
    state = os.stat(root / "masks" / "1.png")
    write(root, 1, seed=77)
    os.utime(root / "masks" / "1.png", ns=(state.st_atime_ns, state.st_mtime_ns))  # as some copying tools leave it
    assert_same(cached[1], dataset(root)[1])
    assert (cached[1].image != old.image).any()
    assert data.decoded == 2


def test_what_is_on_disk_is_found_by_contents(root):
    cached = Cached(dataset(root), DiskStore())
    [cached[index] for index in range(6)]
    os.utime(root / "images" / "3.png", ns=(1, 1))
    write(root, 6)
    again = dataset(root)
    other = Cached(again, DiskStore())
    [other[index] for index in range(7)]
    assert again.decoded == 1, "only the new picture"


@pytest.mark.parametrize(
    "options", [{"classes": {"names": ["a", "c"]}}, {"classes": {"names": ["a", "b"], "values": {0: "b", 1: "a"}}}]
)
def test_other_arguments_give_other_samples(root, options):
    cached = Cached(dataset(root), DiskStore())
    [cached[index] for index in range(6)]
    again = dataset(root, **options)
    assert_same(Cached(again, DiskStore())[0], dataset(root, **options)[0])
    assert again.decoded == 1


def test_a_file_that_changes_while_it_is_read_is_not_kept(root):
    class Slow(Counting):
        def __getitem__(self, index):
            sample = super().__getitem__(index)
            if self.decoded == 1:
                write(root, index, seed=5)
            return sample

    data = Slow("all", root=root, classes=CLASSES)
    cached = Cached(data, DiskStore())
    cached[0]
    assert_same(cached[0], dataset(root)[0])
    assert data.decoded == 2


def test_a_missing_file_is_the_datasets_error(root):
    cached = Cached(dataset(root), DiskStore())
    (root / "masks" / "1.png").unlink()
    with pytest.raises(DataError, match=r"1\.png: cannot be read"):
        cached[1]


@every_store
def test_pictures_may_be_kept_smaller(root, make):
    write(root, 0, size=(100, 50))
    write(root, 1, size=(20, 30))
    store = make()
    small = Cached(dataset(root), store, max_side=40)
    whole = Cached(dataset(root), store)
    for _ in range(2):
        assert small[0].size == (40, 20)
        assert whole[0].size == (100, 50)
        assert_same(small[0], shrink(dataset(root)[0], 40))
        assert_same(small[1], dataset(root)[1])


def test_shrinking_averages_pictures_and_picks_ids():
    draw = np.random.default_rng(0)
    image = draw.integers(0, 256, (12, 18, 6), dtype=np.uint8)
    segments = draw.integers(0, 400, (2, 12, 18)).astype(np.int16)
    sample = Sample(image, segments, np.zeros(400, np.int64), np.zeros(400, bool), "x")
    small = shrink(sample, 6)
    mean = image.reshape(4, 3, 6, 3, 6).mean(axis=(1, 3))
    assert np.abs(small.image - mean).max() <= 0.51
    np.testing.assert_array_equal(small.segments, segments[:, 1::3, 1::3])
    assert small.segments.dtype == np.int16
    assert shrink(sample, 18) is sample
    assert shrink(sample, None) is sample
    large = Sample(image[..., :1], segments.astype(np.int32), sample.labels, sample.is_crowd, "x")
    assert shrink(large, 9).image.shape == (6, 9, 1)


def only_file(folder):
    [file] = Path(folder).glob("samples/*/*.sample")
    return file


@pytest.mark.parametrize("damage", ["truncated", "empty", "foreign", "zeros"])
def test_a_torn_or_foreign_file_is_made_anew(root, own_folder, damage):
    Cached(dataset(root), DiskStore())[0]
    file = only_file(own_folder)
    data = file.read_bytes()
    damaged = {
        "truncated": data[:-100],
        "empty": b"",
        "foreign": b"\x89PNG" + bytes(1000),
        "zeros": data[:-1000] + bytes(1000),
    }[damage]
    file.write_bytes(damaged)
    for expected in (1, 0):
        again = dataset(root)
        assert_same(Cached(again, DiskStore())[0], dataset(root)[0])
        assert again.decoded == expected
    assert file.read_bytes() == data


# --- bounds ---


@pytest.mark.parametrize("make", STORES.values(), ids=STORES)
def test_a_full_cache_says_so_once_and_goes_on(root, make, caplog, own_folder):
    data = dataset(root)
    limit = (
        20_000 if make is RamStore else 7_000
    )  # records take pages in memory; 20x30 pixels are 2,624 bytes with header
    cached = Cached(data, make(limit))
    with caplog.at_level(logging.WARNING, logger="trimask"):
        for _ in range(2):
            for index in range(6):
                assert_same(cached[index], dataset(root)[index])
    kept = 12 - data.decoded
    assert 1 <= kept <= 4
    [message] = caplog.messages
    assert "full" in message
    assert "data.cache_limit" in message
    if make is DiskStore:
        assert sum(file.stat().st_size for file in own_folder.glob("samples/*/*")) <= limit
        assert DiskStore(limit)._is_full is False, "another run looks for itself"


def test_room_that_is_made_by_hand_is_used(root, own_folder):
    full = Cached(dataset(root), DiskStore(7_000))
    [full[index] for index in range(6)]
    for file in own_folder.glob("samples/*/*.sample"):
        file.unlink()
    data = dataset(root)
    cached = Cached(data, DiskStore(7_000))
    [cached[0] for _ in range(3)]
    assert data.decoded == 1


def test_unfinished_files_are_removed_when_room_is_needed(root, own_folder):
    store = DiskStore(7_000)
    Cached(dataset(root), store)[0]
    place = only_file(own_folder)
    old, new = place.with_suffix(".1.new"), place.with_suffix(".2.new")
    for file in (old, new):
        file.write_bytes(bytes(3000))
    os.utime(old, (1, 1))
    [Cached(dataset(root), store)[index] for index in range(6)]
    assert not old.exists()
    assert new.exists(), "somebody may be writing it"


def test_the_disk_keeps_some_room(root, own_folder, monkeypatch, caplog):
    Disk = namedtuple("Disk", "f_bavail f_blocks f_frsize")
    monkeypatch.setattr(os, "statvfs", lambda path: Disk(1000, 10_000, 1024))
    data = dataset(root)
    cached = Cached(data, DiskStore())
    [cached[0] for _ in range(2)]
    assert data.decoded == 2
    assert "is full" in caplog.text


def test_memory_keeps_some_room(root, monkeypatch, caplog):
    store = RamStore(10**6)
    monkeypatch.setattr(cache, "free_memory", lambda: (10**9, 10**10))
    data = dataset(root)
    cached = Cached(data, store)
    [cached[0] for _ in range(2)]
    assert data.decoded == 2
    assert "in memory is full" in caplog.text


def test_a_disk_that_fails_is_still_read(root, monkeypatch, caplog):
    Cached(dataset(root), DiskStore())[0]

    def fail(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache.record, "write", fail)
    data = dataset(root)
    cached = Cached(data, DiskStore())
    [cached[index] for index in (0, 1, 2)]
    assert data.decoded == 2
    assert len(caplog.messages) == 1
    assert "No space left on device" in caplog.text


def test_a_folder_that_cannot_be_made(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("TRIMASK_CACHE", str(tmp_path / "file"))
    with pytest.raises(DataError, match="set TRIMASK_CACHE"):
        DiskStore()


def test_free_memory_is_part_of_all():
    free, total = free_memory()
    assert 0 < free <= total


# --- datasets without files ---


class Made:
    """Without files; a picture is its index."""

    classes, offers = ClassSpec(["a"]), frozenset({"semantic"})

    def __init__(self, length=4):
        self.length = length

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        return Sample(
            np.full((4, 5, 3), index, np.uint8),
            np.ones((1, 4, 5), np.uint8),
            np.zeros(1, np.int64),
            np.zeros(1, bool),
            f"{index}",
        )


def test_made_samples_can_be_kept_in_memory_only():
    cached = Cached(Made(), RamStore())
    assert [int(cached[index].image[0, 0, 0]) for index in (0, 3, 0)] == [0, 3, 0]
    with pytest.raises(DataError, match="cache: disk needs a dataset that names the files"):
        Cached(Made(), DiskStore())


def test_what_cannot_be_told_apart_is_refused():
    made = Made()
    with open(os.devnull) as made.file, pytest.raises(DataError, match="Made cannot be told from others"):
        Cached(made, RamStore())


# --- processes ---


class Pids:
    """Reads through the cache and says which process it was."""

    def __init__(self, cached):
        self.cached = cached

    def __len__(self):
        return len(self.cached)

    def __getitem__(self, index):
        sample = self.cached[index]
        return os.getpid(), index, int(sample.image.sum()), self.cached.dataset.decoded


def epochs(cached, method, num_epochs=2, **options):
    loader = DataLoader(
        Pids(cached), batch_size=None, num_workers=2, multiprocessing_context=method, persistent_workers=True, **options
    )
    return [[tuple(row) for row in loader] for _ in range(num_epochs)]


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
@every_store
def test_workers_share_one_cache(root, make, method):
    plain = dataset(root)
    sums = [int(plain[index].image.sum()) for index in range(6)]
    cached = Cached(dataset(root), make())
    cached[5]
    first, second = epochs(cached, method)
    assert [row[1:3] for row in first] == [row[1:3] for row in second] == list(enumerate(sums))
    assert len({row[0] for row in first}) == 2
    decoded = {row[0]: row[3] for row in second}
    assert sum(decoded.values()) - (method == "fork") * 2 == 5, "each of the others once, by one of the workers"
    main = dataset(root)
    cached.dataset = main
    assert [int(cached[index].image.sum()) for index in range(6)] == sums
    assert main.decoded == 0, "what the workers have read is there for all"


def hammer(cached, seed, queue):
    """Reads in random order while others do, and compares with the truth."""
    plain = dataset(Path(cached.dataset.pairs[0].image).parents[1])
    truth = [plain[index] for index in range(6)]
    draw = np.random.default_rng(seed)
    for _ in range(300):
        index = int(draw.integers(6))
        assert_same(cached[index], truth[index])
    queue.put(seed)


@every_store
def test_many_processes_at_once(root, make):
    context = multiprocessing.get_context("fork")
    cached, queue = Cached(dataset(root), make()), context.SimpleQueue()
    processes = [context.Process(target=hammer, args=(cached, seed, queue)) for seed in range(4)]
    [process.start() for process in processes]
    [process.join() for process in processes]
    assert [process.exitcode for process in processes] == [0] * 4


KILLED = """
import os, sys
from trimask.data import Folder
from trimask.data.cache import Cached, DiskStore
root = sys.argv[1]
print("ready", flush=True)
while True:
    cached = Cached(Folder("all", root=root, classes={"names": ["a", "b"]}), DiskStore())
    for index in range(6):
        os.truncate(cached.store.path(cached._key(index)), 0) if cached.store.path(cached._key(index)).exists() else None
        cached[index]
"""


@pytest.mark.slow
def test_a_killed_writer_leaves_nothing_that_would_be_believed(root):
    for delay in (0.05, 0.11, 0.2):
        process = subprocess.Popen([sys.executable, "-c", KILLED, str(root)], stdout=subprocess.PIPE)
        process.stdout.readline()
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        cached = Cached(dataset(root), DiskStore())
        for index in range(6):
            assert_same(cached[index], dataset(root)[index])


def test_memory_is_found_by_its_address_and_freed_with_its_last_holder():
    store = RamStore(10**6)
    store.put(b"k" * 16, Made()[3])
    other = RamStore.at(store.address)
    copy = pickle.loads(pickle.dumps(store))
    address = store.address
    assert address.inode == other.address.inode == copy.address.inode
    del store
    for one in (other, copy):
        assert int(one.get(b"k" * 16).image[0, 0, 0]) == 3
    with pytest.raises(OSError):
        RamStore.at(address)
    other.put(b"l" * 16, Made()[2])
    assert int(copy.get(b"l" * 16).image[0, 0, 0]) == 2


def test_memory_of_a_process_that_reuses_the_number_is_not_ours():
    store = RamStore(10**6)
    with pytest.raises(FileNotFoundError):
        RamStore.at(store.address._replace(inode=store.address.inode + 1))


def test_keys_that_fall_on_one_place_of_the_table():
    store = RamStore(10**6)
    keys = [(5 + cache._NUM_SLOTS * number).to_bytes(16, "little") for number in range(4)]
    for index, key in enumerate(keys):
        store.put(key, Made()[index])
    assert [int(store.get(key).image[0, 0, 0]) for key in keys] == [0, 1, 2, 3]
    assert store.get((5 + cache._NUM_SLOTS * 9).to_bytes(16, "little")) is None


def test_a_lock_excludes_threads_and_processes(tmp_path):
    import threading

    path = tmp_path / "number"
    path.write_bytes(b"0")

    def add():
        for _ in range(50):
            with locked(path) as file:
                number = int(file.read())
                file.seek(0)
                file.write(str(number + 1).encode())

    process = multiprocessing.get_context("fork").Process(target=add)
    threads = [threading.Thread(target=add) for _ in range(2)]
    process.start()
    [thread.start() for thread in threads]
    [one.join() for one in (process, *threads)]
    assert path.read_bytes() == b"150"


def take_part(rank, init, results):
    import torch.distributed

    torch.distributed.init_process_group("gloo", init_method=init, rank=rank, world_size=3)
    store = RamStore(10**6 + rank)
    store.share()
    store.put(bytes([rank]) * 16, Made()[rank])
    torch.distributed.barrier()
    found = [store.get(bytes([other]) * 16) for other in range(3)]
    results.put((rank, store.limit, [int(sample.image[0, 0, 0]) for sample in found]))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def test_the_processes_of_a_distributed_run_share_memory(tmp_path):
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    processes = [
        context.Process(target=take_part, args=(rank, f"file://{tmp_path}/init", results)) for rank in range(3)
    ]
    [process.start() for process in processes]
    [process.join() for process in processes]
    assert sorted(results.get() for _ in processes) == [(rank, 10**6, [0, 1, 2]) for rank in range(3)]


@pytest.mark.filterwarnings("error:The given NumPy array is not writable")
@every_store
def test_what_is_kept_cannot_be_written_to(root, make):
    cached = Cached(dataset(root), make())
    [cached[index] for index in range(2)]
    for name in ("image", "segments", "labels", "is_crowd"):
        array = getattr(cached[0], name)
        if array.flags.writeable:
            array[:] = 0
    assert cached[0].target().size == (20, 30)
    assert_same(cached[0], dataset(root)[0])
