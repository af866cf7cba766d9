"""Batches: padded, compact, and the same whether a worker or the process itself makes them."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from trimask.data.batching import collate, collate_in_worker
from trimask.types import DataError, Sample


def sample(size=(5, 7), channels=3, layers=1, num_segments=3, dtype=np.uint8, seed=0):
    draw = np.random.default_rng(seed)
    return Sample(
        draw.integers(0, 256, (*size, channels), dtype=np.uint8),
        draw.integers(0, num_segments + 1, (layers, *size)).astype(dtype),
        draw.integers(0, 9, num_segments),
        draw.random(num_segments) < 0.5,
        f"{seed}",
        {"seed": str(seed)},
    )


samples = st.lists(
    st.builds(
        sample,
        size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
        channels=st.just(4),
        layers=st.integers(1, 3),
        num_segments=st.integers(0, 40),
        dtype=st.sampled_from([np.uint8, np.int16, np.int32]),
        seed=st.integers(0, 99),
    ),
    min_size=1,
    max_size=4,
)


@given(samples)
def test_every_picture_is_given_back_with_its_visible_segments(given_samples):
    batch = collate(given_samples)
    height, width = (max(one.size[axis] for one in given_samples) for axis in (0, 1))
    assert batch.images.shape == (len(given_samples), 4, height, width)
    assert batch.num_dropped == sum(one.target().num_dropped for one in given_samples)
    for index, one in enumerate(given_samples):
        assert torch.equal(batch.image(index), torch.from_numpy(one.image).permute(2, 0, 1))
        expected, found = one.target(), batch.target(index)
        assert torch.equal(found.labels, expected.labels)
        assert torch.equal(found.is_crowd, expected.is_crowd)
        assert torch.equal(found.masks, expected.masks)
        assert torch.equal(found.semantic(), expected.semantic())
        h, w = one.size
        assert not batch.images[index, :, h:].any()
        assert not batch.images[index, :, :, w:].any()
        assert not batch.segments[index, :, h:].any()
        assert not batch.segments[index, :, :, w:].any()


def test_the_widest_ids_of_a_batch_are_kept():
    batch = collate([sample(dtype=np.uint8), sample(num_segments=30, dtype=np.int16, seed=1)])
    assert batch.segments.dtype == torch.int16
    assert batch.segments[1].max() > 3


def test_pictures_that_differ_in_channels_are_refused():
    with pytest.raises(DataError, match=r"number of channels \(0: 3, 1: 4\)"):
        collate([sample(), sample(channels=4, seed=1)])


def test_arrays_in_any_order_of_memory():
    one = sample((6, 8))
    turned = Sample(one.image[::-1, ::2], one.segments[:, ::-1, ::2], one.labels, one.is_crowd, "x")
    batch = collate([turned])
    np.testing.assert_array_equal(batch.images[0].permute(1, 2, 0), turned.image)
    np.testing.assert_array_equal(batch.target(0).semantic(), turned.target().semantic())


@pytest.mark.filterwarnings("error")
def test_read_only_arrays_are_neither_written_nor_warned_of():
    one = sample()
    for array in (one.image, one.segments, one.labels, one.is_crowd):
        array.flags.writeable = False
    batch = collate([one])
    batch.images.zero_()
    batch.segments.zero_()
    assert one.image.any()


class Some:
    def __init__(self, channels=3):
        self.channels = channels

    def __len__(self):
        return 6

    def __getitem__(self, index):
        return sample((5 + index, 9 - index), self.channels, 1 + index % 2, 3 * index, seed=index)


def batches(num_workers, method=None):
    return list(
        DataLoader(
            Some(),
            batch_size=3,
            num_workers=num_workers,
            collate_fn=collate_in_worker,
            multiprocessing_context=method,
        )
    )


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_a_batch_from_a_worker_is_the_same(method):
    for here, there in zip(batches(0), batches(2, method), strict=True):
        assert type(here) is type(there)
        for name in ("images", "segments"):
            assert torch.equal(getattr(here, name), getattr(there, name))
            assert getattr(here, name).dtype == getattr(there, name).dtype
            assert getattr(there, name).is_contiguous()
        for name in ("labels", "is_crowd"):
            assert all(map(torch.equal, getattr(here, name), getattr(there, name)))
        assert (here.sizes, here.names, here.meta, here.num_dropped) == (
            there.sizes,
            there.names,
            there.meta,
            there.num_dropped,
        )
        there.labels[0].add_(1)  # writable, too


def test_a_batch_from_a_worker_travels_as_one_tensor(monkeypatch):
    """Each tensor costs a file descriptor and a handshake."""
    from trimask.data import batching

    monkeypatch.setattr(batching, "get_worker_info", lambda: "a worker")
    parcel = collate_in_worker([Some()[index] for index in range(3)])
    assert parcel.memory.is_shared()
    _, parts = parcel.__reduce__()
    assert [part is parcel.memory for part in parts if isinstance(part, torch.Tensor)] == [True]


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_process_without_a_picture_gets_a_batch_of_none(num_workers):
    loader = DataLoader([sample()], batch_sampler=[[]], collate_fn=collate_in_worker, num_workers=num_workers)
    [batch] = loader
    assert len(batch) == 0
    assert (batch.targets, batch.names, batch.sizes, batch.meta) == ([], (), (), ())
    assert len(batch.to(torch.float32)) == 0
