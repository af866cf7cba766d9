"""Files are whole or as before, whatever happens while they are written."""

import errno
import os
import resource

import pytest
import torch
from safetensors.torch import save_file

from trimask.run.disk import DiskFull, appended, full_disk, is_full, whole_file


@pytest.fixture
def place(tmp_path):
    path = tmp_path / "folder" / "file"
    with whole_file(path) as fresh:
        fresh.write_bytes(b"before")
    return path


@pytest.fixture
def small_files():
    """No file may grow beyond 100 kB: the kernel says EFBIG."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


WRITERS = {
    "torch": lambda path: torch.save({"a": torch.zeros(100_000)}, path),
    "safetensors": lambda path: save_file({"a": torch.zeros(100_000)}, path),
    "python": lambda path: path.write_bytes(bytes(400_000)),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_a_file_that_does_not_fit_leaves_the_old_one(place, small_files, writer):
    said = r"file could not be written: .* MB are free at .*folder, so the disk is full"
    with pytest.raises(DiskFull, match=said), whole_file(place) as fresh:
        WRITERS[writer](fresh)
    assert place.read_bytes() == b"before"
    assert [entry.name for entry in place.parent.iterdir()] == ["file"]


def test_a_full_disk(place):
    (place.parent / "file.new").symlink_to("/dev/full")
    with pytest.raises(DiskFull), whole_file(place) as fresh:
        torch.save({"a": torch.zeros(3)}, fresh)
    assert place.read_bytes() == b"before"
    assert not (place.parent / "file.new").is_symlink()


def test_another_error_stays_what_it_is(place):
    with pytest.raises(TypeError, match="bytes-like"), whole_file(place) as fresh, fresh.open("wb") as file:
        file.writelines([b"half", "text"])
    assert place.read_bytes() == b"before"
    assert not (place.parent / "file.new").exists()


def test_a_row_that_does_not_fit_is_taken_back(place, small_files):
    with pytest.raises(DiskFull), appended(place), place.open("ab") as file:
        file.write(bytes(150_000))
    assert place.read_bytes() == b"before"


def test_what_is_said_of_an_error_that_a_full_disk_has_caused(tmp_path):
    error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(tmp_path / "panel.png"))
    outer = RuntimeError("while drawing")
    outer.__cause__ = error
    assert str(tmp_path / "panel.png") in full_disk(outer, tmp_path)
    assert f"{tmp_path}/a file could not be written" in full_disk(OSError(errno.EDQUOT, "quota"), tmp_path)
    assert full_disk(OSError(errno.EACCES, "no"), tmp_path) is None
    assert not is_full(RuntimeError("shapes differ"))
