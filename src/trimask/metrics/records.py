"""Metrics whose state is one record of bytes a picture: gathered exactly, whatever process saw which picture.

A record is a few integer or floating-point arrays, kept as their bytes. torchmetrics gathers one flat tensor of
bytes, and what is computed from the records of all processes, in the order of the names, is the same for any number
of them. Own work.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.distributed import gather_all_tensors

_HEADER = np.dtype(np.int64)


class PictureRecords(Metric):
    """Keeps records by the name of the picture; one that another process has seen as well, as with a padded sampler, counts once.

    The state is not part of a module's `state_dict` unless `.persistent(True)` is called (torchmetrics' rule).
    """

    full_state_update = False
    higher_is_better = True
    is_differentiable = False

    fields: ClassVar[tuple[DTypeLike, ...]]  # of the arrays of a record

    records: list[Tensor]

    def __init__(self) -> None:
        super().__init__(dist_sync_fn=_gather_bytes)
        # Flat, because torchmetrics can gather from a process that has seen no picture only if the state has one axis.
        self.add_state("records", [], dist_reduce_fx="cat")
        self._names: set[str] = set()

    def reset(self) -> None:
        super().reset()
        self._names = set()

    def keep(self, name: str, *arrays: NDArray[Any]) -> None:
        """Args: arrays: one a field, of any shape; they come back flat.

        Raises:
            ValueError: this process has kept a picture of this name.
        """
        if name in self._names:
            raise ValueError(
                f"Two pictures have the name {name!r}, and one would be counted for both; a data set names each differently."
            )
        self._names.add(name)
        parts = [name.encode(), *(np.asarray(a, kind).tobytes() for a, kind in zip(arrays, self.fields, strict=True))]
        header = np.array([len(part) for part in parts], _HEADER).tobytes()
        record = np.frombuffer(bytearray(b"".join([header, *parts])), np.uint8)
        self.records.append(torch.from_numpy(record).to(self.device))

    def kept(self) -> dict[str, list[NDArray[Any]]]:
        """The flat arrays of each picture, by name and in the order of the names; read-only views."""
        parts = self.records if isinstance(self.records, list) else [self.records]  # one tensor once it is gathered
        data = b"".join(part.cpu().numpy().tobytes() for part in parts)
        found: dict[str, list[NDArray[Any]]] = {}
        start, num_parts = 0, 1 + len(self.fields)
        while start < len(data):
            lengths = np.frombuffer(data, _HEADER, num_parts, start)
            *bounds, end = start + num_parts * _HEADER.itemsize + np.append(0, np.cumsum(lengths))
            name, *places = bounds
            found.setdefault(
                data[name : places[0]].decode(),
                [
                    np.frombuffer(data, kind, length // np.dtype(kind).itemsize, place)
                    for kind, length, place in zip(self.fields, lengths[1:], places, strict=True)
                ],
            )
            start = end
        return dict(sorted(found.items()))


def _gather_bytes(state: Tensor, group: Any = None) -> list[Tensor]:
    """torchmetrics' gather, in bytes: it lets a process that has seen nothing send an empty float tensor."""
    return gather_all_tensors(state.to(torch.uint8), group)
