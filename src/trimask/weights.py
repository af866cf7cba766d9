"""Files of weights and the names in them: read one, and translate the names of another library into ours, strictly.

A rename table goes from our names to the names of the source, so that it can be checked against a network without
the source at hand: no two of our names may become the same.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

# Patterns replaced one after the other in each of our names, or a function of the name. A name that becomes empty
# has no counterpart in the source (e.g. the mean and std that we keep beside the weights).
RenameTable = Sequence[tuple[str, str]] | Callable[[str], str]


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors, .pth, .pt or .bin file by name, on the CPU. Nothing in the file is executed.

    Raises:
        ValueError: no such file, another kind of file, or something else in it than tensors by name.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"There is no weights file {str(path)!r}.")
    if path.suffix not in {".safetensors", ".pth", ".pt", ".bin"}:
        raise ValueError(f"Weights are read from .safetensors, .pth, .pt or .bin files; got {str(path)!r}.")
    try:
        if path.suffix == ".safetensors":
            weights = load_file(path)
        else:
            weights = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # each reader has its own kinds of errors for a broken or unsafe file
        raise ValueError(f"{str(path)!r} cannot be read as weights: {str(error).splitlines()[0]}") from error
    return tensors_by_name(weights, repr(str(path)))


def tensors_by_name(content: Any, where: str) -> dict[str, Tensor]:
    """The content of a file, if it is tensors (or numpy arrays, which become tensors) by name.

    Raises:
        ValueError: it is something else.
    """
    if isinstance(content, Mapping) and content and all(isinstance(v, Tensor | np.ndarray) for v in content.values()):
        return {
            name: value if isinstance(value, Tensor) else torch.from_numpy(np.array(value))
            for name, value in content.items()
        }
    inside = f"a dict of {listed(content)}" if isinstance(content, Mapping) else f"a {type(content).__name__}"
    raise ValueError(f"{where} must hold tensors by name; it holds {inside}. Save the state_dict alone.")


def source_names(names: Iterable[str], table: RenameTable) -> dict[str, str]:
    """Our name -> the name in the source; names without a counterpart are left out."""
    renamed = {name: table(name) if callable(table) else _substitute(name, table) for name in names}
    return {ours: theirs for ours, theirs in renamed.items() if theirs}


def translate(source: Mapping[str, Tensor], names: Iterable[str], table: RenameTable) -> dict[str, Tensor]:
    """The tensors of `source` under our `names`. Every tensor of the source is used exactly once.

    The counters of batch norms (`num_batches_tracked`) may be missing in the source: older files have none.

    Raises:
        ValueError: a name is left over on either side, or two of ours stand for the same.
    """
    pairs = source_names(names, table)
    pairs = {ours: theirs for ours, theirs in pairs.items() if theirs in source or not is_counter(theirs)}
    require_same_names(set(pairs.values()), source.keys())
    if len(set(pairs.values())) < len(pairs):
        raise ValueError("The rename table gives the same source name to two of our weights.")
    return {ours: source[theirs] for ours, theirs in pairs.items()}


def join(weights: Mapping[str, Tensor], parts: Sequence[str], whole: str) -> dict[str, Tensor]:
    """Tensors whose names differ in one of `parts` alone, one behind the other along the first axis, under `whole`.

    `join(weights, [".query.", ".key.", ".value."], ".qkv.")` for example. Other tensors stay.

    Raises:
        ValueError: one of the parts is missing somewhere.
    """
    joined: dict[str, Tensor] = {}
    for name, value in weights.items():
        part = next((part for part in parts if part in name), None)
        if part is None:
            joined[name] = value
        elif (together := name.replace(part, whole)) not in joined:
            names = [name.replace(part, other) for other in parts]
            if missing := [other for other in names if other not in weights]:
                raise ValueError(f"The weights have {name} but not {listed(missing)}.")
            joined[together] = torch.cat([weights[other] for other in names])
    return joined


def split(weights: Mapping[str, Tensor], whole: str, parts: Sequence[str]) -> dict[str, Tensor]:
    """The inverse of `join`: tensors with `whole` in their name in equal parts along the first axis."""
    divided: dict[str, Tensor] = {}
    for name, value in weights.items():
        pieces = zip(parts, value.chunk(len(parts)), strict=True) if whole in name else [(whole, value)]
        divided.update({name.replace(whole, part): piece for part, piece in pieces})
    return divided


def is_counter(name: str) -> bool:
    """Whether it counts the batches that a batch norm has seen, which no answer depends on."""
    return name.endswith("num_batches_tracked")


def load_strictly(network: nn.Module, state: Mapping[str, Tensor], subject: str) -> None:
    """Fills a network; every name and shape must fit, see `require_match`."""
    require_match(network, state, subject)
    network.load_state_dict(state)


def require_match(network: nn.Module, state: Mapping[str, Tensor], subject: str) -> None:
    """Whether a network can be filled with these weights. The counters of batch norms may be missing.

    Raises:
        ValueError: a name or a shape does not fit; the message begins with the subject and names the first ones.
    """
    own = network.state_dict()
    missing = [name for name in own if name not in state and not is_counter(name)]
    unused = [name for name in state if name not in own]
    sizes = [
        f"size mismatch for {name}, {tuple(state[name].shape)} instead of {tuple(value.shape)}"
        for name, value in own.items()
        if name in state and state[name].shape != value.shape
    ]
    said = [f"{what} {listed(names, 3)}" for what, names in (("missing", missing), ("left over", unused)) if names]
    if sizes:
        said.append(listed(sizes, 1))
    if said:
        raise ValueError(f"{subject} does not fit {type(network).__name__}: {'; '.join(said)}.")


def require_same_names(expected: Collection[str], given: Collection[str], *, subject: str = "The weights") -> None:
    """Raises a ValueError that lists what is missing and what is left over."""
    missing, unused = sorted(set(expected) - set(given)), sorted(set(given) - set(expected))
    if missing or unused:
        raise ValueError(f"{subject} do not fit: missing {listed(missing)}; left over {listed(unused)}.")


def listed(names: Collection[str], most: int = 8) -> str:
    """Names for a message: all, or the first few and how many more."""
    shown = ", ".join(str(name) for name in list(names)[:most]) or "nothing"
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")


def _substitute(name: str, table: Sequence[tuple[str, str]]) -> str:
    for pattern, replacement in table:
        name = re.sub(pattern, replacement, name)
    return name
