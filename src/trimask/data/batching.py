"""Samples -> a batch, and its way from a worker of the loader to the process that trains. Own work.

What a batch costs beside its pictures is memory that is new at each batch and tensors that travel one by one: each takes a
file descriptor and a handshake, and a batch has two for every picture. So a worker fills one block of shared memory with
pictures and id layers, and sends everything else as plain bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import get_worker_info

from trimask.data.segments import distinct_bytes, renumber
from trimask.types import Batch, DataError, Sample

_ALIGNMENT = 64


def collate(samples: Sequence[Sample]) -> Batch:
    """Stacks samples into a batch, padded bottom-right with 0: black, and unlabelled. Segments that a crop has emptied go."""
    return _collate(samples).batch() if samples else _nothing()


def collate_in_worker(samples: Sequence[Sample]) -> Batch | Parcel:
    """`collate` for a loader: what a worker answers arrives as a `Batch`."""
    return collate(samples) if get_worker_info() is None or not samples else _collate(samples)


def _nothing() -> Batch:
    """A batch of no picture, which a process evaluates for whom none is left."""
    images, segments = torch.zeros(0, 3, 1, 1, dtype=torch.uint8), torch.zeros(0, 1, 1, 1, dtype=torch.uint8)
    return Batch(images, segments, labels=(), is_crowd=(), sizes=(), names=(), meta=())


@dataclass
class Parcel:
    """A batch as one block of memory and plain data; unpickled, it is the batch.

    Attributes:
        memory: uint8; pictures, then id layers.
        images, segments: shapes (B, K, H, W) and (B, L, H, W).
        dtype: of the id layers.
        labels, is_crowd: (N,) of each picture.
        rest: what else a `Batch` holds.
    """

    memory: Tensor
    images: tuple[int, ...]
    segments: tuple[int, ...]
    dtype: torch.dtype
    labels: list[NDArray[np.int64]]
    is_crowd: list[NDArray[np.bool_]]
    rest: dict[str, Any]

    def batch(self) -> Batch:
        images, segments = self.views()
        labels, is_crowd = (_split(arrays) for arrays in (self.labels, self.is_crowd))
        return Batch(images=images, segments=segments, labels=labels, is_crowd=is_crowd, **self.rest)

    def views(self) -> tuple[Tensor, Tensor]:
        size = prod(self.segments) * self.dtype.itemsize
        layers = self.memory[_start_of_layers(self.images) :][:size].view(self.dtype)
        return self.memory[: prod(self.images)].view(self.images), layers.view(self.segments)

    def __reduce__(self) -> Any:
        return _unpack, tuple(vars(self).values())


def _unpack(*parts: Any) -> Batch:
    return Parcel(*parts).batch()


def _split(arrays: list[NDArray[Any]]) -> tuple[Tensor, ...]:
    """One tensor a picture, all in one piece of memory."""
    return torch.from_numpy(np.concatenate(arrays)).split([len(array) for array in arrays])


def _start_of_layers(images: tuple[int, ...]) -> int:
    return -(-prod(images) // _ALIGNMENT) * _ALIGNMENT


def _collate(samples: Sequence[Sample]) -> Parcel:
    height = max(sample.size[0] for sample in samples)
    width = max(sample.size[1] for sample in samples)
    channels = {sample.image.shape[2] for sample in samples}
    if len(channels) > 1:
        names = [f"{sample.name}: {sample.image.shape[2]}" for sample in samples]
        raise DataError(f"Pictures of one batch differ in their number of channels ({', '.join(names)}).")
    kept = [_visible(sample) for sample in samples]
    layers = [_without(sample, keep) for sample, keep in zip(samples, kept, strict=True)]
    widest = max((one.dtype for one in layers), key=lambda dtype: dtype.itemsize)
    images = (len(samples), channels.pop(), height, width)
    segments = (len(samples), max(len(one) for one in layers), height, width)
    parcel = Parcel(
        memory=_memory(_start_of_layers(images) + prod(segments) * widest.itemsize),
        images=images,
        segments=segments,
        dtype=torch.from_numpy(np.empty(0, widest)).dtype,
        labels=[sample.labels[keep] for sample, keep in zip(samples, kept, strict=True)],
        is_crowd=[sample.is_crowd[keep] for sample, keep in zip(samples, kept, strict=True)],
        rest={
            "sizes": tuple(sample.size for sample in samples),
            "names": tuple(sample.name for sample in samples),
            "meta": tuple(sample.meta for sample in samples),
            "num_dropped": int(sum((~keep).sum() for keep in kept)),
        },
    )
    all_images, all_layers = (view.numpy() for view in parcel.views())
    for i, (sample, one) in enumerate(zip(samples, layers, strict=True)):
        h, w = sample.size
        cv2.split(
            np.ascontiguousarray(sample.image), list(all_images[i, :, :h, :w])
        )  # several times as fast as a transposed copy
        all_layers[i, : len(one), :h, :w] = one
    return parcel


def _memory(size: int) -> Tensor:
    """Zeros; in a worker shared from the start, as torch's own collate does, which saves a copy."""
    if get_worker_info() is None:
        return torch.zeros(size, dtype=torch.uint8)
    storage = torch.UntypedStorage._new_shared(size)
    return torch.empty(0, dtype=torch.uint8).set_(storage)


def _visible(sample: Sample) -> NDArray[np.bool_]:
    """(N,) which segments have a pixel."""
    if sample.segments.dtype != np.uint8:
        return sample.areas() > 0
    return np.isin(np.arange(1, len(sample.labels) + 1), distinct_bytes(sample.segments))


def _without(sample: Sample, keep: NDArray[np.bool_]) -> NDArray[Any]:
    """(L, H, W) ids, compact after the others are gone."""
    if keep.all():
        return sample.segments
    ids = np.append(0, np.where(keep, np.cumsum(keep), 0)).astype(sample.segments.dtype)
    return renumber(sample.segments, ids)
