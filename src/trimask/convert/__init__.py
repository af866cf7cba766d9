"""Released checkpoints of other libraries -> ours, by what a network says of its names elsewhere.

    python -m trimask.convert fcn_r50-d8_512x512_160k_ade20k.pth --network FCN --arg backbone=resnet50c --out fcn.safetensors

A network may carry `RENAMES` (source -> rename table from our names to theirs, see `trimask.weights`) and `CONVERSIONS`
(source -> function from their state_dict to one that only needs renaming). Every tensor on both sides is accounted for.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from trimask.convert.released import Released, read_released, require_same_classes
from trimask.weights import RenameTable, listed, load_strictly, source_names, translate

__all__ = ["Released", "fitting_source", "load_released", "read_released", "require_same_classes"]

AUTO = "auto"


def load_released(network: nn.Module, weights: Mapping[str, Tensor], source: str = AUTO) -> str:
    """Load the state_dict of another library's network into ours, every tensor on both sides accounted for.

    Args:
        network: a network with a class attribute `RENAMES`, and `CONVERSIONS` where names are not enough.
        weights: the other library's state_dict; the counters of its batch norms may be missing.
        source: which library; a key of `RENAMES`, or "auto" for the one whose names fit.

    Returns:
        The source.

    Raises:
        ValueError: the network knows no such source, or names or shapes do not fit.
    """
    tables, kind = _tables(network), type(network).__name__
    if source == AUTO:
        source = fitting_source(network, weights)
    if source not in tables:
        raise ValueError(f"{kind} has no rename table for {source!r}; it has one for: {listed(sorted(tables))}.")
    own = network.state_dict()
    load_strictly(network, own | _translated(network, weights, source), f"What {source!r} calls {kind}")
    return source


def fitting_source(network: nn.Module, weights: Mapping[str, Tensor]) -> str:
    """The source whose names the weights have, without anything left over.

    Raises:
        ValueError: none (the message lists what the nearest one lacks), or several that do not mean the same.
    """
    tables, kind = _tables(network), type(network).__name__
    if not tables:
        raise ValueError(f"{kind} knows no other library's names (it has no RENAMES).")
    found: dict[str, dict[str, Tensor]] = {}
    misfits: dict[str, str] = {}
    for source in tables:
        try:
            found[source] = _translated(network, weights, source)
        except ValueError as error:
            misfits[source] = str(error)
    if not found:
        nearest = min(tables, key=lambda source: _distance(network, weights, source))
        raise ValueError(f"As {kind} of {nearest!r}: {misfits[nearest]} Sources known: {listed(sorted(tables))}.")
    first, *others = found
    for other in others:
        if any(not torch.equal(value, found[other][name]) for name, value in found[first].items()):
            raise ValueError(
                f"The names fit {listed([first, *others])}, which mean different things; choose one as source."
            )
    return first


def _tables(network: nn.Module) -> dict[str, RenameTable]:
    return getattr(type(network), "RENAMES", {})


def _translated(network: nn.Module, weights: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    convert = getattr(type(network), "CONVERSIONS", {}).get(source, dict)
    return translate(convert(weights), network.state_dict(), _tables(network)[source])


def _distance(network: nn.Module, weights: Mapping[str, Tensor], source: str) -> int:
    """How many names the weights and a source do not share."""
    names = source_names(network.state_dict(), _tables(network)[source])
    return len(set(names.values()) ^ weights.keys())
