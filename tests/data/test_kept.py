"""What is kept of a file: made once, shared by processes, never stale, and not needed."""

import multiprocessing
import os

import pytest

from trimask.data import kept
from trimask.data.kept import Kind, made_once
from trimask.types import DataError

KIND = Kind("lengths", ".length", "1")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(kept, "SMALL_FILE", 3)
    monkeypatch.setenv("TRIMASK_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "lengths"


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("[1, 2]")
    return path


def length(path, make=os.path.getsize, kind=KIND):
    return made_once(path, kind, make=make, load=load, save=lambda made, out: out.write(str(made).encode()))


def load(file):
    return int(file.read_text()) if file.is_file() else None


def again(source):
    pytest.fail(f"{source} is read again")


def test_it_is_made_once(cache, file):
    assert length(file) == 6
    (place,) = cache.iterdir()
    assert (place.suffix, place.read_text()) == (".length", "6")
    assert length(file, make=again) == 6
    assert length(str(file.parent / "." / file.name), make=again) == 6
    place.write_text("7")
    assert length(file, make=again) == 7


def test_nothing_is_kept_of_a_small_file(cache, file):
    file.write_text("[]")
    assert length(file) == 2
    assert not cache.exists()


def test_a_changed_file_is_read_again_and_replaces_what_was_kept(cache, file):
    length(file)
    (old,) = cache.iterdir()
    os.utime(file, ns=(1, 1))
    assert length(file) == 6
    (new,) = cache.iterdir()
    assert new != old


def test_another_version_and_another_kind_are_made_anew(cache, file):
    length(file)
    assert length(file, lambda source: 1, KIND._replace(version="2")) == 1
    assert length(file, lambda source: 2, KIND._replace(folder="others")) == 2
    assert [len(list(folder.iterdir())) for folder in (cache, cache.parent / "others")] == [1, 1]


def test_a_cache_that_cannot_be_written_is_said(cache, file):
    cache.parent.write_text("a file, not a folder")
    with pytest.warns(UserWarning, match=r"a\.json is held in memory .*cannot be written .*Set TRIMASK_CACHE"):
        assert length(file) == 6


def test_what_is_not_made_whole_is_not_kept(cache, file):
    def fail(made, out):
        out.write(b"1")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        made_once(file, KIND, make=len, load=load, save=fail)
    assert list(cache.iterdir()) == []


def test_a_file_that_is_not_there(cache, tmp_path):
    with pytest.raises(DataError, match=r"gone\.json: cannot be read"):
        length(tmp_path / "gone.json")


def test_several_processes_at_once(cache, file):
    with multiprocessing.get_context("fork").Pool(4) as pool:
        assert pool.map(length, [file] * 16, chunksize=1) == [6] * 16
    assert len(list(cache.iterdir())) == 1
