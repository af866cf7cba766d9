"""A sample in one block of bytes: exact, mapped, and never taken for what it is not."""

import os
import tempfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimask.data import record
from trimask.types import Sample

KEY = bytes(range(16))


def sample(size=(5, 7), channels=3, layers=1, num_segments=3, dtype=np.uint8, seed=0, meta=None):
    draw = np.random.default_rng(seed)
    return Sample(
        draw.integers(0, 256, (*size, channels), dtype=np.uint8),
        draw.integers(0, num_segments + 1, (layers, *size)).astype(dtype),
        draw.integers(0, 9, num_segments),
        draw.random(num_segments) < 0.5,
        "straße/1",
        meta or {},
    )


def written(one, key=KEY, offset=0):
    file = tempfile.TemporaryFile()  # noqa: SIM115
    parts = record.pack(key, one)
    record.write(parts, file.fileno(), offset)
    return file, record.length(parts)


def assert_same(one, other):
    for name in ("image", "segments", "labels", "is_crowd"):
        before, after = getattr(one, name), getattr(other, name)
        assert (before.dtype, before.shape) == (after.dtype, after.shape)
        np.testing.assert_array_equal(before, after)
    assert (one.name, one.meta) == (other.name, other.meta)


@given(
    st.builds(
        sample,
        size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
        channels=st.integers(1, 5),
        layers=st.integers(1, 3),
        num_segments=st.integers(0, 70),
        dtype=st.sampled_from([np.uint8, np.int16, np.int32]),
        seed=st.integers(0, 99),
        meta=st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3),
    )
)
def test_round_trip(one):
    file, size = written(one, offset=4096)
    assert os.fstat(file.fileno()).st_size == 4096 + size
    assert_same(one, record.read(KEY, file.fileno(), size, 4096, check=True))


def test_arrays_that_are_not_contiguous():
    one = sample((6, 8))
    turned = Sample(
        one.image[::-1, ::2], one.segments[:, ::-1, ::2], one.labels[::-1], one.is_crowd[::-1], one.name, one.meta
    )
    file, size = written(turned)
    assert_same(turned, record.read(KEY, file.fileno(), size, check=True))


def test_whoever_writes_into_a_sample_does_not_write_into_the_record():
    one = sample()
    file, size = written(one)
    mine = record.read(KEY, file.fileno(), size, check=False)
    assert mine.image.flags.writeable
    mine.image[:] = 0
    mine.segments[:] = 0
    assert_same(one, record.read(KEY, file.fileno(), size, check=True))


@pytest.mark.filterwarnings("error:The given NumPy array is not writable")
def test_torch_takes_the_arrays_without_a_warning():
    file, size = written(sample())
    record.read(KEY, file.fileno(), size, check=False).target()


def test_a_sample_outlives_its_file():
    one = sample()
    file, size = written(one)
    mine = record.read(KEY, file.fileno(), size, check=False)
    file.close()
    assert_same(one, mine)


def damaged(how):
    file, size = written(sample((30, 40)))
    if how == "other key":
        return record.read(b"x" * 16, file.fileno(), size, check=True)
    if how == "shorter":
        file.truncate(size - 64)
        size -= 64
    elif how == "longer":
        file.truncate(size + 64)
        size += 64
    elif how == "empty":
        size = 0
    elif how == "page of zeros":
        file.seek(size - 1000)
        file.write(bytes(500))
    elif how == "foreign":
        file.seek(0)
        file.write(b"\x89PNG" * 20)
    elif how == "description":
        file.seek(60)
        file.write(b"#")
    file.flush()
    return record.read(KEY, file.fileno(), size, check=True)


@pytest.mark.parametrize("how", ["other key", "shorter", "longer", "empty", "page of zeros", "foreign", "description"])
def test_what_is_not_whole_or_not_ours_is_not_read(how):
    assert damaged(how) is None


def test_damaged_text_is_noticed_without_the_checksum_too():
    file, size = written(sample())
    file.seek(50)
    file.write(b"}}}}")
    file.flush()
    assert record.read(KEY, file.fileno(), size, check=False) is None
