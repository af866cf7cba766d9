"""Released checkpoints of other libraries -> ours, by the rename table that a network carries (`RENAMES`)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from trimask.weights import listed, translate


def load_released(network: nn.Module, weights: Mapping[str, Tensor], source: str) -> None:
    """Load the state_dict of another library's network into ours, every tensor on both sides accounted for.

    Args:
        network: a network with a class attribute `RENAMES`, and `CONVERSIONS` where names are not enough.
        weights: the other library's state_dict, `num_batches_tracked` included.
        source: which library; a key of `RENAMES`.

    Raises:
        ValueError: the network knows no such source, or names or shapes do not fit.
    """
    tables = getattr(network, "RENAMES", {})
    if source not in tables:
        kind = type(network).__name__
        raise ValueError(f"{kind} has no rename table for {source!r}; it has one for: {listed(sorted(tables))}.")
    own = network.state_dict()
    convert = getattr(network, "CONVERSIONS", {}).get(source, dict)
    try:
        network.load_state_dict(own | translate(convert(weights), own, tables[source]))
    except RuntimeError as error:  # torch lists the shapes that differ
        raise ValueError(f"The weights of {source!r} do not fit {type(network).__name__}: {error}") from error
