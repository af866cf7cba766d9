"""Weights that are published as differences from those of another file, e.g. EoMT's on DINOv3, which may not be passed on.

A network says with `BASES` (source -> rename table) what the tensors of such a file are called in the other one. A name that
becomes empty has no counterpart there: the difference is from 0. Source: the official EoMT's `delta_weights` (tue-mps/eomt, MIT).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from trimask.convert.released import read_released
from trimask.weights import RenameTable, listed, source_names


def with_base(
    kind: type[nn.Module], weights: Mapping[str, Tensor], base: str | Path, source: str | None = None
) -> dict[str, Tensor]:
    """The weights that the differences stand for.

    Args:
        kind: a network with `BASES`.
        weights: differences by the names of the source.
        base: the file of the other weights.
        source: key of `BASES`; None for the only one.

    Raises:
        ValueError: the network knows no such source, or the base lacks a tensor or has one of another shape.
    """
    tables: Mapping[str, RenameTable] = getattr(kind, "BASES", {})
    if source is None and len(tables) == 1:
        (source,) = tables
    if source is None or source not in tables:
        known = listed(sorted(tables))
        raise ValueError(
            f"{kind.__name__} of {source or 'any source'!r} is not published as differences; of {known} it is."
        )
    below = read_released(base).weights
    names = source_names(weights, tables[source])
    if misfits := [ours for ours, theirs in names.items() if _shape(below.get(theirs)) != weights[ours].shape]:
        raise ValueError(f"{base} has no tensor, or one of another shape, for {listed(misfits)}.")
    return {
        name: value.float() + below[names[name]].float() if name in names else value for name, value in weights.items()
    }


def _shape(value: Tensor | None) -> object:
    return None if value is None else value.shape
